"""`gate history`: past runs as a table with trends, import, release marks; `gate exporter`: their scrape target."""

from __future__ import annotations

import io
import math
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from gate import tracking
from gate.console import show
from gate.errors import ExitCode, UsageError
from gate.records import Measure

if TYPE_CHECKING:
    from gate.history.entries import Entry
    from gate.history.location import Location
    from gate.history.store import History, Past
    from gate.standing import CellFigures, Standing

app = typer.Typer(help="Past runs: a table with trends, import of run folders, release marks.", invoke_without_command=True)

Where = Annotated[
    str | None,
    typer.Option(
        "--history",
        metavar="PATH|URL",
        help="The history (default: GATE_HISTORY, or the URL in the file that GATE_HISTORY_FILE names, or runs/history.sqlite).",
    ),
]
BARS = "▁▂▃▄▅▆▇█"
WIDTH = 240


@app.callback()
def list_(
    context: typer.Context,
    history: Where = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Runs of this model only.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Show the last so many runs.")] = 20,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON line a run, newest first.")] = False,
) -> None:
    """Show past runs, newest first, and the trend of each task: a table with trends, import of run folders, release marks."""
    if context.invoked_subcommand is not None:
        if history is not None:
            raise UsageError(
                "--history belongs behind the subcommand", mend=f"gate history {context.invoked_subcommand} --history …"
            )
        return
    with closing(_open(history, create=False)) as opened:
        runs = opened.runs(model, limit)
    if json:
        show("\n".join(past.model_dump_json() for past in runs))
    elif not runs:
        show(f"{opened.shown}: no run" + (f" of {_plain(model)}" if model else ""))
    else:
        show(_runs_table(runs) + "\n" + _trends_table(runs))


@app.command("import")
def import_(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, purged ones too.")],
    history: Where = None,
    name: tracking.Name = "",
) -> None:
    """Record run folders; one that is recorded already is left as it is. A folder that can't be read keeps no other out."""
    failed: list[ExitCode] = []
    with closing(_open(history)) as opened:
        for folder in runs:
            try:
                entry = _entry(opened, folder, name)
                new = opened.record(entry, time.time())
            except UsageError as error:
                print(f"gate: usage: {error.diagnostics()}", file=sys.stderr)
                failed.append(error.exit_code)
            else:
                said = "recorded" if new else "already there"
                print(f"{entry.id[:12]} {_plain(entry.standing.model)} {entry.standing.decision}: {said} ({folder})")
    if failed:
        raise typer.Exit(max(failed))


@app.command()
def release(
    run: Annotated[str, typer.Argument(metavar="RUN|ID", help="A run folder, or the id that `gate history` shows.")],
    history: Where = None,
    name: tracking.Name = "",
    withdraw: Annotated[bool, typer.Option(help="Take the mark away: the release before it is the last one again.")] = False,
) -> None:
    """Mark a run's candidate as released: `gate check --baseline last-released` compares with it. Only a pass can be."""
    with closing(_open(history)) as opened:
        if Path(run).is_dir():
            entry = _entry(opened, Path(run), name)
            opened.record(entry, time.time())
            run = entry.id
        past = opened.release(run, None if withdraw else time.time())
    said = f"released at {_when(past.released_at)}" if past.released_at is not None else "not released"
    print(f"{past.id[:12]} {_plain(past.standing.model)}: {said}")


@app.command()
def retire(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model as `gate history` names it.")],
    history: Where = None,
    pushgateway: Annotated[str | None, typer.Option(metavar="URL", help="Remove its figures from this Pushgateway too.")] = None,
) -> None:
    """Show a model no more in `gate exporter`, until a later run of it ends. Its runs stay."""
    from gate.pushgateway import checked_url, forget

    url = checked_url(pushgateway) if pushgateway is not None else None
    with closing(_open(history, create=False)) as opened:
        opened.retire(model, time.time())
    if url is not None:
        forget(url, model)
    print(f"{_plain(model)}: retired")


def exporter(
    history: Where = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 in a container.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one, printed at start.")] = 9464,
) -> None:
    """Serve the figures of every model's newest run to Prometheus, read from the history at each scrape, until told to stop."""
    from gate.exporter import serving
    from gate.pipeline import tool_version

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    location = _located(history)

    def warn(message: str) -> None:
        print(f"gate: warning: {message}", file=sys.stderr, flush=True)

    with serving(location, tool_version(), host=host, port=port, warn=warn) as bound:
        print(f"serving {location} on http://{host}:{bound}/metrics", file=sys.stderr, flush=True)
        stop.wait()


def _located(option: str | None) -> Location:
    """The history that is meant: the default file where neither option nor environment names one."""
    from gate.history.location import DEFAULT, Location

    return tracking.locate(option) or Location.of_file(DEFAULT)


def _open(option: str | None, *, create: bool = True) -> History:
    location = _located(option)
    from gate.history.store import open_history

    return open_history(location, create=create)


def _entry(history: History, folder: Path, name: str) -> Entry:
    """The run in the folder, under the name given, else under the one that it is recorded under."""
    from gate.history.entries import read_entry

    entry = read_entry(folder, name)
    return entry if name else history.under_its_name(entry)


def _runs_table(runs: Sequence[Past]) -> str:
    rows = []
    for past in runs:
        standing = past.standing
        rows.append(
            (
                _when(standing.finished_at),
                _plain(standing.model),
                standing.decision.upper(),
                "released" if past.released_at is not None else "",
                _worst(standing),
                _plain(standing.policy_name),
                standing.candidate_digest[:12],
                past.id[:12],
            )
        )
    return _table(("ended (UTC)", "model", "verdict", "", "nearest to its limit", "policy", "candidate", "id"), rows)


def _trends_table(runs: Sequence[Past]) -> str:
    """One row a model and task: the worst gated rate of each run, oldest first, on the newest run's suite and measure."""
    rows, left_out = [], 0
    for model in dict.fromkeys(past.standing.model for past in runs):
        own = [past.standing for past in runs if past.standing.model == model]
        alike = [standing for standing in own if standing.suite_digest == own[0].suite_digest]
        left_out += len(own) - len(alike)
        for task in dict.fromkeys(cell.task for cell in gated_attacks(own[0])):
            cells = [worst_of(standing, task) for standing in reversed(alike)]
            last = cells[-1]
            if last is not None:
                trend = sparkline([None if cell is None else cell.rate for cell in cells], last.threshold)
                rows.append((_plain(model), task.replace("_", " "), trend, _figures(last)))
    text = _table(("model", "task", "trend", "last rate [bounds] limit"), rows)
    return text + (f"{left_out} earlier run(s) were on another suite and are in no trend.\n" if left_out else "")


def gated_attacks(standing: Standing) -> list[CellFigures]:
    """The cells that a trend is about."""
    return [cell for cell in standing.cells if cell.gated and cell.measure != Measure.OVER_REFUSAL]


def worst_of(standing: Standing, task: str) -> CellFigures | None:
    """The task's gated attack cell with the highest rate; null where the run has none."""
    own = [cell for cell in gated_attacks(standing) if cell.task == task]
    return max(own, key=lambda cell: (-1.0 if cell.rate is None else cell.rate, cell.lower), default=None)


def sparkline(rates: Sequence[float | None], limit: float | None) -> str:
    """One bar a rate, on a scale from 0 to twice the limit or to the highest rate, whichever is more; `·` where there is none."""
    top = max(2 * (limit or 0.0), *(rate or 0.0 for rate in rates)) or 1.0
    return "".join("·" if rate is None else BARS[math.ceil(rate / top * (len(BARS) - 1))] for rate in rates)


def _worst(standing: Standing) -> str:
    """The gated cell whose lower bound is nearest to its limit, or furthest over it."""
    cells = [cell for cell in standing.cells if cell.gated and cell.threshold is not None]
    worst = max(cells, key=lambda cell: cell.lower - (cell.threshold or 0.0), default=None)
    if worst is None:
        return ""
    twins = " twins" if worst.measure == Measure.OVER_REFUSAL else ""
    return f"{worst.task} {worst.calibration}{twins} {_figures(worst)}"


def _figures(cell: CellFigures) -> str:
    rate = "none" if cell.rate is None else f"{cell.rate:.3f}"
    limit = "" if cell.threshold is None else f" {cell.threshold:.2f}"
    return f"{rate} [{cell.lower:.3f}, {cell.upper:.3f}]{limit}"


def _when(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def _plain(text: str) -> str:
    """Text of a folder or a policy, as a terminal may show it."""
    from gate.report.escape import terminal_text

    return terminal_text(text)


def _table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    text = io.StringIO()
    Console(file=text, highlight=False, markup=False, width=WIDTH).print(table)  # a row is a line, which a narrow terminal folds
    return text.getvalue()
