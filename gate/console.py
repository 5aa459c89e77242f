"""Progress on standard error: batches go in as `Progress`, lines or a live table come out. Nothing here decides anything.

`show` is how any command prints on standard output what may be long.

`rich` is a live table for a terminal, `plain` a line now and then, `json` one JSON object a line, `quiet` nothing.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

if TYPE_CHECKING:
    from gate.attack import Observer, Progress
    from gate.cells import Cell, Walk
    from gate.policy import Policy


class LogMode(StrEnum):
    """How progress is shown."""

    AUTO = "auto"
    RICH = "rich"
    PLAIN = "plain"
    JSON = "json"
    QUIET = "quiet"


Clock = Callable[[], float]


@contextmanager
def observer(mode: LogMode, policy: Policy, stream: TextIO, clock: Clock = time.monotonic) -> Iterator[Observer]:
    """An observer for `gate check`; `auto` is `rich` on a terminal and `plain` elsewhere."""
    console = Console(file=stream)
    if mode is LogMode.AUTO:
        mode = LogMode.RICH if console.is_terminal else LogMode.PLAIN
    if mode is LogMode.QUIET:
        yield lambda _: None
    elif mode is LogMode.RICH:
        with Live(console=console, refresh_per_second=4) as live:
            yield _Throttled(lambda p, rate: live.update(_table(p, rate, policy)), clock, every=0.5)
    else:
        show = _json_line if mode is LogMode.JSON else _plain_line
        yield _Throttled(lambda p, rate: print(show(p, rate, policy), file=stream, flush=True), clock, every=5.0)


class _Throttled:
    """Passes on the first progress, the last one, and one every few seconds, with the rate of generations."""

    def __init__(self, show: Callable[[Progress, float], None], clock: Clock, every: float) -> None:
        self._show = show
        self._clock = clock
        self._every = every
        self._begun = clock()
        self._shown = -every

    def __call__(self, progress: Progress) -> None:
        now = self._clock()
        if progress.last or now - self._shown >= self._every:
            self._shown = now
            self._show(progress, progress.asked / max(now - self._begun, 1e-9))


def remaining(progress: Progress) -> int:
    """Generations still to make at most: every open cell read to its end."""
    return sum(
        (len(cell.cases) - progress.walks[cell.id].finished) * cell.decoding.samples
        for cell in progress.cells
        if not progress.walks[cell.id].done
    )


def bounds(cell: Cell, walk: Walk, policy: Policy, family: int) -> tuple[float, float]:
    """The running confidence sequence of a gated cell: the interval that the sequential test has not ruled out."""
    if not walk.states or not cell.sequential:
        return 0.0, 1.0
    from gate.sequential import confidence_sequence

    rule = policy.decision
    return confidence_sequence(
        cell.population, len(walk.states), walk.sure, walk.worst, rule.alpha_block / family, alpha_upper=rule.alpha_pass
    )


def _rows(progress: Progress, policy: Policy) -> Iterator[tuple[Cell, Walk, tuple[float, float]]]:
    from gate.cells import family_size

    for cell in progress.cells:
        if cell.gated:
            family = family_size(progress.cells, cell.role)
            walk = progress.walks[cell.id]
            yield cell, walk, bounds(cell, walk, policy, family)


def _summary(progress: Progress, rate: float) -> str:
    open_ = sum(not progress.walks[cell.id].done for cell in progress.cells)
    stored = f", {progress.stored} from the store" if progress.stored else ""
    return (
        f"{progress.asked} answers{stored}, {rate:.0f}/s, {len(progress.cells) - open_}/{len(progress.cells)} cells done, "
        f"at most {remaining(progress)} to go"
    )


def _table(progress: Progress, rate: float, policy: Policy) -> Table:
    table = Table(title=_summary(progress, rate), title_justify="left", box=None, pad_edge=False)
    for name, justify in (
        ("cell", "left"),
        ("read", "right"),
        ("hits", "right"),
        ("bound", "right"),
        ("limit", "right"),
        ("", "left"),
    ):
        table.add_column(name, justify="right" if justify == "right" else "left")
    for cell, walk, (lower, upper) in _rows(progress, policy):
        twins = f" {cell.decoding.name}" if cell.contrast else " twins" if cell.role == "twin" else ""
        limit = "" if cell.limit is None else f"{cell.limit:.2f}"
        read = f"{len(walk.states)}/{cell.population}"
        table.add_row(f"{cell.task} {cell.calibration}{twins}", read, str(walk.sure), f"{lower:.2f}–{upper:.2f}", limit, walk.end)
    return table


def _plain_line(progress: Progress, rate: float, policy: Policy) -> str:
    rates = [row for row in _rows(progress, policy) if not row[0].contrast]
    worst = max(rates, key=lambda row: row[2][0] - (row[0].limit or 0.0), default=None)
    tail = ""
    if worst is not None and worst[1].states:
        cell, walk, (lower, upper) = worst
        tail = f"; worst so far {cell.subject}: {walk.sure} of {len(walk.states)}, bound {lower:.2f} to {upper:.2f}"
    return _summary(progress, rate) + tail


def _json_line(progress: Progress, rate: float, policy: Policy) -> str:
    cells = {
        cell.id: {"read": len(w.states), "population": cell.population, "hits": w.sure, "lower": lo, "upper": up, "state": w.end}
        for cell, w, (lo, up) in _rows(progress, policy)
    }
    return json.dumps(
        {
            "event": "progress",
            "answers": progress.asked,
            "stored": progress.stored,
            "answers_per_second": round(rate, 2),
            "remaining_at_most": remaining(progress),
            "cells": cells,
        }
    )


def show(text: str) -> None:
    """Print on standard output; a reader that has gone (`| head`) changes no exit code."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains again at exit
