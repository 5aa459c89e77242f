"""What happens far beyond capacity: requests come on a schedule, whether or not the earlier ones have been answered.

    python -m bench.guard_overload [--bundle DIR] [--seconds 60] [--factor 6]

Texts of 512 tokens. Capacity is measured first (closed loop); then arrivals are drawn at `factor` times that rate, each on a free
connection or a new one, and latency counts from the moment that the schedule names. Reported: the rate that was really offered;
how many were accepted (200), how soon they were answered, how many were shed (503 with Retry-After); that nothing was lost; the
queue, memory, and how soon the guard answers as before.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from bench.guard_client import Connection, closed_loop, gauge, get, post
from bench.guard_process import GuardProcess
from bench.guard_report import Row, loaded, options, percentile, progress, published, texts_of
from guard_server.classifier import OnnxTokenizer

TOKENS = 512
TEXTS = 64
CLOSED = 2
"""Connections for each worker in the closed loop that measures capacity: no worker waits. Texts in flight share the workers
segment by segment, so many more of them would all be unfinished when the time is over."""
RECOVERED = 2.0
"""Times the median before: answered as soon again."""
ALLOWANCE_SECONDS = 0.01
"""Beside it: a median of few milliseconds doubles by chance."""
PATIENCE_SECONDS = 60.0
IDLE_SECONDS = 2.0
"""The server closes a connection that has been idle for 5 s; a request that meets this on its way would count as lost."""


@dataclass
class Storm:
    """What the open loop saw."""

    begun: float = 0.0
    sent: int = 0
    ended: float = 0.0
    """Of the schedule."""
    outcomes: Counter[str] = field(default_factory=Counter)
    accepted: list[float] = field(default_factory=list)
    """Seconds from the scheduled moment to the answer 200."""
    shed: list[float] = field(default_factory=list)
    """The same to a 503."""
    late: list[float] = field(default_factory=list)
    """How long after its moment a request was sent."""
    queue_tokens: list[float] = field(default_factory=list)
    in_flight: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    probe: list[float] = field(default_factory=list)
    """Seconds that /metrics took under the load."""
    recovery: float = float("nan")

    @property
    def offered(self) -> float:
        """Requests sent per second."""
        return self.sent / (self.ended - self.begun)


class Generator:
    """Sends a request at its moment on a connection that is free; opens one where none is."""

    def __init__(self, address: tuple[str, int], requests: Sequence[bytes], storm: Storm) -> None:
        self._address, self._requests, self._storm = address, requests, storm
        self._free: list[tuple[Connection, float]] = []
        """With the moment since when each is free."""
        self._under_way: set[asyncio.Task[None]] = set()

    async def run(self, rate: float, seconds: float, random: Random) -> None:
        """Follow a schedule of random gaps, then wait for every answer that is still due."""
        storm = self._storm
        storm.begun = due = time.perf_counter()
        while due < storm.begun + seconds:
            if (ahead := due - time.perf_counter()) > 0:
                await asyncio.sleep(ahead)
            elif storm.sent % 16 == 0:
                await asyncio.sleep(0)  # late, but answers are read all the same
            task = asyncio.create_task(self._one(due, self._requests[storm.sent % len(self._requests)]))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            storm.sent += 1
            due += random.expovariate(rate)
        storm.ended = time.perf_counter()

    async def finish(self) -> None:
        """Wait for what is under way; what has no answer after `PATIENCE_SECONDS` is lost."""
        if self._under_way:
            _, pending = await asyncio.wait(self._under_way, timeout=PATIENCE_SECONDS)
            for task in pending:
                task.cancel()
                self._storm.outcomes["lost: no answer"] += 1
        for connection, _ in self._free:
            connection.close()

    async def _one(self, due: float, request: bytes) -> None:
        storm = self._storm
        try:
            connection = await self._connection()
            storm.late.append(time.perf_counter() - due)
            reply = await connection.ask(request)
        except OSError as error:
            storm.outcomes[f"lost: {type(error).__name__}"] += 1
            return
        took = time.perf_counter() - due
        if not connection.closed:
            self._free.append((connection, time.perf_counter()))
        if reply.status == 200:
            storm.outcomes["200"] += 1
            storm.accepted.append(took)
        elif reply.status == 503 and reply.header("retry-after"):
            storm.outcomes["503 with Retry-After"] += 1
            storm.shed.append(took)
        else:
            storm.outcomes[str(reply.status)] += 1

    async def _connection(self) -> Connection:
        """The one that was used last, or a new one where that may be about to be closed for having been idle."""
        while self._free:
            connection, since = self._free.pop()
            if not connection.closed and time.perf_counter() - since < IDLE_SECONDS:
                return connection
            connection.close()
        return await Connection.open(*self._address)


async def watch(server: GuardProcess, storm: Storm, stop: asyncio.Event) -> None:
    """Read memory, queue and permits twice a second until told to stop."""
    connection = await Connection.open(server.host, server.port)
    while not stop.is_set():
        began = time.perf_counter()
        reply = await connection.ask(get("/metrics"))
        storm.probe.append(time.perf_counter() - began)
        storm.queue_tokens.append(gauge(reply.body, "guard_queue_tokens"))
        storm.in_flight.append(gauge(reply.body, "guard_requests_in_flight"))
        storm.memory.append(server.usage().rss)
        await asyncio.sleep(0.5)
    connection.close()


async def recovery(server: GuardProcess, request: bytes, median: float) -> float:
    """Seconds until one request alone is answered within about `RECOVERED` times the median before the storm."""
    began = time.perf_counter()
    connection = await Connection.open(server.host, server.port)
    while (sent := time.perf_counter()) < began + PATIENCE_SECONDS:
        reply = await connection.ask(request)
        if reply.status == 200 and time.perf_counter() - sent <= RECOVERED * median + ALLOWANCE_SECONDS:
            connection.close()
            return sent - began
        await asyncio.sleep(0.05)
    return float("inf")


async def measure(
    server: GuardProcess, requests: Sequence[bytes], seconds: float, factor: float, workers: int
) -> dict[str, object]:
    """Capacity, storm, recovery; the table's one row and what else the JSON keeps."""
    address, storm, stop = (server.host, server.port), Storm(), asyncio.Event()
    alone = await closed_loop(address, requests, 1, max(0.5, seconds / 12))
    capacity = (await closed_loop(address, requests, CLOSED * workers, max(0.5, seconds / 3))).per_second
    before = server.usage()
    generator, watcher = Generator(address, requests, storm), asyncio.create_task(watch(server, storm, stop))
    await generator.run(factor * capacity, seconds, Random(0))
    storm.recovery = await recovery(server, requests[0], sorted(alone.latencies)[len(alone.latencies) // 2])
    await generator.finish()
    stop.set()
    await watcher
    return row_of(storm, capacity, before.rss, server.usage().rss)


def row_of(storm: Storm, capacity: float, rss_before: int, rss_after: int) -> dict[str, object]:
    """The measurement as figure and value."""
    lost = sum(n for what, n in storm.outcomes.items() if what.startswith("lost"))
    other = {what: n for what, n in storm.outcomes.items() if what not in {"200", "503 with Retry-After"}}
    return {
        "capacity, requests/s": f"{capacity:.1f}",
        "offered, requests/s": f"{storm.offered:.1f} ({storm.offered / capacity:.1f} times capacity)",
        "sent": storm.sent,
        "accepted and answered 200": storm.outcomes["200"],
        "answered 200 per second, share of capacity": (
            f"{storm.outcomes['200'] / (storm.ended - storm.begun + storm.recovery) / capacity:.2f}"
        ),
        "accepted p50 / p99, s": f"{percentile(storm.accepted, 0.5) / 1000:.2f} / {percentile(storm.accepted, 0.99) / 1000:.2f}",
        "shed (503 with Retry-After)": f"{storm.outcomes['503 with Retry-After'] / storm.sent:.1%}",
        "shed p50 / p99, ms": f"{percentile(storm.shed, 0.5):.1f} / {percentile(storm.shed, 0.99):.1f}",
        "any other answer": other or "none",
        "lost (no answer)": lost,
        "sent late by p50 / p99, ms": f"{percentile(storm.late, 0.5):.1f} / {percentile(storm.late, 0.99):.1f}",
        "most permits taken": int(max(storm.in_flight)),
        "most tokens queued": int(max(storm.queue_tokens)),
        "/metrics p50 / max, ms": f"{percentile(storm.probe, 0.5):.1f} / {1000 * max(storm.probe):.1f}",
        "memory before / most / after, MB": f"{rss_before / 1e6:.0f} / {max(storm.memory) / 1e6:.0f} / {rss_after / 1e6:.0f}",
        "as before again after, s": f"{storm.recovery:.1f}",
    }


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Measure and write; gives the table's rows."""
    parser = options(__doc__, seconds=60.0, meaning="seconds of overload")
    parser.add_argument("--factor", type=float, default=6.0, help="arrivals in multiples of the capacity (default 6)")
    arguments = parser.parse_args(argv)
    seconds, factor = (1.0, 3.0) if arguments.quick else (arguments.seconds, arguments.factor)
    bundle = loaded(arguments.bundle)
    requests = [post("/v1/screen", {"texts": text}) for text in texts_of(TOKENS, TEXTS, OnnxTokenizer(bundle))]
    with GuardProcess(arguments.bundle, workers=arguments.workers) as server, progress() as bar:
        bar.add_task(f"overload for {seconds:g} s", total=None)
        found = asyncio.run(measure(server, requests, seconds, factor, arguments.workers))
    rows = [{"figure": figure, "value": value} for figure, value in found.items()]
    published("guard_overload", arguments, bundle, rows, seconds=seconds, factor=factor)
    return list(rows)


if __name__ == "__main__":
    main()
