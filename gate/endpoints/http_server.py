"""Which server, and what it says of itself: in: a URL and a model's name; out: address, key and stated identity.

The identity is all that the gate can know of a served model: its entry in `/v1/models`, and its base's where the entry names one
that is listed too. What changes from one request to the next or at a restart (`created`, `permission`) is no part of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx

from gate.endpoints.http_request import Failed, Patience, fetch, insist, open_client
from gate.errors import CandidateError, InfrastructureError, UsageError
from gate.records import Record, canonical_json, sha256_hex

KEY_VARIABLES: Final = ("TASKGATE_API_KEY", "OPENAI_API_KEY")
"""Where the API key is read from; the first that is set."""
_STATED: Final = ("id", "root", "parent", "owned_by", "max_model_len")
"""Fields of a model's entry that are its identity. `meta` (llama.cpp: sizes of vocabulary, context, weights) is added whole."""
_LONGEST: Final = 300
Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Address:
    """Where an OpenAI-compatible server answers."""

    origin: str
    """`scheme://host[:port]`, in small letters, without the scheme's own port."""
    prefix: str
    """Path that `/models` and `/chat/completions` follow: `/v1`, or what a proxy puts in front of it."""

    @property
    def url(self) -> str:
        """The normalised URL: the same server written another way gives the same text."""
        return self.origin + self.prefix

    @property
    def host(self) -> str:
        """`host[:port]`."""
        return self.origin.partition("://")[2]


class Identity(Record):
    """What a server states of one served model."""

    url: str
    model: str
    stated: dict[str, Any]
    """The model's entry in `/v1/models`, its lasting fields alone."""
    base: dict[str, Any]
    """The entry of the base that it names as its parent, where that is listed."""
    software: str
    """The server's own word on what runs there: `vllm 0.32.0`, else the entry's `owned_by`."""

    @property
    def digest(self) -> str:
        """SHA-256 over URL, model and what is stated. Without `software`: that is the engine, which has its own place."""
        return sha256_hex(canonical_json([self.url, self.model, self.stated, self.base]))

    def sentence(self) -> str:
        """The identity as one line for a person, of bounded length."""
        named = {name: value for name, value in self.stated.items() if name != "id"}
        return f"{self.model} at {self.url}: {canonical_json(named).decode(errors='replace')}"[:_LONGEST]


def parse_address(url: str) -> Address:
    """Normalise a server's URL; `/v1` is added where it does not end in it. Raises `UsageError`, without repeating a secret."""
    expected = "http(s)://host[:port] or http(s)://host[:port]/v1"
    try:
        found = httpx.URL(url.strip())
    except (httpx.InvalidURL, ValueError, TypeError) as error:
        raise UsageError("the candidate's URL can't be read", expected=expected) from error
    if found.userinfo or "@" in found.netloc.decode():
        raise UsageError(
            f"the URL of {found.host} has credentials in it",
            expected=expected,
            mend=f"put the key into {KEY_VARIABLES[0]}: a URL ends up in reports",
        )
    if found.scheme not in ("http", "https") or not found.host or found.query or found.fragment:
        raise UsageError(
            "the candidate's URL is not a server's address",
            expected=expected,
            found=f"scheme {found.scheme!r}, host {found.host!r}"
            + (", a query or fragment" if found.query or found.fragment else ""),
        )
    prefix = re.sub(r"/+$", "", found.path)
    port = "" if found.port in (None, {"http": 80, "https": 443}[found.scheme]) else f":{found.port}"
    host = f"[{found.host}]" if ":" in found.host else found.host
    return Address(origin=f"{found.scheme}://{host}{port}".lower(), prefix=prefix if prefix.endswith("/v1") else f"{prefix}/v1")


def api_key() -> str:
    """The key from the environment; empty where none is set. Raises `UsageError` for one that no header can hold."""
    name = next((name for name in KEY_VARIABLES if os.environ.get(name, "").strip()), "")
    key = os.environ.get(name, "").strip() if name else ""
    if not key.isascii() or any(not c.isprintable() or c.isspace() for c in key):
        raise UsageError(f"{name} holds no usable key", expected="printable ASCII without spaces", mend="set it again")
    return key


def ask_identity(address: Address, model: str, *, patience: Patience | None = None) -> Identity:
    """Ask the server what it serves. May not be called from a running event loop.

    Raises `CandidateError` where the server does not serve `model` or is no OpenAI-compatible one, `InfrastructureError` where it
    can't be reached.
    """
    return asyncio.run(_identity(address, model, api_key(), patience or Patience(seconds=30.0)))


async def _identity(address: Address, model: str, key: str, patience: Patience) -> Identity:
    async with open_client(key, connections=1) as client:
        try:
            listed = _listing(await insist(lambda: fetch(client, "GET", f"{address.url}/models", patience.seconds), patience))
        except Failed as failed:
            raise _not_listed(address, failed) from failed
        entry = _entry(address, listed, model)
        parent = entry.get("parent")
        base = next((e for e in listed if e["id"] == parent), {}) if parent else {}
        return Identity(
            url=address.url,
            model=model,
            stated=_lasting(entry),
            base=_lasting(base),
            software=await _software(address, entry, patience),
        )


def _listing(body: bytes) -> list[dict[str, Any]]:
    """The entries of a `/v1/models` answer that have a name. Raises `Failed` for anything else."""
    try:
        data = json.loads(body)["data"]
        return [entry for entry in data if isinstance(entry["id"], str)]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Failed("error", "what /models answers is not OpenAI's list of models") from error


def _entry(address: Address, listed: list[dict[str, Any]], model: str) -> dict[str, Any]:
    found = [entry for entry in listed if entry["id"] == model]
    if len(found) == 1:
        return found[0]
    names = sorted({str(entry["id"]) for entry in listed})
    shown = ", ".join(ascii(name)[1:-1][:80] for name in names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    raise CandidateError(
        f"{address.url} serves {'no model' if not found else 'more than one model'} of the name {model!r}",
        expected="--model with the name of a served model",
        found=f"served there: {shown or 'none'}",
        mend="give one of these as --model",
    )


def _lasting(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an entry that stay the same while the same model is served."""
    meta = entry.get("meta")
    kept = {name: entry[name] for name in _STATED if isinstance(entry.get(name), Scalar) and entry.get(name) is not None}
    sizes = {k: v for k, v in meta.items() if isinstance(v, Scalar)} if isinstance(meta, dict) else {}
    return {**kept, **({"meta": sizes} if sizes else {})}


async def _software(address: Address, entry: Mapping[str, Any], patience: Patience) -> str:
    """`owned_by`, with vLLM's version behind it. The key is not sent: `/version` stands outside of OpenAI's part of the server.

    A failure is an `InfrastructureError`, not a missing version: the version is in every answer's key.
    """
    owner = str(entry.get("owned_by") or "unstated")[:80]
    if owner != "vllm":
        return owner
    root = address.origin + address.prefix.removesuffix("/v1")
    async with open_client("", connections=1) as client:
        try:
            body = await insist(lambda: fetch(client, "GET", f"{root}/version", patience.seconds), patience)
            version = json.loads(body)["version"]
        except Failed as failed:
            if failed.kind in ("timeout", "unreachable"):
                raise _not_listed(address, failed) from failed
            return owner  # a proxy that lets only /v1 through
        except (ValueError, TypeError, KeyError, RecursionError):
            return owner
    return f"{owner} {str(version)[:80]}"


def _not_listed(address: Address, failed: Failed) -> CandidateError | InfrastructureError:
    """What a failed question for the list of models means."""
    if failed.kind in ("timeout", "unreachable"):
        return InfrastructureError(
            f"{address.url} can't be asked which models it serves",
            expected="an OpenAI-compatible server that answers GET /models",
            found=failed.reason,
            mend="start the server, or wait until it is back; the same command resumes",
        )
    mend = f"set {KEY_VARIABLES[0]} to a valid key" if failed.status in (401, 403) else "check the URL"
    return CandidateError(
        f"{address.url} does not say which models it serves",
        expected="an OpenAI-compatible server that answers GET /models",
        found=failed.reason,
        mend=mend,
    )
