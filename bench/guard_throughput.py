"""What HTTP and the guard's own work cost beside inference: `POST /v1/screen` against bare onnxruntime on the same token ids.

    python -m bench.guard_throughput [--bundle DIR] [--seconds 4] [--rounds 5]

For texts of 32, 128 and 512 tokens and 1 and 16 connections, rounds of both alternate. The main figure is a ratio of processor
time: that of bare inference per text / that of the whole server process per request; it does not change when the load generator
takes a core. Beside it the ratio of texts per second. Aim: .85. The deadline is a minute, so that a slow machine refuses nothing.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.guard_bare import Bare, BareRun
from bench.guard_client import closed_loop, post
from bench.guard_process import GuardProcess
from bench.guard_report import Row, loaded, options, progress, published, shipped_policy, texts_of
from guard_server.classifier import OnnxTokenizer

TOKENS = (32, 128, 512)
CONNECTIONS = (1, 16)
TEXTS = 64
TICK = 0.01
"""Seconds: the kernel tells processor time in steps of so much; a short round may show none."""


@dataclass(frozen=True, slots=True)
class ServedRun:
    """What one round through HTTP took."""

    texts: int
    wall: float
    cpu: float
    """Of the server."""
    client_cpu: float
    failed: int


def served(server: GuardProcess, requests: Sequence[bytes], connections: int, seconds: float) -> ServedRun:
    """One round of a closed loop."""
    before, client = server.usage().cpu, time.process_time()
    load = asyncio.run(closed_loop((server.host, server.port), requests, connections, seconds))
    return ServedRun(
        len(load.answered),
        load.ended - load.begun,
        server.usage().cpu - before,
        time.process_time() - client,
        len(load.failed),
    )


def row_of(tokens: int, connections: int, bare: Bare, rounds: Sequence[tuple[BareRun, ServedRun]]) -> dict[str, object]:
    """One line of the table: medians over rounds; ratios are taken round by round."""
    cpu_ratios = [(b.cpu / b.texts) / (max(s.cpu, TICK) / s.texts) for b, s in rounds]
    wall_ratios = [(s.texts / s.wall) / (b.texts / b.wall) for b, s in rounds]

    def median(values: list[float]) -> float:
        return statistics.median(values)

    return {
        "tokens": tokens,
        "connections": connections,
        "segments": f"{bare.segments:.1f}",
        "bare, CPU ms/text": f"{median([1000 * b.cpu / b.texts for b, _ in rounds]):.2f}",
        "guard, CPU ms/request": f"{median([1000 * s.cpu / s.texts for _, s in rounds]):.2f}",
        "CPU ratio (min–max)": f"{median(cpu_ratios):.2f} ({min(cpu_ratios):.2f}–{max(cpu_ratios):.2f})",
        "bare, texts/s": f"{median([b.texts / b.wall for b, _ in rounds]):.1f}",
        "guard, requests/s": f"{median([s.texts / s.wall for _, s in rounds]):.1f}",
        "rate ratio": f"{median(wall_ratios):.2f}",
        "load generator, CPU ms/request": f"{median([1000 * s.client_cpu / s.texts for _, s in rounds]):.2f}",
        "failed": sum(s.failed for _, s in rounds),
    }


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Measure and write; gives the table's rows."""
    parser = options(__doc__, seconds=4.0, meaning="seconds of one round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each kind (default 5)")
    arguments = parser.parse_args(argv)
    rounds, seconds = (1, 0.2) if arguments.quick else (arguments.rounds, arguments.seconds)
    bundle, policy = loaded(arguments.bundle), shipped_policy()
    tokenizer = OnnxTokenizer(bundle)
    rows: list[dict[str, object]] = []
    with GuardProcess(arguments.bundle, workers=arguments.workers, deadline_seconds="60") as server, progress() as bar:
        task = bar.add_task("throughput", total=len(TOKENS) * len(CONNECTIONS) * rounds)
        for tokens in TOKENS:
            texts = texts_of(tokens, TEXTS, tokenizer)
            bare, requests = Bare(bundle, texts, policy), [post("/v1/screen", {"texts": text}) for text in texts]
            for connections in CONNECTIONS:
                bare.run(seconds / 4, threads=arguments.workers, at_once=connections)
                served(server, requests, connections, seconds / 4)
                measured = []
                for _ in range(rounds):
                    alone = bare.run(seconds, threads=arguments.workers, at_once=connections)
                    measured.append((alone, served(server, requests, connections, seconds)))
                    bar.advance(task)
                rows.append(row_of(tokens, connections, bare, measured))
    published("guard_throughput", arguments, bundle, rows, rounds=rounds, seconds=seconds)
    return list(rows)


if __name__ == "__main__":
    main()
