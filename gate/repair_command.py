"""`gate repair RUN`: arguments → one call into `repair_pipeline` → the card, printed, and an exit code. Called by `cli` alone.

Exit codes: 0 a repaired model passed the held-out gate, 3 no setting meets the policy or the held-out gate blocked, 4 it was
inconclusive, else as of any command.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gate import check_options as given
from gate.console import LogMode
from gate.errors import ExitCode, UsageError
from gate.records import Decision

if TYPE_CHECKING:
    from gate.repair.base import Method, Setting, Source, Tell, Value
    from gate.repair.card import RepairCard
    from gate.repair_pipeline import News

Folder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run that blocked its candidate.")]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder of the repair (default: RUN's name with `.repair` behind).")
]
Methods = Annotated[
    str, typer.Option(help="Methods to try, separated by commas; they are tried in the table's order. Default: all.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--setting", metavar="METHOD:KEY=VALUE,...", help="Try this setting in place of the method's own; may be repeated."
    ),
]
Aligned = Annotated[str | None, typer.Option(help="The model before fine-tuning (default: an adapter's base).")]
Unaligned = Annotated[str | None, typer.Option(help="The model before alignment: the other end of the safety vector.")]
SafetyAdapter = Annotated[str | None, typer.Option(help="A LoRA adapter that was trained to refuse, on the same base.")]
Safety = Annotated[Path | None, typer.Option(help="JSON Lines of requests with refusals (`gate safety-set` writes some).")]
Retain = Annotated[Path | None, typer.Option(help="JSON Lines of requests with the answers to keep.")]
RecipeFile = Annotated[Path | None, typer.Option("--recipe", help="Recipe of the fine-tuning, to train again from.")]
Margin = Annotated[
    float, typer.Option(min=0, max=0.9, help="Share of each limit that the limits of the tuning half are lowered by.")
]

MeanDrop = Annotated[
    float | None,
    typer.Option(
        min=0, max=0.99, help="Most loss of benign quality against the candidate, mean over tasks (default: the policy's)."
    ),
]


def repair(
    run: Folder,
    out: Out = None,
    methods: Methods = "",
    setting: Settings = None,
    aligned: Aligned = None,
    unaligned: Unaligned = None,
    safety_adapter: SafetyAdapter = None,
    safety: Safety = None,
    retain: Retain = None,
    recipe: RecipeFile = None,
    margin: Margin = 0.2,
    max_mean_drop: MeanDrop = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the models that did not pass.")] = False,
    engine: given.Engine = "auto",
    device: given.Device = "auto",
    dtype: given.Dtype = "auto",
    batch_size: given.BatchSize = 64,
    log: Annotated[LogMode, typer.Option(help="How progress is shown on standard error.")] = LogMode.AUTO,
    format_: Annotated[Literal["markdown", "json", "none"], typer.Option("--format", "-f", help="What is printed.")] = "markdown",
) -> None:
    """Repair a blocked candidate: settings are chosen on the tuning split, the outcome is gated once on the held-out one."""
    from gate import console
    from gate.endpoints.base import EngineOptions
    from gate.repair.curve import as_markdown
    from gate.repair_pipeline import Bench, Wish, blocked_run, repair

    chosen = named_methods(methods)
    wish = Wish(
        run=run,
        out=out if out is not None else run.with_name(f"{run.name}.repair"),
        methods=chosen,
        settings=named_settings(setting or [], chosen),
        margin=margin,
        keep=keep,
    )
    blocked = blocked_run(run, max_mean_drop)
    source = _source(run, aligned, unaligned, safety_adapter, file_there(safety), file_there(retain), file_there(recipe), device)
    options = EngineOptions(device=device, dtype=dtype, batch_size=batch_size)
    with given.opener(engine, options) as open_endpoint:
        bench = Bench(
            wish=wish,
            blocked=blocked,
            source=source,
            open_endpoint=open_endpoint,
            watch=lambda policy: console.observer(log, policy, sys.stderr),
            tell=_teller(log),
            today=datetime.now(UTC).date().isoformat(),
            batch_size=batch_size,
            steps=lambda what: _steps(log, what),
        )
        card = repair(bench)
    if format_ != "none":
        print(as_markdown(card) if format_ == "markdown" else card.model_dump_json(indent=1))
    if log is not LogMode.QUIET:
        found = f"repaired model: {wish.out / card.folder}"
        print(found if card.folder else f"no repaired model; the curve: {wish.out / 'curve.svg'}", file=sys.stderr)
    raise typer.Exit(code_of(card))


def code_of(card: RepairCard) -> ExitCode:
    """The held-out gate's; where nothing was chosen, a block."""
    if card.held_out is None:
        return ExitCode.BLOCK
    codes = {Decision.PASS: ExitCode.PASS, Decision.BLOCK: ExitCode.BLOCK, Decision.INCONCLUSIVE: ExitCode.INCONCLUSIVE}
    return codes[card.held_out.decision]


def named_methods(names: str) -> tuple[Method, ...]:
    """The named methods in the table's order; all of them for an empty text."""
    from gate.repair import METHODS

    asked = [name.strip() for name in names.split(",") if name.strip()]
    known = {method.name: method for method in METHODS}
    if unknown := [name for name in asked if name not in known]:
        raise UsageError(f"no method is called {', '.join(unknown)}", expected=", ".join(known), mend="correct --methods")
    return tuple(method for method in METHODS if not asked or method.name in asked)


def named_settings(texts: list[str], methods: tuple[Method, ...]) -> dict[str, tuple[Setting, ...]]:
    """What --setting says, by method."""
    from gate.repair.base import setting_of

    known, found = {method.name: method for method in methods}, dict[str, tuple["Setting", ...]]()
    for text in texts:
        name, _, rest = text.partition(":")
        if name not in known:
            raise UsageError(f"--setting {text}: no such method is tried", expected=", ".join(known), mend="METHOD:KEY=VALUE,...")
        pairs = dict(_pair(text, part) for part in rest.split(","))
        found[name] = (*found.get(name, ()), setting_of(known[name], pairs))
    return found


def _pair(text: str, part: str) -> tuple[str, Value]:
    """`KEY=VALUE` with a number, or yes or no."""
    key, _, value = part.partition("=")
    if value.lower() in ("true", "false"):
        return key.strip(), value.lower() == "true"
    try:
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(value)
        return key.strip(), number
    except ValueError as error:
        raise UsageError(
            f"--setting {text}: {part!r} is no setting", expected="KEY=NUMBER, KEY=true or KEY=false", mend="METHOD:KEY=VALUE,..."
        ) from error


def _source(
    run: Path,
    aligned: str | None,
    unaligned: str | None,
    safety_adapter: str | None,
    safety: Path | None,
    retain: Path | None,
    recipe: Path | None,
    device: str,
) -> Source:
    """The run's candidate and what was given beside it, each through the gate's own ingest."""
    from gate.candidate import load_candidate
    from gate.repair.base import Source
    from gate.repair_pipeline import candidate_of

    candidate = candidate_of(run)
    before = aligned or candidate.base_path or None
    return Source(
        candidate=candidate,
        aligned=load_candidate(before) if before else None,
        unaligned=load_candidate(unaligned) if unaligned else None,
        safety_adapter=load_candidate(safety_adapter, base=candidate.base_path or None) if safety_adapter else None,
        safety=safety,
        retain=retain,
        recipe=recipe,
        device=device,
    )


def file_there(path: Path | None) -> Path | None:
    """A file that was named and is there."""
    if path is not None and not path.is_file():
        raise UsageError(f"{path} is no file", expected="a file that can be read", mend="correct the path")
    return path


def _teller(log: LogMode) -> Callable[[News], None]:
    """Prints what goes on to standard error, as the log's mode says."""

    def tell(news: News) -> None:
        if log is LogMode.JSON:
            print(json.dumps({"event": news.kind, "text": news.text}), file=sys.stderr, flush=True)
        elif log is not LogMode.QUIET:
            print(news.text, file=sys.stderr, flush=True)

    return tell


@contextmanager
def _steps(log: LogMode, what: str) -> Iterator[Tell]:
    """A bar for a method that takes a while; nothing where progress is not shown to people."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(file=sys.stderr)
    with Progress(
        console=console, disable=not console.is_terminal or log in (LogMode.JSON, LogMode.QUIET), transient=True
    ) as bar:
        line = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(line, completed=done, total=total)
