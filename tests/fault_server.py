"""A small real HTTP server that speaks OpenAI's API for a scripted model and breaks on purpose, by probability and seed.

What happens to a request depends on the seed, on its body and on how often that body came before: the same run breaks the same
way, whatever the order in which requests arrive. A log says what came when, and what was done about it.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from gate.endpoints.scripted import uniform
from gate.records import sha256_hex

Fault = Literal[
    "hang", "drip", "429", "429 with Retry-After", "500", "503", "truncated JSON", "cut", "wrong model", "no choices", "reset"
]
FAULTS: tuple[Fault, ...] = get_args(Fault)
"""Every way to break: `drip` sends a byte now and then and never ends, `cut` closes before the promised length is sent."""
Script = Callable[[str], str]
"""The last user message, or the prompt of a raw completion → the answer."""
Plan = Callable[[Mapping[str, Any], int], Fault | None]
"""(request body, how often that body came before) → what breaks."""


def faulty(probability: float, seed: int, kinds: tuple[Fault, ...] = FAULTS) -> Plan:
    """Break with this probability, each of `kinds` equally often."""

    def plan(body: Mapping[str, Any], before: int) -> Fault | None:
        text = json.dumps(body, sort_keys=True)
        if uniform(seed, "whether", text, before) >= probability:
            return None
        return kinds[int(uniform(seed, "how", text, before) * len(kinds))]

    return plan


def sound(_body: Mapping[str, Any], _before: int) -> Fault | None:
    """Break nothing."""
    return None


@dataclass(frozen=True)
class Seen:
    """One request to a completions path, and what was done about it."""

    at: float
    """Seconds, monotonic, when it had been read."""
    path: str
    body: Mapping[str, Any]
    headers: Mapping[str, str]
    fault: str


@dataclass
class FaultServer:
    """State of the server; its fields may be changed while it runs."""

    script: Script
    plan: Plan = sound
    models: list[dict[str, Any]] = field(default_factory=lambda: [entry("scripted")])
    version: str = "0.0.test"
    """What a server that calls itself vLLM answers at `/version`."""
    wanted_key: str = ""
    """Requests with another bearer token get 401."""
    retry_after: str = "0"
    change: Callable[[dict[str, Any]], Any] = lambda answer: answer
    """Changes a good answer's JSON before it is sent."""
    status: Callable[[Mapping[str, Any]], tuple[int, str] | None] = lambda _body: None
    """A status and a text instead of an answer."""
    most: int = 10**6
    """Requests in flight beyond which 429 is answered."""
    hold: Callable[[], bool] = lambda: False
    """While it says so, no request that nothing breaks is answered."""
    seen: list[Seen] = field(default_factory=list)
    other_paths: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)
    in_flight: int = 0
    peak: int = 0
    port: int = 0
    _before: Counter[str] = field(default_factory=Counter)

    @property
    def url(self) -> str:
        """The server's address without `/v1`."""
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, kept open from request to request."""
        try:
            while (request := await _read(reader)) is not None:
                self.in_flight += 1
                self.peak = max(self.peak, self.in_flight)
                try:
                    await self._handle(*request, writer)
                finally:
                    self.in_flight -= 1
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client has gone
        finally:
            writer.close()

    async def _handle(
        self, method: str, path: str, headers: Mapping[str, str], data: bytes, writer: asyncio.StreamWriter
    ) -> None:
        if method == "GET":
            self.other_paths.append((path, headers))
        if self.wanted_key and path.startswith("/v1") and headers.get("authorization") != f"Bearer {self.wanted_key}":
            _send(writer, 401, json.dumps({"error": {"message": f"not a key: {headers.get('authorization')}"}}))
        elif path == "/v1/models":
            _send(writer, 200, json.dumps({"object": "list", "data": self.models}))
        elif path == "/version" and any(model.get("owned_by") == "vllm" for model in self.models):
            _send(writer, 200, json.dumps({"version": self.version}))
        elif path in ("/v1/chat/completions", "/v1/completions"):
            await self._complete(path, headers, json.loads(data), writer)
        else:
            _send(writer, 404, "{}")

    async def _complete(self, path: str, headers: Mapping[str, str], body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        text = json.dumps(body, sort_keys=True)
        fault = self.plan(body, self._before[text])
        self._before[text] += 1
        if fault is None and self.in_flight > self.most:
            fault = "429"
        self.seen.append(Seen(time.monotonic(), path, body, headers, fault or ""))
        while fault is None and self.hold():
            await asyncio.sleep(0.001)
        if fault is not None:
            await self._break(fault, path, body, writer)
        elif (instead := self.status(body)) is not None:
            _send(writer, instead[0], instead[1])
        else:
            _send(writer, 200, json.dumps(self.change(self._answer(path, body))))

    def _answer(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        chat = path.endswith("chat/completions")
        question = next(m["content"] for m in reversed(body["messages"]) if m["role"] == "user") if chat else body["prompt"]
        text = self.script(question)
        said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        return {
            "id": sha256_hex(question.encode())[:12],
            "object": "chat.completion" if chat else "text_completion",
            "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", **said}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 5},
        }

    async def _break(self, fault: Fault, path: str, body: Mapping[str, Any], writer: asyncio.StreamWriter) -> None:
        answer = self._answer(path, body)
        whole = json.dumps(answer)
        match fault:
            case "429" | "500" | "503":
                _send(writer, int(fault), json.dumps({"error": {"message": "broken on purpose"}}))
            case "429 with Retry-After":
                _send(writer, 429, "{}", f"Retry-After: {self.retry_after}\r\n")
            case "truncated JSON":
                _send(writer, 200, whole[: len(whole) // 2])
            case "wrong model":
                _send(writer, 200, json.dumps({**answer, "model": "another"}))
            case "no choices":
                _send(writer, 200, json.dumps({**answer, "choices": []}))
            case "cut":
                writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(whole)}\r\n\r\n{whole[:40]}".encode())
                raise ConnectionAbortedError
            case "reset":
                sock: socket.socket = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
                raise ConnectionAbortedError
            case "hang":
                await asyncio.Event().wait()
            case "drip":
                writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {10**6}\r\n\r\n".encode())
                while True:
                    writer.write(b" ")
                    await writer.drain()
                    await asyncio.sleep(0.02)


def entry(name: str, **more: object) -> dict[str, Any]:
    """A model's entry in `/v1/models`."""
    return {"id": name, "object": "model", "owned_by": "nobody", **more}


@contextmanager
def running(server: FaultServer, port: int = 0) -> Iterator[FaultServer]:
    """Serve on a free port (or this one) of this machine, in a thread of its own, until the block ends."""
    begun = threading.Event()
    loop = asyncio.new_event_loop()
    ended = asyncio.Event()

    async def live() -> None:
        tasks: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                await server.serve(reader, writer)
            except asyncio.CancelledError:
                writer.transport.abort()  # the end of the server: what is left to send will not be read
            finally:
                tasks.discard(task)

        listener = await asyncio.start_server(connected, "127.0.0.1", port, backlog=256)
        server.port = listener.sockets[0].getsockname()[1]
        begun.set()
        await ended.wait()
        listener.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # closed sockets are let go of in the loop's next turns

    def work() -> None:
        loop.run_until_complete(live())
        loop.close()

    thread = threading.Thread(target=work, name="fault-server", daemon=True)
    thread.start()
    begun.wait()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()


async def _read(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str], bytes] | None:
    """(method, path, headers in small letters, body) of the next request; null at the connection's end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first, *lines = head.decode("latin-1").rstrip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    method, path, _ = first.split(" ")
    return method, path, headers, await reader.readexactly(int(headers.get("content-length", "0")))


def _send(writer: asyncio.StreamWriter, status: int, text: str, more: str = "") -> None:
    data = text.encode()
    head = f"HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\n{more}Content-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
