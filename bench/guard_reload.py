"""Reloads under load: every request is answered, by one bundle or the other.

    python -m bench.guard_reload [--bundle DIR] [--reloads 20] [--seconds 60]

Callers ask without a pause while the bundle is loaded anew, in turn over `POST /admin/reload` and by SIGHUP, evenly in time.
Aim: no failed request. Latency is shown of requests that a reload overlaps and of the others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.guard_client import Connection, Load, closed_loop, gauge, get, post
from bench.guard_process import GuardProcess, Usage
from bench.guard_report import Row, loaded, options, percentile, progress, published, texts_of
from guard_server.auth import new_key
from guard_server.classifier import OnnxTokenizer

TOKENS = (32, 128, 512)
TEXTS = 16
CALLERS = 4
LONGEST_RELOAD = 60.0


@dataclass
class Reloads:
    """What was done: when each reload began and ended, and those that failed."""

    spans: list[tuple[float, float]] = field(default_factory=list)
    by_signal: int = 0
    failed: list[str] = field(default_factory=list)


async def reload_often(server: GuardProcess, key: str, times: int, seconds: float, stop: asyncio.Event) -> Reloads:
    """Reload so often, evenly over so many seconds, by route and by signal in turn; then say that the load may stop."""
    done, connection = Reloads(), await Connection.open(server.host, server.port)
    begun = time.perf_counter()
    try:
        for number in range(times):
            await asyncio.sleep(max(0.0, begun + (number + 0.5) * seconds / times - time.perf_counter()))
            if connection.closed:  # the server ends connections that have been idle for long
                connection = await Connection.open(server.host, server.port)
            sent = time.perf_counter()
            if number % 2:
                done.by_signal += 1
                await _by_signal(server, connection, done)
            else:
                reply = await connection.ask(post("/admin/reload", b"{}", key))
                if reply.status != 200:
                    done.failed.append(f"{reply.status}: {reply.body[:200]!r}")
            done.spans.append((sent, time.perf_counter()))
        await asyncio.sleep(max(0.0, begun + seconds - time.perf_counter()))
    finally:
        stop.set()
        connection.close()
    return done


async def _by_signal(server: GuardProcess, connection: Connection, done: Reloads) -> None:
    """SIGHUP has no answer: the counter of reloads says when it is done."""

    async def counted() -> float:
        return gauge((await connection.ask(get("/metrics"))).body, "guard_reloads_total")

    before, deadline = await counted(), time.perf_counter() + LONGEST_RELOAD
    server.hang_up()
    while await counted() == before:
        if time.perf_counter() > deadline:
            done.failed.append("no reload after SIGHUP")
            return
        await asyncio.sleep(0.05)


async def measure(
    server: GuardProcess, requests: Sequence[bytes], key: str, times: int, seconds: float
) -> tuple[Load, Reloads, float]:
    """The load, the reloads within it, and how many of these the server counts as done."""
    stop = asyncio.Event()
    load, done = await asyncio.gather(
        closed_loop((server.host, server.port), requests, CALLERS, stop), reload_often(server, key, times, seconds, stop)
    )
    connection = await Connection.open(server.host, server.port)
    exposition = (await connection.ask(get("/metrics"))).body
    connection.close()
    lines = [line for line in exposition.splitlines() if line.startswith(b'guard_reloads_total{outcome="ok"}')]
    return load, done, float(lines[0].rpartition(b" ")[2]) if lines else 0.0


def rows_of(load: Load, done: Reloads, counted: float, before: Usage, after: Usage) -> dict[str, object]:
    """The measurement as figure and value."""
    during: list[float] = []
    between: list[float] = []
    for sent, took in load.answered:
        overlapped = any(sent < end and sent + took > begin for begin, end in done.spans)
        (during if overlapped else between).append(took)
    spans = [end - begin for begin, end in done.spans]
    return {
        "reloads (by SIGHUP)": f"{len(done.spans)} ({done.by_signal})",
        "reloads that the server counts as done": int(counted),
        "failed reloads": "; ".join(done.failed) or 0,
        "one reload, median / longest, s": f"{percentile(spans, 0.5) / 1000:.2f} / {max(spans):.2f}",
        "requests answered": len(load.answered),
        "failed requests": len(load.failed),
        "requests p50 / p99 / most during a reload, ms": _three(during),
        "requests p50 / p99 / most otherwise, ms": _three(between),
        "memory before / after, MB": f"{before.rss / 1e6:.0f} / {after.rss / 1e6:.0f}",
        "threads before / after": f"{before.threads} / {after.threads}",
    }


def _three(seconds: Sequence[float]) -> str:
    return f"{percentile(seconds, 0.5):.1f} / {percentile(seconds, 0.99):.1f} / {percentile(seconds, 1.0):.1f}"


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Measure and write; gives the table's rows."""
    parser = options(__doc__, seconds=60.0, meaning="seconds of load")
    parser.add_argument("--reloads", type=int, default=20, help="how many reloads (default 20)")
    arguments = parser.parse_args(argv)
    seconds, times = (2.0, 4) if arguments.quick else (arguments.seconds, arguments.reloads)
    bundle = loaded(arguments.bundle)
    tokenizer = OnnxTokenizer(bundle)
    (key, entry), (admin, admin_entry) = new_key("bench", "screen"), new_key("operator", "admin")
    texts = [text for tokens in TOKENS for text in texts_of(tokens, TEXTS, tokenizer)]
    requests = [post("/v1/screen", {"texts": text}, key) for text in texts]
    with (
        GuardProcess(arguments.bundle, workers=arguments.workers, api_keys=f"{entry},{admin_entry}") as server,
        progress() as bar,
    ):
        bar.add_task(f"{times} reloads in {seconds:g} s", total=None)
        asyncio.run(closed_loop((server.host, server.port), requests, CALLERS, 1.0))
        before = server.usage()
        load, done, counted = asyncio.run(measure(server, requests, admin, times, seconds))
        found = rows_of(load, done, counted, before, server.usage())
    rows = [{"figure": figure, "value": value} for figure, value in found.items()]
    published("guard_reload", arguments, bundle, rows, seconds=seconds, failures=load.failed[:20])
    return list(rows)


if __name__ == "__main__":
    main()
