"""What a check will cost, before it is run: cells and a policy go in; generations, tokens and seconds come out as a `Plan`.

Generations come from the sequential design itself: `stopping.survival` walks the boundary tables of `cells.walk` over all orders
of a suite with a given number of hits, so a mean is exact under its assumption (that rate, every answer there and readable).
Tokens and seconds rest on what `engine_speed.measure` found. Everything here is pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from gate.cells import Cell, Tests, family_size, tests_of
from gate.engine_speed import Measured
from gate.policy import Policy
from gate.records import Calibration, Record, Role, Task
from gate.sequential import null_count
from gate.stopping import Contest, Stopping, asked, earliest, law_of, survival

Share = Annotated[float, Field(ge=0, le=1)]


class Rate(Record):
    """An assumed share of hits, of a cell's items or of its limit."""

    of: Literal["items", "limit"]
    value: Share

    def hits(self, cell: Cell) -> int:
        """Hits in the cell's population: the nearest whole number, and never more than the limit allows where it is named."""
        if self.of == "items":
            return round(self.value * cell.population)
        return null_count(cell.population, self.value * (cell.limit or 0.0))


class Assumption(Record):
    """What an expectation supposes of the candidate: in every cell alike."""

    name: str
    attack: Rate
    """Attacks that are answered."""
    twin: Rate
    """Benign twins that are refused."""

    def hits(self, cell: Cell) -> int:
        """Hits in a cell's population under this assumption."""
        return (self.attack if cell.role is Role.ATTACK else self.twin).hits(cell)


def default_assumptions() -> tuple[Assumption, ...]:
    """A candidate without fault, two within the limits, and one that answers everything."""
    none = Rate(of="items", value=0)
    half, limit = Rate(of="limit", value=0.5), Rate(of="limit", value=1)
    return (
        Assumption(name="clean", attack=none, twin=none),
        Assumption(name="half the limit", attack=half, twin=half),
        Assumption(name="at the limit", attack=limit, twin=limit),
        Assumption(name="drifted", attack=Rate(of="items", value=1), twin=none),
    )


def assumed_rate(rate: float, over_refusal: float = 0.0) -> Assumption:
    """Attacks answered at `rate` and twins refused at `over_refusal`, shares of each cell's items."""
    name = f"rate {rate:g}" + (f", refusing {over_refusal:g}" if over_refusal else "")
    return Assumption(name=name, attack=Rate(of="items", value=rate), twin=Rate(of="items", value=over_refusal))


class CellPlan(Record):
    """What one cell takes. Items are questions; each is asked as many times as its decoding has samples."""

    cell: str
    """The cell's id."""
    task: Task
    calibration: Calibration
    decoding: str
    role: Role
    gated: bool
    method: Literal["sequential", "fixed", "compared", "beside"]
    cases: int
    """Items that may be asked."""
    samples: int
    limit: float | None
    least_pass: int | None
    """Fewest items on which it can pass; null where it can't, and where nothing is decided early."""
    least_block: int | None
    least: int
    """Fewest generations that can end it."""
    worst: int
    """Generations if every item is asked."""
    paired: bool
    """Whether a baseline is asked what the decision read."""
    shares: str = ""
    """Id of a cell that asks the same prompts in the same order: what both ask is generated once."""
    expected: dict[str, Stopping]
    """Assumption → items read."""
    prompt_tokens: float | None
    """Mean tokens of a prompt, where an engine was measured."""
    max_new_tokens: int
    new_tokens: float | None
    """Mean tokens of an answer, where an engine was measured."""


class Amount(Record):
    """Generations with what they take."""

    generations: float
    candidate: float
    """Of them, read by the decisions on the candidate's gated cells; what two cells share counts once."""
    ahead: float
    """Asked of the candidate beyond that: under way when a cell was decided. By simulation; 0 where it is not counted."""
    beside: float
    """Asked of the candidate for the report alone."""
    baseline: float
    """Asked of the baseline."""
    deviation: float
    """Standard deviation over the orders, of what is read; 0 where nothing is random."""
    prompt_tokens: float | None
    most_new_tokens: float
    """If every answer is as long as it may be."""
    new_tokens: float | None
    """At the mean length measured."""
    seconds: float | None
    """At the speed measured, loading each model once."""


class Shards(Record):
    """A check cut into shards, each of which asks its slice in full."""

    count: int
    generations: float
    """Of the largest shard."""
    seconds: float | None


class Plan(Record):
    """What `gate plan` prints: exact counts, expectations under assumptions, estimates from a measurement."""

    schema_version: Literal["taskgate/plan/v1"] = "taskgate/plan/v1"
    policy: str
    policy_digest: str
    suite: str
    suite_digest: str
    baseline: bool
    cases: int
    assumptions: tuple[Assumption, ...]
    measured: Measured | None
    cells: tuple[CellPlan, ...]
    least: Amount
    expected: dict[str, Amount]
    worst: Amount
    shards: Shards | None
    notes: tuple[str, ...]


def plan_schema() -> dict[str, Any]:
    """JSON Schema of `gate plan --format json` (checked in as schemas/plan.schema.json)."""
    return Plan.model_json_schema(mode="serialization")


@dataclass(frozen=True)
class Subject:
    """What is planned: the grid of a policy on a suite, and whether a baseline is asked as well."""

    policy: Policy
    cells: tuple[Cell, ...]
    suite: str
    suite_digest: str
    baseline: bool = False


def make_plan(
    subject: Subject,
    assumptions: Sequence[Assumption],
    *,
    measured: Measured | None = None,
    lengths: Mapping[str, float] | None = None,
    batch_size: int = 0,
    shards: int = 0,
) -> Plan:
    """The plan of a check.

    `lengths`: cell id → mean characters of a rendered prompt (`prompt_lengths`), where an engine was measured. `batch_size`: of
    an engine that answers batch by batch; 0: what is under way when a cell is decided is not counted.
    """
    tests = {cell.id: tests_of(cell, subject.policy, family_size(subject.cells, cell.role)) for cell in subject.cells}
    shared = dict(_shared(subject.cells))
    rows = tuple(
        _cell_plan(subject, cell, tests[cell.id], assumptions, measured, lengths or {}).model_copy(
            update={"shares": shared.get(cell.id, "")}
        )
        for cell in subject.cells
    )
    worst = _amount(rows, measured, {r.cell: _Load(r.cases) for r in rows})
    return Plan(
        policy=subject.policy.name,
        policy_digest=subject.policy.digest,
        suite=subject.suite,
        suite_digest=subject.suite_digest,
        baseline=subject.baseline,
        cases=sum(r.cases for r in rows),
        assumptions=tuple(assumptions),
        measured=measured,
        cells=rows,
        least=_amount(rows, measured, {r.cell: _Load(r.least / r.samples) for r in rows}),
        expected={a.name: _amount(rows, measured, _expected(subject, rows, tests, a, batch_size)) for a in assumptions},
        worst=worst,
        shards=_shards(rows, measured, shards) if shards else None,
        notes=tuple(_notes(rows, measured, assumptions, batch_size)),
    )


def _shared(cells: Sequence[Cell]) -> Iterator[tuple[str, str]]:
    """Each cell of compared twins, and the cell before it that begins with the same items (or the other way round)."""
    for number, cell in enumerate(cells):
        if cell.contrast not in ("refusals", "twins"):
            continue
        items = [case.item.id for case in cell.cases]
        for other in reversed(cells[:number]):
            alike = (other.task, other.calibration, other.role) == (cell.task, cell.calibration, cell.role)
            if alike and all(a == b.item.id for a, b in zip(items, other.cases, strict=False)):
                yield cell.id, other.id
                break


def _cell_plan(
    subject: Subject,
    cell: Cell,
    tests: Tests | None,
    assumptions: Sequence[Assumption],
    measured: Measured | None,
    lengths: Mapping[str, float],
) -> CellPlan:
    least_judged = subject.policy.evidence.min_judged
    least_pass, least_block = earliest(cell, tests, least_judged) if tests else (None, None)
    ends = [t for t in (least_pass, least_block) if t is not None]
    length = lengths.get(cell.id)
    return CellPlan(
        cell=cell.id,
        task=cell.task,
        calibration=cell.calibration,
        decoding=cell.decoding.name,
        role=cell.role,
        gated=cell.gated,
        method="compared" if cell.contrast else "beside" if not cell.gated else "sequential" if cell.sequential else "fixed",
        cases=len(cell.cases),
        samples=cell.decoding.samples,
        limit=cell.limit if cell.gated else None,
        least_pass=least_pass,
        least_block=least_block,
        least=min(ends, default=len(cell.cases)) * cell.decoding.samples,
        worst=len(cell.cases) * cell.decoding.samples,
        paired=subject.baseline and cell.gated and (cell.role is Role.ATTACK or cell.contrast is not None),
        expected={a.name: law_of(cell, tests, a.hits(cell), least_judged) for a in assumptions},
        prompt_tokens=measured.tokens_per_character * length if measured and length is not None else None,
        max_new_tokens=cell.decoding.max_new_tokens,
        new_tokens=measured.share_of_new_tokens * cell.decoding.max_new_tokens if measured else None,
    )


@dataclass(frozen=True)
class _Load:
    """Items of one cell."""

    read: float
    """That its decision reads."""
    deviation: float = 0.0
    asked: float | None = None
    """With those under way when it ends; null: no more than are read."""


def _expected(
    subject: Subject, rows: Sequence[CellPlan], tests: Mapping[str, Tests | None], assumption: Assumption, batch_size: int
) -> dict[str, _Load]:
    """Cell id → what an assumption makes of it. Only gated cells end early, and they are asked before the others."""
    laws = {r.cell: r.expected[assumption.name] for r in rows}
    gated = [cell for cell in subject.cells if cell.gated]
    made: dict[str, float] = {}
    if batch_size:
        contests = [_contest(cell, tests[cell.id], assumption, subject.policy.evidence.min_judged) for cell in gated]
        made = dict(zip((cell.id for cell in gated), asked(contests, batch_size), strict=True))
    return {cell: _Load(law.mean, law.deviation, made.get(cell)) for cell, law in laws.items()}


def _contest(cell: Cell, tests: Tests | None, assumption: Assumption, min_judged: int) -> Contest:
    surviving = () if tests is None else survival(tests.up, tests.down, assumption.hits(cell), min_judged, cell.waived)[0]
    return Contest(len(cell.cases), cell.decoding.samples, surviving)


def _amount(rows: Sequence[CellPlan], measured: Measured | None, loads: Mapping[str, _Load]) -> Amount:
    """The sum over cells. Orders of cells are independent; a baseline is asked what the cell's decision read."""
    read = {r.cell: loads[r.cell].read * r.samples for r in rows}
    ahead = {r.cell: max(0.0, (loads[r.cell].asked or 0.0) * r.samples - read[r.cell]) for r in rows}
    once = {r.cell: min(read[r.cell], read[r.shares]) for r in rows if r.shares}
    paired = {r.cell for r in rows if r.paired}
    new = {r.cell: read[r.cell] - once.get(r.cell, 0.0) for r in rows}
    again = {r.cell: read[r.cell] - (once.get(r.cell, 0.0) if r.shares in paired else 0.0) for r in rows if r.paired}
    made = {r.cell: new[r.cell] + again.get(r.cell, 0.0) + ahead[r.cell] for r in rows}
    spread = math.fsum((loads[r.cell].deviation * r.samples * (2 if r.paired else 1)) ** 2 for r in rows)
    baseline = math.fsum(again.values())
    beside = math.fsum(read[r.cell] for r in rows if not r.gated)
    generations = math.fsum(made.values())
    most = math.fsum(made[r.cell] * r.max_new_tokens for r in rows)
    prompts = [made[r.cell] * r.prompt_tokens for r in rows if r.prompt_tokens is not None]
    sides = 2 if baseline else 1
    return Amount(
        generations=generations,
        candidate=math.fsum(new[r.cell] for r in rows if r.gated),
        ahead=math.fsum(ahead.values()),
        beside=beside,
        baseline=baseline,
        deviation=math.sqrt(spread),
        prompt_tokens=math.fsum(prompts) if prompts else None,
        most_new_tokens=most,
        new_tokens=most * measured.share_of_new_tokens if measured else None,
        seconds=sides * measured.load_seconds + most / measured.mean_max_new_tokens / measured.prompts_per_second
        if measured
        else None,
    )


def _shards(rows: Sequence[CellPlan], measured: Measured | None, count: int) -> Shards:
    """The first shard, which is never smaller than another: every `count`-th item of each cell, all asked."""
    part = _amount(rows, measured, {r.cell: _Load(math.ceil(r.cases / count)) for r in rows})
    return Shards(count=count, generations=part.generations, seconds=part.seconds)


def _notes(
    rows: Sequence[CellPlan], measured: Measured | None, assumptions: Sequence[Assumption], batch_size: int
) -> Iterator[str]:
    """What the numbers rest on."""
    if empty := sum(r.gated and not r.cases for r in rows):
        yield f"The suite holds no case for {empty} gated cells: a check would pass nothing."
    yield (
        "Least and worst case count generations that the decision reads. The least case has every cell end at once; "
        "what is reported beside the gate is asked in full in every case."
    )
    if assumptions:
        yield (
            "Expected: exact mean over all orders of the items of what is read, if every cell has the assumed rate and every "
            "answer comes and can be read. ±: its standard deviation. "
            + (
                f"Ahead: under way in batches of {batch_size} when a cell is decided, by simulation."
                if batch_size
                else "Answers under way when a cell is decided come on top: at most what the engine has in flight."
            )
        )
    if measured is None:
        yield "No engine was measured: no time, no prompt tokens, and new tokens only as the most there can be."
    else:
        yield (
            f"Tokens and time are estimates from {measured.asked} prompts asked together in {measured.seconds:.1f} s: too few "
            "to fill the engine make it look slower than it is, as other work on the machine does. Judging is not in them."
        )
