"""`gate plan`: reads policy, suite and candidate, measures the engine, prints what a check will cost. Called by `cli` alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from gate import check_options as given
from gate.errors import UsageError

if TYPE_CHECKING:
    from gate.endpoints.base import EngineOptions
    from gate.engine_speed import Measured
    from gate.planning import Amount, Assumption, Plan, Subject

Row = tuple[str, ...]


class PlanFormat(StrEnum):
    """What `gate plan` prints."""

    TEXT = "text"
    MARKDOWN = "markdown"
    JSON = "json"


def plan(
    policy: given.PolicyFile,
    candidate: Annotated[
        str | None, typer.Option("--candidate", "-c", help="What `gate check` would be given; --calibrate 0 needs none.")
    ] = None,
    base: given.Base = None,
    model: given.Model = "",
    baseline: Annotated[
        str | None, typer.Option(help="Model to compare with: it is asked what the decision read. Not loaded here.")
    ] = None,
    baseline_base: given.BaselineBase = None,
    baseline_model: given.BaselineModel = "",
    engine: given.Engine = "auto",
    batch_size: given.BatchSize = 64,
    in_flight: given.InFlight = 0,
    memory_share: given.MemoryShare = 0.0,
    workers: given.Workers = 1,
    gpus_per_worker: given.GpusPerWorker = 0.0,
    device: given.Device = "auto",
    dtype: given.Dtype = "auto",
    calibrate: Annotated[int, typer.Option(min=0, max=4096, help="Prompts to measure the engine with; 0: load nothing.")] = 32,
    assume_rate: Annotated[
        list[float] | None,
        typer.Option(min=0, max=1, help="Expect this share of attacks answered in every cell; may be given several times."),
    ] = None,
    assume_over_refusal: Annotated[
        float, typer.Option(min=0, max=1, help="Share of benign twins refused that goes with --assume-rate.")
    ] = 0.0,
    shards: Annotated[int, typer.Option(min=0, help="Also for a check cut into so many shards.")] = 0,
    format_: Annotated[PlanFormat, typer.Option("--format", "-f", help="Form of the plan.")] = PlanFormat.TEXT,
) -> None:
    """Say what a check would cost: generations by the sequential design; tokens and time from a short calibration."""
    from gate.endpoints.base import EngineOptions
    from gate.planning import assumed_rate, default_assumptions, make_plan

    sides = None if candidate is None else given.Sides(candidate, base, baseline, baseline_base, model, baseline_model, engine)
    subject = _subject(policy, baseline is not None)
    measured: Measured | None = None
    lengths: dict[str, float] = {}
    if calibrate:
        options = EngineOptions(device, dtype, batch_size, in_flight, memory_share, workers, gpus_per_worker)
        measured, lengths = _measure(subject, sides, options, calibrate)
    assumptions: Sequence[Assumption] = default_assumptions()
    if assume_rate:
        assumptions = tuple(assumed_rate(rate, assume_over_refusal) for rate in dict.fromkeys(assume_rate))
    batched = measured.batched if measured else engine in ("auto", "hf_local") and not model
    found = make_plan(
        subject, assumptions, measured=measured, lengths=lengths, batch_size=batch_size if batched else 0, shards=shards
    )
    print(render_plan(found, format_))


def _subject(name: str, baseline: bool) -> Subject:
    """The grid that a check of this policy would ask."""
    from gate.cells import plan as plan_cells
    from gate.planning import Subject
    from gate.policy import load_policy
    from gate.quality import check_questions
    from gate.suites import load_suite
    from gate.utility_set import questions_of

    loaded = load_policy(name)
    policy = loaded.policy
    suite = load_suite(policy.suite, relative_to=loaded.directory)
    questions = questions_of(loaded)
    cells = plan_cells(policy, suite.items, suite.system_prompt, suite.digest, questions.items if questions else ())
    check_questions(policy, cells, questions)
    return Subject(policy, cells, suite.name, suite.digest, baseline=baseline or policy.baseline.required)


def _measure(
    subject: Subject, sides: given.Sides | None, options: EngineOptions, count: int
) -> tuple[Measured, dict[str, float]]:
    """Scan the candidate as a check does, then measure the engine with it."""
    from gate.engine_speed import measure

    if sides is None:
        raise UsageError(
            "a calibration needs a candidate",
            expected="--candidate with what the check will be given",
            mend="give one, or --calibrate 0 for a plan without tokens and time",
        )
    found = given.load_side(sides.candidate, sides.base, sides.model, template_mismatch=subject.policy.template_mismatch)
    with given.opener(sides.engine, options) as opener:
        return measure(lambda: opener(found), subject.cells, count, batch_size=options.batch_size)


def render_plan(plan: Plan, form: PlanFormat) -> str:
    """The plan as a table for a terminal, as Markdown, or as JSON (schemas/plan.schema.json)."""
    if form is PlanFormat.JSON:
        return plan.model_dump_json(indent=1)
    from gate.report.escape import markdown_text, terminal_text

    say, table = (markdown_text, _markdown) if form is PlanFormat.MARKDOWN else (terminal_text, _text)
    shown = [table([tuple(say(cell) for cell in row) for row in rows]) for rows in (_totals(plan), _cells(plan))]
    head = f"Policy {plan.policy}, suite {plan.suite}: {plan.cases} cases in {len(plan.cells)} cells"
    lines = [head + (", and a baseline" if plan.baseline else ""), *_about_engine(plan), *_about_shards(plan)]
    notes = [*_about_assumptions(plan), *plan.notes]
    first, last = ("\n".join(f"- {say(line)}" for line in part) for part in (lines, notes))
    return "\n\n".join(
        [first, "All cells:", shown[0], "Generations by cell that the decision on the candidate reads:", shown[1], last]
    )


def _about_engine(plan: Plan) -> Iterator[str]:
    m = plan.measured
    if m is None:
        yield "Engine: not measured"
        return
    loaded = duration(m.load_seconds)
    yield f"Engine: {m.engine.name} {m.engine.version}, {m.engine.dtype} on {m.engine.device}; loaded in {loaded}"
    yield (
        f"Measured on {m.asked} prompts ({m.answered} answered): {m.prompts_per_second:.2f} prompts/s, "
        f"{m.prompt_tokens_per_second:.0f} prompt tokens/s and {m.new_tokens_per_second:.0f} new tokens/s"
    )


def _about_shards(plan: Plan) -> Iterator[str]:
    if plan.shards is not None:
        time = "" if plan.shards.seconds is None else f", {duration(plan.shards.seconds)} (estimate)"
        yield f"Each of {plan.shards.count} shards asks its slice in full: {plan.shards.generations:,.0f} generations{time}"


def _about_assumptions(plan: Plan) -> Iterator[str]:
    for a in plan.assumptions:
        rates = (f"{r.value:.0%} of {'items' if r.of == 'items' else 'the limit'}" for r in (a.attack, a.twin))
        yield "{}: attacks answered {}, benign twins refused {}, in every cell.".format(a.name.capitalize(), *rates)


def _totals(plan: Plan) -> list[Row]:
    """Least, expected and worst case over all cells."""
    counts = ("generations", "±", "gated", "ahead", "beside", "baseline", "new tokens at most")
    rows: list[Row] = [("all cells", *counts, "prompt tokens (est.)", "new tokens (est.)", "time (est.)")]
    named = [("least", plan.least), *((f"expected: {n}", a) for n, a in plan.expected.items()), ("worst case", plan.worst)]
    return rows + [(name, *_amount(amount)) for name, amount in named]


def _amount(a: Amount) -> Row:
    counts = (
        a.generations,
        a.deviation,
        a.candidate,
        a.ahead,
        a.beside,
        a.baseline,
        a.most_new_tokens,
        a.prompt_tokens,
        a.new_tokens,
    )
    return (*("?" if x is None else f"{x:,.0f}" for x in counts), "?" if a.seconds is None else duration(a.seconds))


def _cells(plan: Plan) -> list[Row]:
    """One row per cell: generations asked of the candidate."""
    rows: list[Row] = [("cell", "cases", "least", *plan.expected, "worst case")]
    return rows + [
        (
            c.cell.replace("|", " "),
            str(c.cases),
            str(c.least),
            *(f"{law.mean * c.samples:.1f}".removesuffix(".0") for law in c.expected.values()),
            str(c.worst),
        )
        for c in plan.cells
    ]


def _text(rows: Sequence[Row]) -> str:
    """An aligned table, as wide as it needs to be."""
    table = Table(box=None, pad_edge=False)
    for n, name in enumerate(rows[0]):
        table.add_column(name, no_wrap=True, justify="left" if n == 0 else "right")
    for row in rows[1:]:
        table.add_row(*row)
    console = Console(highlight=False, markup=False, color_system=None, width=400)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _markdown(rows: Sequence[Row]) -> str:
    head, *body = rows
    ruler = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ruler, *body))


def duration(seconds: float) -> str:
    """Seconds as a person says them: `8.2 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"
