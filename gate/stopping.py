"""When a cell's decision ends: exactly, over all orders of its items; and what a batch engine has asked by then. Pure.

In: the boundary tables of `cells.Tests`, a number of hits, the least evidence. Out: the law of the items that `cells.walk` reads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from gate.cells import Cell, Tests
from gate.endpoints.batches import ROUND
from gate.records import Record

DRAWS: Final = 60
"""Draws of all cells' ends that `asked` takes the mean of: its error is below a hundredth of the shipped policies' totals."""
_ROUNDING = 1e-9


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
def survival(
    up: tuple[int, ...], down: tuple[int, ...], hits: int, min_judged: int, waived: bool
) -> tuple[tuple[float, ...], float, float]:
    """P(more than t items are read) for t = 0 … N - 1, P(block), P(pass), exactly.

    For `cells.walk` on a population with `hits` hits and neither invalid nor missing answers:

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
    return tuple(surviving[:population]), block, passed


def _moved(mass: npt.NDArray[np.float64], step: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """One more item: a hit with probability `step`."""
    after: npt.NDArray[np.float64] = mass * (1.0 - step)
    after[1:] += (mass * step)[:-1]
    return after


def stopping(up: tuple[int, ...], down: tuple[int, ...], hits: int, min_judged: int, waived: bool) -> Stopping:
    """The law that `survival` gives, in numbers."""
    surviving, block, passed = survival(up, down, hits, min_judged, waived)
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


@dataclass(frozen=True)
class Contest:
    """One gated cell in the queue of a run: what it may ask, and how likely it is still open."""

    cases: int
    samples: int
    surviving: tuple[float, ...]
    """P(more than t items are read) for t = 0, 1, …; empty where all of them are."""


def asked(contests: Sequence[Contest], batch_size: int) -> list[float]:
    """Mean items asked per cell by an engine that answers batch by batch: what is read, and what was under way when it ended.

    Replays `attack`'s queue over `DRAWS` seeded draws of the cells' ends: rounds of `batches.ROUND` batches, filled by the open
    cells in turn, sorted by length (taken as random here) into batches; a decided cell drops what no batch was made of yet.
    """
    rng = np.random.default_rng(0)
    totals = np.zeros(len(contests))
    most = np.array([c.cases * c.samples for c in contests])
    for _ in range(DRAWS):
        ends = np.array([_drawn_end(c, float(rng.random())) * c.samples for c in contests])
        put, made = np.zeros(len(contests), dtype=np.int64), np.zeros(len(contests), dtype=np.int64)
        while (still := np.flatnonzero(put < ends)).size:
            shares = _in_turn((most - put)[still], ROUND * batch_size)
            owners = np.repeat(np.arange(still.size), shares)
            batches = rng.permutation(owners.size) // batch_size
            for n, cell in enumerate(still):
                own = batches[owners == n]
                deciding = own[: ends[cell] - put[cell]].max(initial=0) if ends[cell] <= put[cell] + own.size else ROUND
                made[cell] += int((own <= deciding).sum())
                put[cell] += own.size
        totals += made
    return [float(total) / DRAWS / c.samples for total, c in zip(totals, contests, strict=True)]


def _drawn_end(contest: Contest, chance: float) -> int:
    """The number of items read at a quantile of the law: the least t with P(more than t) <= 1 - chance."""
    if not contest.surviving:
        return contest.cases
    return int(np.searchsorted(-np.array(contest.surviving), chance - 1.0, side="left"))


def _in_turn(left: npt.NDArray[np.int64], room: int) -> npt.NDArray[np.int64]:
    """How many of `room` places each of several gets that take one in turn while they have any `left`."""
    low, high = 0, int(left.max(initial=0))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if int(np.minimum(left, middle).sum()) <= room else (low, middle - 1)
    shares = np.minimum(left, low)
    more = np.flatnonzero(left > low)[: room - int(shares.sum())]
    shares[more] += 1
    return shares
