"""A lean HTTP/1.1 client: it shares the machine with the server that it measures, so it must cost little beside it.

Requests are bytes made beforehand; an answer is read by its `content-length`. One request at a time on a connection; no
redirects, no chunked answers (the guard's JSON answers have none).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle

JsonObject = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer."""

    status: int
    head: bytes
    body: bytes

    def header(self, name: str) -> str | None:
        """A header's value, or None."""
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.strip().lower() == name.encode():
                return value.strip().decode()
        return None


def post(path: str, body: JsonObject | bytes, key: str | None = None) -> bytes:
    """The bytes of a POST request with a JSON body."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    credential = f"x-api-key: {key}\r\n" if key else ""
    head = f"POST {path} HTTP/1.1\r\nhost: guard\r\n{credential}content-type: application/json\r\n"
    return f"{head}content-length: {len(data)}\r\n\r\n".encode() + data


def get(path: str, key: str | None = None) -> bytes:
    """The bytes of a GET request."""
    credential = f"x-api-key: {key}\r\n" if key else ""
    return f"GET {path} HTTP/1.1\r\nhost: guard\r\n{credential}\r\n".encode()


class Connection(asyncio.Protocol):
    """One kept connection; `ask` sends a request and waits for its answer."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._answer: asyncio.Future[Reply] | None = None
        self._transport: asyncio.Transport | None = None
        self._head: bytes | None = None
        self._length = 0

    @classmethod
    async def open(cls, host: str, port: int) -> Connection:
        """Connect; raises `OSError`."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, host, port)
        return connection

    @property
    def closed(self) -> bool:
        """Whether it can carry no further request."""
        return self._transport is None or self._transport.is_closing()

    async def ask(self, request: bytes) -> Reply:
        """Send a request; raises `ConnectionError` where the connection ends without an answer."""
        if self._transport is None or self.closed:
            raise ConnectionError("the connection is closed")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """End the connection, whatever is under way on it."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As asyncio calls it."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """As asyncio calls it."""
        self._received += data
        if self._head is None:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            self._head = bytes(self._received[:end])
            del self._received[: end + 4]
            self._length = int(Reply(0, self._head, b"").header("content-length") or 0)
        if len(self._received) >= self._length:
            reply = Reply(int(self._head[9:12]), self._head, bytes(self._received[: self._length]))
            del self._received[: self._length]
            self._head = None
            if self._answer is not None and not self._answer.done():
                self._answer.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        """As asyncio calls it."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError(f"the connection ended without an answer ({exc})"))


@dataclass
class Load:
    """What a closed loop saw: each caller sends its next request when it has its answer."""

    begun: float
    """On `time.perf_counter`, as all times."""
    ended: float = 0.0
    answered: list[tuple[float, float]] = field(default_factory=list)
    """Of every 200: when it was sent and how long it took, seconds."""
    failed: list[str] = field(default_factory=list)
    """Of everything else: the status or the error."""

    @property
    def per_second(self) -> float:
        """Answers per second."""
        return len(self.answered) / (self.ended - self.begun)

    @property
    def latencies(self) -> list[float]:
        """Seconds, in the order of the answers."""
        return [seconds for _, seconds in self.answered]


async def closed_loop(address: tuple[str, int], requests: Sequence[bytes], connections: int, stop: float | asyncio.Event) -> Load:
    """Ask the requests in turn on so many connections, for so many seconds or until an event; what has begun is finished."""
    load = Load(time.perf_counter())
    shared = cycle(requests)
    until = load.begun + stop if isinstance(stop, float) else float("inf")

    async def caller(connection: Connection) -> None:
        while time.perf_counter() < until and not (isinstance(stop, asyncio.Event) and stop.is_set()):
            if connection.closed:
                connection = await Connection.open(*address)
            sent = time.perf_counter()
            try:
                reply = await connection.ask(next(shared))
            except ConnectionError as error:
                load.failed.append(str(error))
                continue
            if reply.status == 200:
                load.answered.append((sent, time.perf_counter() - sent))
            else:
                load.failed.append(str(reply.status))
        connection.close()

    opened = [await Connection.open(*address) for _ in range(connections)]
    load.begun = time.perf_counter()
    until = load.begun + stop if isinstance(stop, float) else float("inf")
    await asyncio.gather(*map(caller, opened))
    load.ended = time.perf_counter()
    return load


def gauge(exposition: bytes, name: str) -> float:
    """The sum over labels of a series in Prometheus' text format; 0 where there is none."""
    found: Iterable[bytes] = exposition.splitlines()
    prefix = name.encode()
    return sum(float(line.rpartition(b" ")[2]) for line in found if line.startswith((prefix + b" ", prefix + b"{")))
