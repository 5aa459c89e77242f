"""Who asks, and may they: API keys kept as digests, optional JWTs, rate limits per key.

A key entry is `name:role:sha256` or `name:role:sha256:rate`, e.g. `gateway:screen:9f86...:100/second`; roles are `screen` and
`admin`. Several entries may share a name: that is how a key is rotated. In: the request's credentials. Out: a `Caller`, or
`NotAuthenticatedError`, `NotAllowedError`, `RateLimitedError`.
"""

import hashlib
import hmac
import math
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from guard_server.errors import NotAllowedError, NotAuthenticatedError, RateLimitedError
from guard_server.settings import Settings

Role = Literal["screen", "admin"]
ENTRY = re.compile(r"^(?P<name>[A-Za-z0-9_.-]{1,64}):(?P<role>screen|admin):(?P<sha256>[0-9a-f]{64})(?::(?P<rate>[^:,]+))?$")


@dataclass(frozen=True, slots=True)
class Key:
    """One configured key: never the key itself."""

    name: str
    role: Role
    sha256: str
    rate: RateLimitItem | None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks."""

    name: str
    roles: frozenset[Role]
    rate: RateLimitItem | None = None


ANONYMOUS = Caller("anonymous", frozenset({"screen"}))
"""The caller where no key is configured: may screen, never administer."""


def new_key(name: str, role: Role, rate: str | None = None) -> tuple[str, str]:
    """A fresh key (256 random bits) and the entry to configure; the key can't be computed from the entry."""
    key = f"tg-{secrets.token_urlsafe(32)}"
    entry = ":".join([name, role, hashlib.sha256(key.encode()).hexdigest(), *([rate] if rate else [])])
    parse_entries([entry])
    return key, entry


def parse_entries(lines: Iterable[str]) -> tuple[Key, ...]:
    """Entries to keys; blank lines and `#` comments are skipped. `ValueError` names the entry's number, never its content."""
    keys = []
    for number, line in enumerate(lines, 1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        if (found := ENTRY.match(entry)) is None:
            msg = (
                f"API key entry {number}: expected name:role:sha256[:rate], the name of at most 64 letters, digits and . _ -, "
                "the role screen or admin, the digest in lower case (`guard key new` writes one)"
            )
            raise ValueError(msg)
        role: Role = "admin" if found["role"] == "admin" else "screen"
        keys.append(Key(found["name"], role, found["sha256"], _rate(found["rate"], f"API key entry {number}")))
    return tuple(keys)


def _rate(text: str | None, where: str) -> RateLimitItem | None:
    if text is None:
        return None
    try:
        return parse(text)
    except ValueError:
        # Neither the text nor the cause, which repeats it: a key may have been written where its rate belongs.
        msg = f"{where}: expected a rate like 100/second or 5000/hour"
        raise ValueError(msg) from None


@dataclass(frozen=True, slots=True)
class Credentials:
    """What is configured: the keys, and the key that tokens are checked with."""

    keys: tuple[Key, ...]
    jwt_key: str | None = field(repr=False)


def read_credentials(settings: Settings) -> Credentials:
    """Read the settings' files as they are now; raises `ValueError`, which repeats no entry."""
    entries = settings.api_keys.split(",") if settings.api_keys else []
    if settings.api_keys_file is not None:
        entries += _read(settings.api_keys_file, "GUARD_API_KEYS_FILE").splitlines()
    keys = parse_entries(entries)
    if (settings.api_keys or settings.api_keys_file) and not keys:
        msg = "API keys are configured, but there is no entry, so every request would be refused: add one (`guard key new`)"
        raise ValueError(msg)
    return Credentials(keys, _jwt_key(settings))


class Gatekeeper:
    """Checks credentials and rates; holds the counters of the rate limits, in memory of this process."""

    def __init__(self, settings: Settings) -> None:
        """Raises as `read_credentials`."""
        self._settings = settings
        self._known = read_credentials(settings)
        self._rate = _rate(settings.rate_limit, "GUARD_RATE_LIMIT")
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def renew(self, known: Credentials) -> None:
        """Let in who is known now; the counters of the rates go on."""
        self._known = known

    def identify(self, credential: str | None) -> Caller:
        """The caller of a credential (an API key or a JWT); anonymous only where nothing is configured."""
        if not self._known.keys and self._known.jwt_key is None:
            return ANONYMOUS
        if credential is None:
            raise NotAuthenticatedError("no key: send it as `Authorization: Bearer KEY` or `x-api-key: KEY`")
        caller = self._by_key(credential)
        if caller is None and self._known.jwt_key is not None:
            caller = self._by_token(credential, self._known.jwt_key)
        if caller is None:
            raise NotAuthenticatedError("unknown key")
        return caller

    def admit(self, caller: Caller, role: Role) -> None:
        """Let the caller through, or raise: `NotAllowedError`, `RateLimitedError` with the seconds to wait."""
        if role not in caller.roles:
            raise NotAllowedError(f"{caller.name} may not do this: it needs a key with the role {role}")
        rate = caller.rate or self._rate
        if rate is not None and not self._limiter.hit(rate, caller.name):
            reset = self._limiter.get_window_stats(rate, caller.name).reset_time
            wait = max(1.0, math.ceil(reset - time.time()))
            raise RateLimitedError(f"{caller.name} is limited to {rate}", retry_after=wait)

    def _by_key(self, credential: str) -> Caller | None:
        digest = hashlib.sha256(credential.encode()).hexdigest()
        # Every entry is compared, and in constant time, so that the time taken says nothing about how near a guess came.
        matching = [key for key in self._known.keys if hmac.compare_digest(key.sha256, digest)]
        if not matching:
            return None
        return Caller(matching[0].name, frozenset(key.role for key in matching), matching[0].rate)

    def _by_token(self, credential: str, key: str) -> Caller | None:
        try:
            claims = jwt.decode(
                credential,
                key,
                algorithms=[self._settings.jwt_algorithm],
                audience=self._settings.jwt_audience,
                issuer=self._settings.jwt_issuer,
                options={"require": ["exp", "aud", "iss", "sub"]},
            )
        except jwt.PyJWTError as error:
            raise NotAuthenticatedError(f"the token was refused: {error}") from error
        scopes = str(claims.get("scope", "")).split()
        return Caller(f"jwt:{claims['sub']}", frozenset(role for role in get_args(Role) if f"guard:{role}" in scopes))


def _read(path: Path, setting: str) -> str:
    """The text of the file that a setting names; the error tells neither its bytes nor its lines."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise ValueError(f"{setting} {path}: cannot be read ({reason}); check the path, and that this user may read it") from None


def _jwt_key(settings: Settings) -> str | None:
    """The key that tokens are checked with; one that does not fit its algorithm is an error now, not at the first token."""
    if settings.jwt_key_file is None:
        return None
    key = _read(settings.jwt_key_file, "GUARD_JWT_KEY_FILE").strip()
    try:
        jwt.get_algorithm_by_name(settings.jwt_algorithm).prepare_key(key)
        fits = settings.jwt_algorithm != "HS256" or len(key.encode()) >= 32
    except (jwt.PyJWTError, ValueError, TypeError, UnsupportedAlgorithm):
        fits = False
    if not fits:
        msg = (
            f"GUARD_JWT_KEY_FILE {settings.jwt_key_file}: not a key for {settings.jwt_algorithm} "
            "(a PEM public key; for HS256 a secret of 32 bytes or more)"
        )
        raise ValueError(msg)
    return key


def credential_of(authorization: str | None, api_key: str | None) -> str | None:
    """The credential in a request's headers: `x-api-key`, else a bearer token."""
    if api_key:
        return api_key
    scheme, _, value = (authorization or "").partition(" ")
    return value.strip() or None if scheme.lower() == "bearer" else None
