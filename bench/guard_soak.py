"""Ten minutes of everything at once: whether the server keeps its memory, threads and file descriptors.

    python -m bench.guard_soak [--bundle DIR] [--seconds 600]

Short texts, long ones of 6,000 characters, streams, faulty requests, and callers that disconnect within a body or before an
answer. A fifth of the time is warm-up. Memory, threads and descriptors are read at rest (all callers gone, the queue empty) after
the warm-up and at the end. Aim: memory within 5 %, threads and descriptors the same, no answer 500.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from random import Random

import httpx

from bench.guard_client import Connection, gauge, get, post
from bench.guard_process import GuardProcess, Usage
from bench.guard_report import Row, loaded, options, progress, published
from guard_server.training.material.documents import FILLER_KINDS, filler

WARM_UP = 0.2
LONG = 6_000
"""Characters that one worker reads within the deadline beside the other callers: a text that is given up would show less."""
LATE = {"overloaded", "deadline_exceeded"}
"""Kinds of error with which a server answers that has too much to do, and that say nothing of its health."""
REST_SECONDS = 30.0
STEADY = 0.05
"""Share by which memory may differ."""
FAULTY = (
    post("/v1/screen", b'{"texts": '),
    post("/v1/screen", b'{"texts": "a", "nonsense": 1}'),
    post("/v1/screen", b"[]"),
    post("/v1/screen", {"texts": "a", "policy": "none-such"}),
    post("/v1/screen", {"texts": "a" * 150_000}),
    post("/v1/screen", {"texts": "a" * 2_100_000}),
    post("/v1/moderations", {"input": []}),
    post("/v1/screen/stream", b'{"direction": "sideways"}\n'),
    get("/none-such"),
    get("/v1/screen"),
)
"""Each is answered 4xx."""
Address = tuple[str, int]
Caller = Callable[[Address, Random, Counter[str]], Awaitable[None]]


def text_of(random: Random, characters: int) -> str:
    """Harmless filler of a random kind."""
    return filler(random.choice(FILLER_KINDS), characters, random)


async def ask(address: Address, requests: Sequence[bytes], what: str, seen: Counter[str]) -> None:
    """Ask on a connection of its own."""
    connection = await Connection.open(*address)
    for request in requests:
        if connection.closed:  # after an answer to a body that it did not want to read
            connection = await Connection.open(*address)
        with suppress(ConnectionError):
            reply = await connection.ask(request)
            seen[f"{what}: {reply.status}"] += 1
    connection.close()


async def short(address: Address, random: Random, seen: Counter[str]) -> None:
    """Twenty short prompts or answers."""
    bodies = [{"texts": text_of(random, random.randint(20, 400)), "direction": random.choice(("prompt", "response"))}]
    await ask(address, [post("/v1/screen", body) for body in bodies * 20], "short", seen)


async def long(address: Address, random: Random, seen: Counter[str]) -> None:
    """One long text."""
    await ask(address, [post("/v1/screen", {"texts": text_of(random, LONG)})], "long", seen)


async def faulty(address: Address, random: Random, seen: Counter[str]) -> None:
    """Every faulty request."""
    await ask(address, random.sample(FAULTY, len(FAULTY)), "faulty", seen)
    await asyncio.sleep(0.2)


async def stream(address: Address, random: Random, seen: Counter[str]) -> None:
    """One stream of 3,000 characters in small pieces."""
    text = text_of(random, 3000)

    async def lines() -> AsyncIterator[bytes]:
        yield b'{"direction": "response"}\n'
        for start in range(0, len(text), 200):
            yield json.dumps({"text": text[start : start + 200]}).encode() + b"\n"
            await asyncio.sleep(0.005)

    async with httpx.AsyncClient(timeout=60) as client:
        reply = await client.post(f"http://{address[0]}:{address[1]}/v1/screen/stream", content=lines())
    last = json.loads(reply.text.splitlines()[-1])
    seen[f"stream: {last['error']['type'] if 'error' in last else last['event']}"] += 1


async def gone(address: Address, random: Random, seen: Counter[str]) -> None:
    """A caller who leaves: within the body, or before the answer to a long text."""
    request = post("/v1/screen", {"texts": text_of(random, LONG)})
    kept = len(request) // 2 if random.random() < 0.5 else len(request)
    _, writer = await asyncio.open_connection(*address)
    writer.write(request[:kept])
    await writer.drain()
    await asyncio.sleep(random.uniform(0, 0.2))
    writer.transport.abort()
    seen["gone"] += 1
    await asyncio.sleep(0.3)


CALLERS: dict[str, Caller] = {"short": short, "long": long, "stream": stream, "faulty": faulty, "gone": gone}


async def mixed(address: Address, seconds: float, seed: int, seen: Counter[str], memory: Callable[[], None]) -> None:
    """All kinds of callers beside each other for so long; what has begun is finished."""
    until = time.monotonic() + seconds

    async def caller(one: Caller, random: Random) -> None:
        while time.monotonic() < until:
            await one(address, random, seen)

    async def watch() -> None:
        while time.monotonic() < until:
            memory()
            await asyncio.sleep(1)

    await asyncio.gather(watch(), *(caller(one, Random(f"{seed} {name}")) for name, one in CALLERS.items()))


async def at_rest(server: GuardProcess) -> Usage:
    """What the server uses when nothing is under way; raises `TimeoutError` where it does not come to rest."""
    async with asyncio.timeout(REST_SECONDS):
        while True:
            connection = await Connection.open(server.host, server.port)
            exposition = (await connection.ask(get("/metrics"))).body
            connection.close()
            await asyncio.sleep(1.0)
            if not gauge(exposition, "guard_requests_in_flight") and not gauge(exposition, "guard_queue_segments"):
                return server.usage()


def rows_of(warm: Usage, end: Usage, memory: Sequence[int], seen: Counter[str], seconds: float) -> dict[str, object]:
    """The measurement as figure and value."""
    change = end.rss / warm.rss - 1
    expected = {f"stream: {last}" for last in ("end", "blocked", *LATE)}
    unexpected = {w: n for w, n in seen.items() if w.endswith(": 500") or (w.startswith("stream: ") and w not in expected)}
    return {
        "seconds (of these warm-up)": f"{seconds:.0f} ({WARM_UP * seconds:.0f})",
        "requests": sum(seen.values()),
        "by kind and answer": "; ".join(f"{what} × {n}" for what, n in sorted(seen.items())),
        "answers 500, streams ended by an error that is not for want of time": unexpected or 0,
        "memory at rest after the warm-up / at the end, MB": f"{warm.rss / 1e6:.1f} / {end.rss / 1e6:.1f} ({change:+.1%})",
        "most memory, MB": f"{max(memory) / 1e6:.1f}",
        f"within {STEADY:.0%}": "yes" if abs(change) <= STEADY else "no",
        "threads": f"{warm.threads} / {end.threads}",
        "file descriptors": f"{warm.files} / {end.files}",
    }


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Measure and write; gives the table's rows."""
    arguments = options(__doc__, seconds=600.0, meaning="seconds in all").parse_args(argv)
    seconds = 2.5 if arguments.quick else arguments.seconds
    bundle, seen, memory = loaded(arguments.bundle), Counter[str](), list[int]()
    with GuardProcess(arguments.bundle, workers=arguments.workers) as server, progress() as bar:
        address = (server.host, server.port)
        task = bar.add_task(f"soak for {seconds:g} s", total=seconds)

        def note() -> None:
            memory.append(server.usage().rss)
            bar.advance(task)

        asyncio.run(mixed(address, WARM_UP * seconds, 0, seen, note))
        warm = asyncio.run(at_rest(server))
        asyncio.run(mixed(address, (1 - WARM_UP) * seconds, 1, seen, note))
        end = asyncio.run(at_rest(server))
    rows = [{"figure": figure, "value": value} for figure, value in rows_of(warm, end, memory, seen, seconds).items()]
    published("guard_soak", arguments, bundle, rows, seconds=seconds, memory=memory)
    return list(rows)


if __name__ == "__main__":
    main()
