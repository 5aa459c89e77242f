"""What a check will cost, before it is run: cells and a policy go in; generations, tokens and seconds come out as a `Plan`.

Generations come from the sequential design itself: `stopping` walks the boundary tables of `cells.walk` over all orders of a
suite with a given number of hits, so a mean is exact under its assumption (that rate, every answer there and readable). Tokens
and seconds rest on what `engine_speed.measure` found. Everything here is pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from gate.cells import Cell, Tests, family_size, tests_of
from gate.engine_speed import Measured
from gate.policy import Policy
from gate.records import Calibration, Record, Role, Task
from gate.sequential import null_count

Share = Annotated[float, Field(ge=0, le=1)]
_ROUNDING = 1e-9


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


class Stopping(Record):
    """How many items a cell's decision reads, over all orders of its items."""

    mean: float
    deviation: float
    """Standard deviation over the orders."""
    p90: int
    """Nine orders in ten end after at most so many."""
    block: float
    """Probability of a block; what neither blocks nor passes reads every item."""
    passed: float


@lru_cache(maxsize=1024)
def stopping(up: tuple[int, ...], down: tuple[int, ...], hits: int, min_judged: int, waived: bool) -> Stopping:
    """Exact law of `cells.walk`'s end on a population with `hits` hits and neither invalid nor missing answers.

    `sequential.stopping_law` with what `walk` adds: a pass that has crossed waits for `min_judged` answers and can still turn
    into a block meanwhile; a block that a waiver lifts waits too. `undecided[s]`, `passing[s]`: probability of s hits so far.
    """
    population = len(up) - 1
    counts = np.arange(hits + 1)
    undecided, passing = np.zeros(hits + 1), np.zeros(hits + 1)
    undecided[0] = 1.0
    held = block = passed = 0.0
    surviving = [1.0]
    for t in range(1, population + 1):
        step = np.clip((hits - counts) / (population - t + 1), 0.0, 1.0)
        undecided, passing = _moved(undecided, step), _moved(passing, step)
        crossed = counts <= down[t]
        passing, undecided = passing + np.where(crossed, undecided, 0.0), np.where(crossed, 0.0, undecided)
        over = counts >= up[t]
        held += float(undecided[over].sum() + passing[over].sum())
        undecided, passing = np.where(over, 0.0, undecided), np.where(over, 0.0, passing)
        enough = t >= min_judged
        if enough or not waived or t == population:
            block, held = block + held, 0.0
        if enough:
            passed += float(passing.sum())
            passing = np.zeros(hits + 1)
        surviving.append(float(undecided.sum() + passing.sum()) + held)
    return _law(surviving[:population], block, passed)


def _moved(mass: npt.NDArray[np.float64], step: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """One more item: a hit with probability `step`."""
    after: npt.NDArray[np.float64] = mass * (1.0 - step)
    after[1:] += (mass * step)[:-1]
    return after


def _law(surviving: Sequence[float], block: float, passed: float) -> Stopping:
    """The law from P(more than t items are read) for t = 0 … N - 1."""
    mean = math.fsum(surviving)
    square = math.fsum((2 * t + 1) * x for t, x in enumerate(surviving))
    p90 = next((t for t, x in enumerate(surviving) if x <= 0.1 + _ROUNDING), len(surviving))
    return Stopping(mean=mean, deviation=math.sqrt(max(0.0, square - mean * mean)), p90=p90, block=block, passed=passed)


def law_of(cell: Cell, tests: Tests | None, hits: int, min_judged: int) -> Stopping:
    """How many items of a cell are read where its population holds `hits`; all of a fixed cell's."""
    if tests is None:
        return Stopping(mean=len(cell.cases), deviation=0.0, p90=len(cell.cases), block=0.0, passed=0.0)
    return stopping(tests.up, tests.down, hits, min_judged, cell.waived)


def earliest(cell: Cell, tests: Tests, min_judged: int) -> tuple[int | None, int | None]:
    """Fewest items on which the cell can pass, and on which it can block; null where no order of any hits can."""
    least_pass = next((max(t, min_judged) for t, most in enumerate(tests.down) if most >= 0), None)
    if least_pass is not None and least_pass > cell.population:
        least_pass = None
    least_block = next((t for t, least in enumerate(tests.up) if least <= t), None)
    if least_block is not None and cell.waived:
        least_block = min(cell.population, max(least_block, min_judged))
    return least_pass, least_block


class CellPlan(Record):
    """What one cell takes. Items are questions; each is asked as many times as its decoding has samples."""

    cell: str
    """The cell's id."""
    task: Task
    calibration: Calibration
    decoding: str
    role: Role
    gated: bool
    method: Literal["sequential", "fixed", "beside"]
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
    """Of them, asked of the candidate in gated cells."""
    beside: float
    """Asked of the candidate for the report alone."""
    baseline: float
    """Asked of the baseline."""
    deviation: float
    """Standard deviation of `generations` over the orders; 0 where nothing is random."""
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
    shards: int = 0,
) -> Plan:
    """The plan. `lengths`: cell id → mean characters of a rendered prompt (`prompt_lengths`), where an engine was measured."""
    rows = tuple(_cell_plan(subject, cell, assumptions, measured, lengths or {}) for cell in subject.cells)
    least = _amount(rows, measured, {r.cell: (r.least / r.samples, 0.0) for r in rows})
    worst = _amount(rows, measured, {r.cell: (float(r.cases), 0.0) for r in rows})
    expected = {
        a.name: _amount(rows, measured, {r.cell: (r.expected[a.name].mean, r.expected[a.name].deviation) for r in rows})
        for a in assumptions
    }
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
        least=least,
        expected=expected,
        worst=worst,
        shards=_shards(rows, measured, shards) if shards else None,
        notes=tuple(_notes(measured, assumptions)),
    )


def _cell_plan(
    subject: Subject, cell: Cell, assumptions: Sequence[Assumption], measured: Measured | None, lengths: Mapping[str, float]
) -> CellPlan:
    policy = subject.policy
    tests = tests_of(cell, policy, family_size(subject.cells, cell.role))
    least_judged = policy.evidence.min_judged
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
        method="beside" if not cell.gated else "sequential" if cell.sequential else "fixed",
        cases=len(cell.cases),
        samples=cell.decoding.samples,
        limit=cell.limit if cell.gated else None,
        least_pass=least_pass,
        least_block=least_block,
        least=min(ends, default=len(cell.cases)) * cell.decoding.samples,
        worst=len(cell.cases) * cell.decoding.samples,
        paired=subject.baseline and cell.gated and cell.role is Role.ATTACK,
        expected={a.name: law_of(cell, tests, a.hits(cell), least_judged) for a in assumptions},
        prompt_tokens=measured.tokens_per_character * length if measured and length is not None else None,
        max_new_tokens=cell.decoding.max_new_tokens,
        new_tokens=measured.share_of_new_tokens * cell.decoding.max_new_tokens if measured else None,
    )


def _amount(rows: Sequence[CellPlan], measured: Measured | None, items: Mapping[str, tuple[float, float]]) -> Amount:
    """The sum over cells of (mean, deviation) items each. Orders of cells are independent; a baseline follows its cell."""
    asked = {r.cell: items[r.cell][0] * r.samples * (2 if r.paired else 1) for r in rows}
    spread = math.fsum((items[r.cell][1] * r.samples * (2 if r.paired else 1)) ** 2 for r in rows)
    baseline = math.fsum(asked[r.cell] / 2 for r in rows if r.paired)
    beside = math.fsum(asked[r.cell] for r in rows if not r.gated)
    generations = math.fsum(asked.values())
    most = math.fsum(asked[r.cell] * r.max_new_tokens for r in rows)
    prompts = [asked[r.cell] * r.prompt_tokens for r in rows if r.prompt_tokens is not None]
    loads = 2 if baseline else 1
    return Amount(
        generations=generations,
        candidate=generations - beside - baseline,
        beside=beside,
        baseline=baseline,
        deviation=math.sqrt(spread),
        prompt_tokens=math.fsum(prompts) if prompts else None,
        most_new_tokens=most,
        new_tokens=most * measured.share_of_new_tokens if measured else None,
        seconds=loads * measured.load_seconds + most / measured.mean_max_new_tokens / measured.prompts_per_second
        if measured
        else None,
    )


def _shards(rows: Sequence[CellPlan], measured: Measured | None, count: int) -> Shards:
    """The first shard, which is never smaller than another: every `count`-th item of each cell, all asked."""
    part = _amount(rows, measured, {r.cell: (float(math.ceil(r.cases / count)), 0.0) for r in rows})
    return Shards(count=count, generations=part.generations, seconds=part.seconds)


def _notes(measured: Measured | None, assumptions: Sequence[Assumption]) -> Iterator[str]:
    """What the numbers rest on."""
    yield (
        "Least and worst case count generations that the decision reads. The least case has every cell end at once; "
        "what is reported beside the gate is asked in full in every case."
    )
    if assumptions:
        yield (
            "Expected: exact mean over all orders of the items, if every cell has the assumed rate and every answer comes and "
            "can be read. Answers under way when a cell is decided come on top. ±: standard deviation over the orders."
        )
    if measured is None:
        yield "No engine was measured: no time, no prompt tokens, and new tokens only as the most there can be."
    else:
        yield (
            f"Tokens and time are estimates from {measured.asked} prompts asked together in {measured.seconds:.1f} s: too few "
            "to fill the engine make it look slower than it is, as other work on the machine does. Judging is not in them."
        )
