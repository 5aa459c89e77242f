"""`gate drift PLAN.yaml`: arguments → one call into `drift_pipeline` → the printed matrix, an exit code. Called by `cli` alone.

Exit codes: 0 every expectation of the plan held, 3 one did not, else as of any command.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gate import check_options as given
from gate.errors import ExitCode

if TYPE_CHECKING:
    from gate.drift_pipeline import Job, News

PlanFile = Annotated[Path, typer.Argument(metavar="PLAN", help="A drift plan (YAML); testbed/drift.yaml is one.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for models, runs and the matrix; the same command resumes.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes that train and check; each has its share of the cores.")]
Shown = Annotated[Literal["markdown", "json", "none"], typer.Option("--format", "-f", help="What is printed.")]


def drift(plan: PlanFile, out: Out, workers: Workers = 2, format_: Shown = "markdown") -> None:
    """Fine-tune on every task of a plan, attack every task of every result, and draw the matrix."""
    from gate.drift.plan import load_plan
    from gate.drift_pipeline import drift

    loaded = load_plan(plan)
    today = datetime.now(UTC).date().isoformat()
    with _watching(Console(stderr=True)) as tell:
        found = drift(loaded, out, train, check, workers=workers, today=today, tell=tell)
    if format_ != "none":
        print((out / ("drift.md" if format_ == "markdown" else "drift.json")).read_text(encoding="utf-8"))
    print(f"heat map: {out / 'heat_map.svg'}", file=sys.stderr)
    raise typer.Exit(ExitCode.PASS if found.held else ExitCode.BLOCK)


def train(job: Job) -> None:
    """A job's fine-tune, in a process of its own."""
    from gate.drift_pipeline import train_job

    train_job(job)


def check(job: Job) -> None:
    """A job's check, in a process of its own."""
    from gate.drift_pipeline import check_job
    from gate.endpoints.base import EngineOptions

    with given.opener("auto", EngineOptions()) as open_endpoint:
        check_job(job, open_endpoint)


@contextmanager
def _watching(console: Console) -> Iterator[Callable[[News], None]]:
    """A bar on a terminal, a line per stage elsewhere."""
    if not console.is_terminal:
        yield lambda news: console.print(f"{news.done} of {news.total}: {news.what}", highlight=False, soft_wrap=True)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        line = bar.add_task("training and checking", total=None)
        yield lambda news: bar.update(line, completed=news.done, total=news.total, description=news.what)
