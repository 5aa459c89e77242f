"""What a caller waits for beside inference: `POST /v1/screen` on a kept connection against bare onnxruntime on the same ids.

    python -m bench.guard_latency [--bundle DIR] [--seconds 20]

Blocks of both alternate, one text at a time, so that a drifting machine slows both. The figure is the median of the requests less
the median of the inferences; the windows of a text of several run one after the other in both where the guard has one worker.
Aim: at most 1 ms.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.guard_bare import Bare
from bench.guard_client import Connection, get, post
from bench.guard_process import GuardProcess
from bench.guard_report import Row, loaded, options, percentile, progress, published, shipped_policy, texts_of
from guard_server.classifier import OnnxTokenizer

TOKENS = (32, 128, 512)
TEXTS = 64
BLOCK = 16
"""Texts after which the other one's turn comes: a change at every text would measure cold caches."""
QUICK_SECONDS = 0.3


@dataclass
class Seen:
    """Seconds of every inference and request, and what the guard says inference took of the latter."""

    bare: list[float] = field(default_factory=list)
    served: list[float] = field(default_factory=list)
    inference: list[float] = field(default_factory=list)
    queued: list[float] = field(default_factory=list)


async def alternate(address: tuple[str, int], bare: Bare, requests: Sequence[bytes], seconds: float) -> Seen:
    """Blocks of inferences and of requests in turn; raises `RuntimeError` where a request is not answered 200."""
    seen = Seen()
    until, at = time.perf_counter() + seconds, 0
    warm = True
    while time.perf_counter() < until or not seen.served:
        block = range(at, at + BLOCK)
        inferred = [bare.infer(i) for i in block]
        connection = await Connection.open(*address)  # the last one may have been silent for longer than the server bears
        await connection.ask(get("/healthz"))
        asked = [await one(connection, requests[i % len(requests)]) for i in block]
        if not warm:
            seen.bare += inferred
            seen.served += [took for took, _, _ in asked]
            seen.queued += [queued for _, queued, _ in asked]
            seen.inference += [inference for _, _, inference in asked]
        connection.close()
        warm, at = False, at + BLOCK
    return seen


async def one(connection: Connection, request: bytes) -> tuple[float, float, float]:
    """Seconds of one request, and of these what the guard counts as waiting and as inference."""
    began = time.perf_counter()
    reply = await connection.ask(request)
    took = time.perf_counter() - began
    if reply.status != 200:
        raise RuntimeError(f"answered {reply.status}: {reply.body[:200]!r}")
    timing = json.loads(reply.body)["timing"]
    return took, timing["queue_ms"] / 1000, timing["inference_ms"] / 1000


def row_of(tokens: int, bare: Bare, seen: Seen) -> dict[str, object]:
    """One line of the table; milliseconds."""
    middle, reference = percentile(seen.served, 0.5), percentile(seen.bare, 0.5)
    return {
        "tokens": tokens,
        "segments": f"{bare.segments:.1f}",
        "texts": len(seen.served),
        "bare p50, ms": f"{reference:.2f}",
        "bare p99, ms": f"{percentile(seen.bare, 0.99):.2f}",
        "guard p50, ms": f"{middle:.2f}",
        "guard p99, ms": f"{percentile(seen.served, 0.99):.2f}",
        "p50 over bare, ms": f"{middle - reference:.2f}",
        "of the guard's p50: queue, inference, ms": (
            f"{percentile(seen.queued, 0.5):.2f}, {percentile(seen.inference, 0.5):.2f}"
        ),
    }


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Measure and write; gives the table's rows."""
    arguments = options(__doc__, seconds=20.0, meaning="seconds of each length of text").parse_args(argv)
    seconds = QUICK_SECONDS if arguments.quick else arguments.seconds
    bundle, policy = loaded(arguments.bundle), shipped_policy()
    tokenizer = OnnxTokenizer(bundle)
    rows: list[dict[str, object]] = []
    with GuardProcess(arguments.bundle, workers=arguments.workers) as server, progress() as bar:
        task = bar.add_task("latency", total=len(TOKENS))
        for tokens in TOKENS:
            texts = texts_of(tokens, TEXTS, tokenizer)
            bare, requests = Bare(bundle, texts, policy), [post("/v1/screen", {"texts": text}) for text in texts]
            seen = asyncio.run(alternate((server.host, server.port), bare, requests, seconds))
            rows.append(row_of(tokens, bare, seen))
            bar.advance(task)
    published("guard_latency", arguments, bundle, rows, seconds=seconds)
    return list(rows)


if __name__ == "__main__":
    main()
