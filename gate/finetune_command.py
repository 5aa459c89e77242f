"""`gate finetune RECIPE.yaml`: a recipe becomes an adapter or model folder. Called by `cli` alone."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from gate.console import LogMode

if TYPE_CHECKING:
    from gate.finetune import Observer, Progress

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe file (YAML); examples/recipes/ has some.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the result; it appears when it is finished, at once.")]
Log = Annotated[LogMode, typer.Option(help="How progress is shown on standard error.")]


def finetune(recipe: RecipeFile, out: Out, log: Log = LogMode.AUTO) -> None:
    """Fine-tune a model as a recipe says. The same command resumes a killed run and ends with the same result.

    Several processes: `accelerate launch --multi_gpu --num_processes 2 -m gate.cli finetune RECIPE --out DIR`.
    """
    from gate.finetune import finetune as train
    from gate.finetune import load_recipe

    loaded = load_recipe(recipe)
    first = int(os.environ.get("RANK", "0")) == 0
    with watching(log if first else LogMode.QUIET, sys.stderr) as observe:
        folder = train(loaded, out, observe=observe)
    if first:
        print(folder)


@contextmanager
def watching(mode: LogMode, stream: TextIO) -> Iterator[Observer]:
    """An observer that shows progress; `auto` is `rich` on a terminal and `plain` elsewhere."""
    console = Console(file=stream)
    if mode is LogMode.AUTO:
        mode = LogMode.RICH if console.is_terminal else LogMode.PLAIN
    if mode is LogMode.QUIET:
        yield lambda _: None
    elif mode is LogMode.RICH:
        with Live(console=console, refresh_per_second=4) as live:
            yield _Rich(live)
    else:
        yield _Lines(stream, json_lines=mode is LogMode.JSON)


class _Rich:
    """A bar, and a table of the losses by cell."""

    def __init__(self, live: Live) -> None:
        self._live = live
        times = (TimeElapsedColumn(), TimeRemainingColumn())
        self._bar = Bar(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *times, console=live.console)
        self._line = self._bar.add_task("reading", total=None)
        self._shown = Table()

    def __call__(self, progress: Progress) -> None:
        self._bar.update(self._line, description=progress.note or progress.phase)
        if progress.steps:  # what is said before and after the training leaves the bar where it is
            self._bar.update(self._line, total=progress.steps, completed=progress.step)
        if progress.losses or progress.held_out:
            self._shown = _losses(progress)
        self._live.update(Group(self._bar, self._shown) if self._shown.rows else self._bar)


def _losses(progress: Progress) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("task", "loss", "held out"):
        table.add_column(name, justify="left" if name == "task" else "right")
    for cell in sorted({*progress.losses, *progress.held_out}):
        table.add_row(cell, *(f"{found[cell]:.3f}" if cell in found else "" for found in (progress.losses, progress.held_out)))
    return table


class _Lines:
    """A line when something is to be said, and one for every new point of a curve, at most every five seconds."""

    def __init__(self, stream: TextIO, *, json_lines: bool) -> None:
        self._stream = stream
        self._json = json_lines
        self._shown = 0.0
        self._said = ""

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        last = progress.step == progress.steps
        due = progress.phase == "training" and (last or now - self._shown >= 5)
        told = bool(progress.note) and progress.note != self._said
        if not (due or told):
            return
        self._shown, self._said = now, progress.note or self._said
        line = _event(progress) if self._json else _sentence(progress)
        print(line, file=self._stream, flush=True)


def _sentence(progress: Progress) -> str:
    if progress.note:
        return progress.note
    losses = ", ".join(f"{cell} {loss:.3f}" for cell, loss in progress.losses.items())
    held_out = ", ".join(f"{cell} {loss:.3f}" for cell, loss in progress.held_out.items())
    return (
        f"step {progress.step} of {progress.steps}"
        + (f"; loss: {losses}" if losses else "")
        + (f"; held out: {held_out}" if held_out else "")
    )


def _event(progress: Progress) -> str:
    return json.dumps({"event": "progress", **progress.model_dump(mode="json")})
