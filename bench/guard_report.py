"""What the guard's benches share around their measurement: options, texts of a length, percentiles, the place of the table.

Tables go to docs/guard.md. A measurement with `--quick` is a smoke test: it prints its table and writes nothing.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bench.results import ROOT, into_document, machine, stated, table, write
from guard_server.bundle import Bundle, load_bundle
from guard_server.policy import Policy, load_policies
from guard_server.records import Tokenizer
from guard_server.settings import DEFAULT_BUNDLE, shipped_policies
from guard_server.training.material.documents import filler

DOCUMENT = ROOT / "docs" / "guard.md"
Row = Mapping[str, object]


def options(doc: str | None, *, seconds: float, meaning: str) -> argparse.ArgumentParser:
    """A parser with what every bench takes; `seconds` is the default of --seconds, `meaning` what it lasts."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE, help="bundle folder (default: the shipped one)")
    parser.add_argument("--seconds", type=float, default=seconds, help=f"{meaning} (default {seconds:g})")
    # One core is left to the event loop and to the load generator, which share the machine.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--workers", type=int, default=max(1, cores - 1), help="inference threads (default: cores - 1)")
    parser.add_argument("--quick", action="store_true", help="a smoke test of a few seconds; writes nothing")
    return parser


def console() -> Console:
    """Progress goes to standard error, the table to standard output."""
    return Console(stderr=True)


def progress() -> Progress:
    """A bar with the time that has passed."""
    return Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console(), transient=True)


def published(name: str, arguments: argparse.Namespace, bundle: Bundle, rows: Sequence[Row], **payload: object) -> None:
    """Print the table; unless --quick, write bench/results/`name`.json and the table's place in docs/guard.md."""
    where = machine("onnxruntime", "fastapi", "uvicorn")
    text = f"{table(rows)}\n\nBundle {bundle.spec.name} {bundle.spec.version} ({bundle.digest[:12]}). {stated(where)}"
    print(text)
    if not arguments.quick:
        used = {"name": bundle.spec.name, "version": bundle.spec.version, "digest": bundle.digest}
        write(name, {"machine": where, "bundle": used, "workers": arguments.workers, "rows": rows} | payload)
        into_document(DOCUMENT, name, text)


def loaded(folder: Path) -> Bundle:
    """A verified bundle; unsigned ones are measured too."""
    return load_bundle(folder, public_key=None, require_signed=False)


def shipped_policy() -> Policy:
    """The policy `default` of policies/guard.yaml: what a request gets that names none."""
    return load_policies(shipped_policies()).named("default")


def percentile(seconds: Sequence[float], share: float) -> float:
    """Of latencies, in milliseconds; not a number where there is none."""
    return 1000 * float(np.quantile(seconds, share)) if seconds else float("nan")


def texts_of(tokens: int, count: int, tokenizer: Tokenizer, seed: int = 0) -> list[str]:
    """Different harmless prose texts, each cut at a space so that it has as many tokens as possible, at most `tokens`."""
    return [_cut(filler("prose", 12 * tokens, Random(seed + i)), tokens, tokenizer) for i in range(count)]


def _cut(text: str, tokens: int, tokenizer: Tokenizer) -> str:
    words = text.split(" ")
    low, high = 1, len(words)
    length: Callable[[int], int] = partial(_tokens_of, words, tokenizer)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if length(middle) <= tokens else (low, middle - 1)
    return " ".join(words[:low])


def _tokens_of(words: Sequence[str], tokenizer: Tokenizer, count: int) -> int:
    return len(tokenizer.encode(" ".join(words[:count])))
