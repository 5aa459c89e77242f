"""One HTTP request, done properly: a deadline over all of it, a bound on its size, and again after what may pass.

In: a client, a method, a URL and a body. Out: the body of a 200 answer, or `Failed` with the kind that a `NoResponse` gets and a
short reason that holds no key. What came whole with status 200 is never asked for again, however odd it is: asking until an
answer suits would bend the rates.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, Literal

import httpx
import stamina

Kind = Literal["timeout", "error", "unreachable", "unsupported"]
_PAUSING: Final = (429, 503)
"""Statuses by which a server asks for fewer requests."""
_AGAIN: Final = (408, 429)
_GONE: Final = (429, 502, 503, 504)
"""Statuses that say: not now. With one of them the model was not asked; a resumed run asks again."""
_UNSUPPORTED: Final = (400, 413, 422)
_LOCKED: Final = (401, 402)
_NO_MODEL: Final = re.compile(r"model_not_found|no such model|\bmodel\b.{0,400}?(does not exist|not found)", re.I | re.S)
"""How servers say with status 404 that they serve no such model: one that is listed was unloaded, and may come back."""
_MOST_BYTES: Final = 16 * 1024 * 1024
_REASON: Final = 300
_CONNECT_SECONDS: Final = 10.0


@dataclass(frozen=True)
class Patience:
    """How long and how often a request is tried."""

    seconds: float = 120.0
    """Deadline of one attempt, from connecting to the last byte."""
    attempts: int = 5
    timeouts: int = 2
    """Attempts that may run into the deadline: a server that hangs is not asked five times."""
    first_wait: float = 0.5
    longest_wait: float = 20.0
    jitter: float = 1.0
    """Back-off before attempt n + 1, seconds: first_wait × 2^(n-1) + uniform(0, jitter), at most longest_wait."""
    longest_pause: float = 60.0
    """Cap on what a Retry-After may ask for, seconds."""


class Failed(Exception):  # noqa: N818 - it becomes a record
    """A request without a usable answer."""

    def __init__(self, kind: Kind, reason: str, *, status: int = 0, again: bool = False, pause: float | None = None) -> None:
        super().__init__(reason)
        self.kind: Kind = kind
        self.reason = short(reason)
        self.status = status
        self.again = again
        """Whether trying again makes sense."""
        self.pause = pause
        """Seconds that the server asked for (Retry-After)."""

    @property
    def pushed_back(self) -> bool:
        """Whether the server asks for fewer requests."""
        return self.status in _PAUSING

    @property
    def locked(self) -> bool:
        """Whether no request at all will be answered: the key is refused, or payment is wanted."""
        return self.status in _LOCKED


def open_client(key: str, *, connections: int) -> httpx.AsyncClient:
    """A client that sends the key as bearer token, follows no redirect (the key would go along) and keeps its connections."""
    headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "taskgate"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    return httpx.AsyncClient(
        headers=headers,
        timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),
        limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        follow_redirects=False,
    )


async def fetch(
    client: httpx.AsyncClient, method: str, url: str, seconds: float, body: object = None, longest_pause: float = 60.0
) -> bytes:
    """One attempt: the body of a 200 answer. Raises `Failed` for everything else."""
    try:
        async with asyncio.timeout(seconds), client.stream(method, url, json=body) as answer:
            data = await _read(answer)
    except httpx.ConnectTimeout as error:
        raise Failed("unreachable", f"no connection within {_CONNECT_SECONDS:g} s", again=True) from error
    except (TimeoutError, httpx.TimeoutException) as error:
        raise Failed("timeout", f"no whole answer within {seconds:g} s", again=True) from error
    except httpx.TransportError as error:
        raise Failed("unreachable", _told(f"{type(error).__name__}: {error}", client), again=True) from error
    except httpx.HTTPError as error:
        raise Failed("error", _told(f"{type(error).__name__}: {error}", client)) from error
    if answer.status_code == 200:
        return data
    raise _refused(answer, _told(data.decode(errors="replace"), client), longest_pause)


async def insist(attempt: Callable[[], Awaitable[bytes]], patience: Patience) -> bytes:
    """Try until there is an answer, a failure that will not pass, or no attempt left; then raises that failure."""
    timeouts = 0

    def again(error: Exception) -> bool | float:
        nonlocal timeouts
        if not isinstance(error, Failed) or not error.again:
            return False
        timeouts += error.kind == "timeout"
        return timeouts < patience.timeouts and (True if error.pause is None else error.pause)

    # stamina's default hook would log every retry, with structlog on standard output: there the report stands.
    stamina.instrumentation.set_on_retry_hooks(())
    async for turn in stamina.retry_context(
        on=again,
        attempts=patience.attempts,
        timeout=None,
        wait_initial=patience.first_wait,
        wait_max=patience.longest_wait,
        wait_jitter=patience.jitter,
    ):
        with turn:
            return await attempt()
    raise AssertionError("stamina returns or raises")


def retry_after(value: str | None, now: datetime, cap: float) -> float | None:
    """Seconds that a Retry-After header asks for (RFC 9110, 10.2.3: number or date), 0 to `cap`; null for none or nonsense."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), cap)
    try:
        at = parsedate_to_datetime(text)
        seconds = ((at if at.tzinfo else at.replace(tzinfo=UTC)) - now).total_seconds()
    except (ValueError, OverflowError, TypeError):  # a zone of years, a date before the calendar's
        return None
    return min(max(seconds, 0.0), cap)


def without_key(text: str, key: str) -> str:
    """The text with `[key]` for the key, plain or escaped as in JSON or a literal: some servers repeat it. Before any cut."""
    if key:
        written = {key, ascii(key)[1:-1], json.dumps(key)[1:-1], json.dumps(key)[1:-1].replace("/", "\\/")}
        for form in sorted(written, key=len, reverse=True):
            text = text.replace(form, "[key]")
    return text


def short(text: str) -> str:
    """One line of bounded length, printable."""
    line = " ".join(text.split())
    clean = "".join(c if c.isprintable() else "?" for c in line)
    return clean if len(clean) <= _REASON else clean[: _REASON - 1] + "…"


async def _read(answer: httpx.Response) -> bytes:
    """The whole body; raises `Failed` beyond the bound."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in answer.aiter_bytes():
        size += len(chunk)
        if size > _MOST_BYTES:
            raise Failed("error", f"the answer is longer than {_MOST_BYTES} bytes", status=answer.status_code)
        chunks.append(chunk)
    return b"".join(chunks)


def _refused(answer: httpx.Response, said: str, longest_pause: float) -> Failed:
    """What a status other than 200 means."""
    status = answer.status_code
    kind: Kind = "error"
    if status in _GONE or (status == 404 and _NO_MODEL.search(said[: 4 * _REASON])):
        kind = "unreachable"
    elif status == 408:
        kind = "timeout"
    elif status in _UNSUPPORTED and "content_filter" not in said:
        kind = "unsupported"
    return Failed(
        kind,
        f"status {status}: {said}" if said else f"status {status}",
        status=status,
        again=status in _AGAIN or status >= 500,
        pause=retry_after(answer.headers.get("Retry-After"), datetime.now(UTC), longest_pause) if status in _PAUSING else None,
    )


def _told(text: str, client: httpx.AsyncClient) -> str:
    """What the other side said, without the key."""
    return without_key(text, client.headers.get("Authorization", "").removeprefix("Bearer "))
