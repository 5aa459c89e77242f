"""Keys, tokens and rates: who gets in, who does not, and that no message repeats a secret."""

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import assume, given
from hypothesis import strategies as st

from guard_server.auth import ANONYMOUS, Gatekeeper, credential_of, new_key, parse_entries
from guard_server.errors import NotAllowedError, NotAuthenticatedError, RateLimitedError
from guard_server.settings import Settings

AUDIENCE: Final = "guard"
ISSUER: Final = "https://issuer.example"
PRIVATE: Final = ec.generate_private_key(ec.SECP256R1())
PUBLIC_PEM: Final = PRIVATE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _entry(key: str, name: str = "gateway", role: str = "screen") -> str:
    return f"{name}:{role}:{hashlib.sha256(key.encode()).hexdigest()}"


def _gatekeeper(*entries: str, rate_limit: str | None = None) -> Gatekeeper:
    return Gatekeeper(Settings(api_keys=",".join(entries), rate_limit=rate_limit))


def _private_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.fixture
def by_token(tmp_path: Path) -> Gatekeeper:
    """A gatekeeper that takes ES256 tokens alone."""
    path = tmp_path / "jwt.pem"
    path.write_bytes(PUBLIC_PEM)
    return Gatekeeper(Settings(jwt_key_file=path, jwt_audience=AUDIENCE, jwt_issuer=ISSUER))


def _claims(changes: Mapping[str, object]) -> dict[str, object]:
    now = int(time.time())
    claims: Mapping[str, object] = {
        "sub": "alice",
        "aud": AUDIENCE,
        "iss": ISSUER,
        "exp": now + 300,
        "scope": "guard:screen other",
    }
    return {name: value for name, value in {**claims, **changes}.items() if value is not None}


def _token(changes: Mapping[str, object] | None = None, key: ec.EllipticCurvePrivateKey = PRIVATE) -> str:
    return jwt.encode(_claims(changes or {}), _private_pem(key), algorithm="ES256")


def test_a_new_key_opens_with_its_own_entry_and_no_other() -> None:
    """The key printed by `guard key new` is the one that its entry lets in."""
    key, entry = new_key("gateway", "screen", "100/second")
    assert _gatekeeper(entry).identify(key).name == "gateway"
    other, _ = new_key("gateway", "screen")
    with pytest.raises(NotAuthenticatedError):
        _gatekeeper(entry).identify(other)
    assert key not in entry


def test_an_entry_says_nothing_of_its_key() -> None:
    """The configured entry holds a digest, so that its reader cannot use it as a key."""
    _, entry = new_key("gateway", "screen")
    with pytest.raises(NotAuthenticatedError):
        _gatekeeper(entry).identify(entry.split(":")[2])


def test_two_entries_of_one_name_both_work_while_a_key_is_rotated() -> None:
    """The old and the new key are the same caller, and share one rate."""
    gatekeeper = _gatekeeper(_entry("old"), _entry("new"), rate_limit="2/hour")
    old, new = gatekeeper.identify("old"), gatekeeper.identify("new")
    assert old.name == new.name == "gateway"
    gatekeeper.admit(old, "screen")
    gatekeeper.admit(new, "screen")
    with pytest.raises(RateLimitedError):
        gatekeeper.admit(old, "screen")


def test_a_key_removed_from_the_entries_opens_nothing() -> None:
    """After rotation the old key is an unknown one."""
    with pytest.raises(NotAuthenticatedError):
        _gatekeeper(_entry("new")).identify("old")


@pytest.mark.parametrize("credential", [None, "", "wrong", "kéy", "k" * 100_000, "\x00", "a.b.c"])
def test_what_is_no_key_is_refused(credential: str | None) -> None:
    """No credential, a wrong one and an absurd one are refused in the same way."""
    with pytest.raises(NotAuthenticatedError):
        _gatekeeper(_entry("right")).identify(credential)


def test_nobody_is_asked_for_a_key_where_none_is_configured() -> None:
    """Without keys the caller is anonymous, and may not administer."""
    gatekeeper = Gatekeeper(Settings())
    assert gatekeeper.identify(None) is ANONYMOUS
    gatekeeper.admit(ANONYMOUS, "screen")
    with pytest.raises(NotAllowedError):
        gatekeeper.admit(ANONYMOUS, "admin")


@pytest.mark.parametrize(("has", "wants"), [("screen", "admin"), ("admin", "screen")])
def test_a_role_opens_its_own_routes_alone(has: str, wants: str) -> None:
    """A screening key cannot administer, and an admin key is no screening key."""
    gatekeeper = _gatekeeper(_entry("k", role=has))
    caller = gatekeeper.identify("k")
    gatekeeper.admit(caller, "admin" if has == "admin" else "screen")
    with pytest.raises(NotAllowedError, match=wants):
        gatekeeper.admit(caller, "admin" if wants == "admin" else "screen")


def test_one_key_may_have_both_roles() -> None:
    """Two entries with one digest give one caller both roles."""
    caller = _gatekeeper(_entry("k"), _entry("k", role="admin")).identify("k")
    assert caller.roles == {"screen", "admin"}


def test_entries_come_from_a_file_with_comments_too(tmp_path: Path) -> None:
    """The file's entries count beside the environment's; comments and blank lines do not."""
    path = tmp_path / "keys"
    path.write_text(f"# gateway's keys\n\n{_entry('filed', 'filed')}\n")
    gatekeeper = Gatekeeper(Settings(api_keys=_entry("given"), api_keys_file=path))
    assert [gatekeeper.identify(k).name for k in ("filed", "given")] == ["filed", "gateway"]


def test_a_key_file_without_entries_is_an_error(tmp_path: Path) -> None:
    """An empty file does not quietly mean a server that refuses all, or one that refuses none."""
    path = tmp_path / "keys"
    path.write_text("# nothing yet\n")
    with pytest.raises(ValueError, match="no entry"):
        Gatekeeper(Settings(api_keys_file=path))


@pytest.mark.parametrize("content", [None, b"gateway:screen:\xff"])
def test_a_file_of_keys_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    """A file that is not there, or is no text, stops the start with its variable and its path."""
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^GUARD_API_KEYS_FILE {path}: cannot be read"):
        Gatekeeper(Settings(api_keys_file=path))


@given(st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), min_size=12, max_size=60))
def test_no_error_about_an_entry_repeats_it(secret: str) -> None:
    """A key written where an entry belongs, in whatever field, is not in the message or in what caused it."""
    assume(
        secret.lower()
        not in "api key entry expected name role sha256 rate screen admin guard new writes one 100/second 5000/hour"
    )
    digest = "0" * 64
    for entry in (
        secret,
        f"name:screen:{secret}",
        f"{secret}:screen:{digest}:x",
        f"name:{secret}:{digest}",
        f"n:screen:{digest}:{secret}",
    ):
        try:
            parse_entries(["", entry])
        except ValueError as error:
            said = f"{error} {error.__cause__ or ''}"
            assert secret not in said
            assert "entry 2" in said


@pytest.mark.parametrize("rate", ["often", "0", "1/fortnight", "-1/second"])
def test_a_rate_that_is_none_is_refused(rate: str) -> None:
    """A rate limit that cannot be read stops the start; it does not mean no limit."""
    with pytest.raises(ValueError, match="100/second"):
        Gatekeeper(Settings(rate_limit=rate))


def test_a_rate_is_per_caller_and_says_how_long_to_wait() -> None:
    """One caller over its rate does not slow another, and is told a wait of at least one second and at most the window."""
    gatekeeper = _gatekeeper(_entry("a", "a"), _entry("b", "b"), rate_limit="1/minute")
    a, b = gatekeeper.identify("a"), gatekeeper.identify("b")
    gatekeeper.admit(a, "screen")
    gatekeeper.admit(b, "screen")
    with pytest.raises(RateLimitedError) as refused:
        gatekeeper.admit(a, "screen")
    assert refused.value.retry_after is not None
    assert 1 <= refused.value.retry_after <= 60


def test_a_keys_own_rate_wins_over_the_general_one() -> None:
    """The entry's rate is the one in force for its key."""
    gatekeeper = _gatekeeper(_entry("k") + ":3/hour", rate_limit="1/hour")
    caller = gatekeeper.identify("k")
    for _ in range(3):
        gatekeeper.admit(caller, "screen")
    with pytest.raises(RateLimitedError):
        gatekeeper.admit(caller, "screen")


def test_a_good_token_gives_its_subject_and_scopes(by_token: Gatekeeper) -> None:
    """A signed token in date, for this audience, opens what its scope names."""
    caller = by_token.identify(_token())
    assert (caller.name, caller.roles) == ("jwt:alice", frozenset({"screen"}))
    assert by_token.identify(_token({"scope": "guard:admin guard:screen"})).roles == {"screen", "admin"}


@pytest.mark.parametrize("scope", [None, "", "screen", "guard:other", "guard:screenx"])
def test_a_token_without_a_scope_of_ours_may_do_nothing(by_token: Gatekeeper, scope: str | None) -> None:
    """A valid token that was not given a role of the guard opens no route."""
    with pytest.raises(NotAllowedError):
        by_token.admit(by_token.identify(_token({"scope": scope})), "screen")


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": 1},
        {"exp": None},
        {"aud": "another"},
        {"aud": None},
        {"iss": "https://other.example"},
        {"iss": None},
        {"sub": None},
        {"sub": 7},
        {"nbf": 4_000_000_000},
    ],
)
def test_a_token_with_a_wrong_claim_is_refused(by_token: Gatekeeper, changes: dict[str, object]) -> None:
    """Out of date, for another audience, of another issuer, or without a required claim: not accepted."""
    with pytest.raises(NotAuthenticatedError):
        by_token.identify(_token(changes))


def test_a_token_of_another_key_is_refused(by_token: Gatekeeper) -> None:
    """The signature must be the configured key's."""
    with pytest.raises(NotAuthenticatedError):
        by_token.identify(_token(key=ec.generate_private_key(ec.SECP256R1())))


def test_a_token_without_signature_is_refused(by_token: Gatekeeper) -> None:
    """`alg: none` does not switch the check off."""
    with pytest.raises(NotAuthenticatedError):
        by_token.identify(jwt.encode(_claims({}), "", algorithm="none"))


def test_the_public_key_used_as_a_shared_secret_is_refused(by_token: Gatekeeper) -> None:
    """A token signed by HMAC with the public key, which everybody has, is not accepted."""
    signing_input = jwt.encode(_claims({}), "x" * 32, algorithm="HS256").rpartition(".")[0]
    algorithm = jwt.get_algorithm_by_name("HS256")
    signature = jwt.utils.base64url_encode(algorithm.sign(signing_input.encode(), PUBLIC_PEM)).decode()
    with pytest.raises(NotAuthenticatedError):
        by_token.identify(f"{signing_input}.{signature}")


def test_a_shared_secret_works_where_it_is_configured(tmp_path: Path) -> None:
    """HS256 with a long secret is a choice that settings offer."""
    path = tmp_path / "secret"
    path.write_text("s" * 32 + "\n")
    gatekeeper = Gatekeeper(Settings(jwt_key_file=path, jwt_algorithm="HS256", jwt_audience=AUDIENCE, jwt_issuer=ISSUER))
    assert gatekeeper.identify(jwt.encode(_claims({}), "s" * 32, algorithm="HS256")).name == "jwt:alice"


@pytest.mark.parametrize(
    ("content", "algorithm"),
    [
        (b"garbled pem", "ES256"),
        (PUBLIC_PEM, "RS256"),
        (PUBLIC_PEM, "EdDSA"),
        (PUBLIC_PEM, "HS256"),
        (b"hunter2", "HS256"),
        (b"", "HS256"),
    ],
)
def test_a_key_that_does_not_fit_its_algorithm_stops_the_start(tmp_path: Path, content: bytes, algorithm: str) -> None:
    """A server that could accept no token, or one with a guessable secret, does not start; the message has no secret."""
    path = tmp_path / "key"
    path.write_bytes(content)
    settings = Settings.model_validate(
        {"jwt_key_file": path, "jwt_algorithm": algorithm, "jwt_audience": AUDIENCE, "jwt_issuer": ISSUER}
    )
    with pytest.raises(ValueError, match="GUARD_JWT_KEY_FILE") as refused:
        Gatekeeper(settings)
    assert not content or content.decode() not in str(refused.value)


def test_keys_and_tokens_work_side_by_side(tmp_path: Path) -> None:
    """Where both are configured, either is let in."""
    path = tmp_path / "jwt.pem"
    path.write_bytes(PUBLIC_PEM)
    gatekeeper = Gatekeeper(Settings(api_keys=_entry("k"), jwt_key_file=path, jwt_audience=AUDIENCE, jwt_issuer=ISSUER))
    assert [gatekeeper.identify(c).name for c in ("k", _token())] == ["gateway", "jwt:alice"]


@pytest.mark.parametrize(
    ("authorization", "api_key", "expected"),
    [
        ("Bearer abc", None, "abc"),
        ("bearer  abc ", None, "abc"),
        ("Basic abc", None, None),
        ("Bearer", None, None),
        ("Bearer ", None, None),
        (None, "key", "key"),
        ("Bearer abc", "key", "key"),
        ("Bearer abc", "", "abc"),
        (None, None, None),
    ],
)
def test_where_a_credential_is_read(authorization: str | None, api_key: str | None, expected: str | None) -> None:
    """`x-api-key` wins over a bearer token; another scheme is no credential."""
    assert credential_of(authorization, api_key) == expected
