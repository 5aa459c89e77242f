"""The anytime-valid tests: answers in the committed order go in, a decision and the bound it rests on come out.

The suite is a finite population of `N` items of which an unknown number `M` are hits, drawn without replacement in an order
that was committed before the first answer. Testing that population needs no independence between items: the random order
carries the guarantee. Everything is pure; counts are integers, e-values are natural logarithms capped to ±`LOG_E_CAP`.
Sources: Waudby-Smith & Ramdas, arXiv 2006.04347 (without-replacement likelihood ratios) and arXiv 2010.09686 (betting);
Ville's inequality for the error of looking after every item. docs/statistics.md derives what is used here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from gate.errors import UsageError

Floats = npt.NDArray[np.float64]
Verdict = Literal["block", "pass", "continue"]

LOG_E_CAP = 700.0
"""e-values are kept inside exp(±700), which a double can still hold; a certainty is reported as the cap."""
_ROUNDING = 1e-9
"""0.29 * 100 must count as 29 although its double is just below, and an e-value of exactly 1/alpha as rejecting: ties are
common with whole numbers, and every function must break them alike. Far above a double's error here, far below any matter."""


def log_bar(alpha: float) -> float:
    """The log e-value that rejects at `alpha`: log(1/alpha), less what rounding may take from a value that equals it."""
    return -math.log(alpha) - _ROUNDING


def null_count(population: int, limit: float) -> int:
    """Largest number of hits among `population` items whose rate is within `limit` (a rate in [0, 1))."""
    return math.floor(limit * population + _ROUNDING)


@lru_cache(maxsize=32)
def _log_factorials(population: int) -> Floats:
    table: Floats = np.array([math.lgamma(k + 1.0) for k in range(population + 1)])
    table.flags.writeable = False
    return table


def _log_likelihood(population: int, t: int, s: int) -> tuple[int, Floats]:
    """Least M that is possible after s hits in t items, and log C(M,s) C(N-M,t-s) from there to the largest possible M."""
    fact = _log_factorials(population)
    safe = t - s
    high = population - safe + 1
    chosen = fact[s:high] - fact[: high - s]
    rest = (fact[safe : population - s + 1] - fact[: population - s - safe + 1])[::-1]
    return s, chosen + rest - fact[s] - fact[safe]


def _check_counts(population: int, t: int, s: int) -> None:
    if not 0 <= s <= t <= population:
        raise UsageError(
            "These counts cannot come from this population.",
            expected=f"0 <= hits <= items <= {population}",
            found=f"hits {s}, items {t}",
        )


def log_e_more_than(population: int, null_max: int, t: int, s: int) -> float:
    """Log e-value after s hits in t items against the null "at most `null_max` of the population are hits".

    E = mean over M > null_max of l(M) / l(null_max), with l(M) = C(M,s) C(N-M,t-s): a uniform mixture of likelihood ratios.
    Each ratio's next factor is at least 1 on a hit and at most 1 on a miss, so its expectation is at most 1 for every M of
    the null, not only at its edge (2006.04347 §2; docs/statistics.md). Certainties give ±`LOG_E_CAP`.
    """
    _check_counts(population, t, s)
    if s > null_max:
        return LOG_E_CAP
    if null_max >= population - (t - s):
        return -LOG_E_CAP
    least, log_l = _log_likelihood(population, t, s)
    edge = null_max - least
    above = log_l[edge + 1 :]
    peak = float(above.max())
    mean = peak + math.log(float(np.exp(above - peak).sum())) - math.log(population - null_max)
    return min(LOG_E_CAP, max(-LOG_E_CAP, mean - float(log_l[edge])))


@lru_cache(maxsize=256)
def _rejection_table(population: int, null_max: int, alpha: float) -> tuple[int, ...]:
    """For t = 0..N the least s at which "at most `null_max` hits" is rejected at `alpha`; N+1 where no s <= t does.

    The least s never falls as t grows and rises by at most one per item (a miss lowers the e-value, a hit raises it),
    so one walk along the boundary finds the whole table in about 2N evaluations.
    """
    bar = log_bar(alpha)
    table: list[int] = []
    s = 0
    for t in range(population + 1):
        while s <= t and log_e_more_than(population, null_max, t, s) < bar:
            s += 1
        table.append(s if s <= t else population + 1)
    return tuple(table)


@dataclass(frozen=True)
class WithoutReplacement:
    """Test of a finite suite's rate against a limit, valid however often it is looked at.

    P(block | rate <= limit) <= alpha_block and P(pass | rate > limit) <= alpha_pass, each over the committed random order
    and over every look together. When the whole suite has been judged the decision is the exact comparison.
    """

    population: int
    """Items in the suite's cell, N >= 1."""
    limit: float
    """Largest rate that is allowed, in [0, 1)."""
    alpha_block: float
    alpha_pass: float

    def __post_init__(self) -> None:
        """Refuse what no test can be built on."""
        if self.population < 1:
            raise UsageError(
                "There are no items to test.",
                expected="at least 1 item",
                found=f"{self.population}",
                mend="check the suite's filters",
            )
        if not 0 <= self.limit < 1:
            raise UsageError("This limit cannot be tested.", expected="a rate in [0, 1)", found=f"{self.limit}")
        for name, alpha in (("alpha_block", self.alpha_block), ("alpha_pass", self.alpha_pass)):
            if not 0 < alpha < 1:
                raise UsageError(f"{name} is not an error probability.", expected="a number in (0, 1)", found=f"{alpha}")

    @property
    def null_count(self) -> int:
        """M0: the largest number of hits in the suite that is within the limit."""
        return null_count(self.population, self.limit)

    def log_e_block(self, t: int, s: int) -> float:
        """Log e-value after s hits in t items against "the rate is within the limit"."""
        return log_e_more_than(self.population, self.null_count, t, s)

    def log_e_pass(self, t: int, s: int) -> float:
        """Log e-value against "the rate is over the limit": the same test with hits and misses exchanged."""
        _check_counts(self.population, t, s)
        return log_e_more_than(self.population, self.population - self.null_count - 1, t, t - s)

    @property
    def up(self) -> tuple[int, ...]:
        """For t = 0..N the least number of hits that blocks; N+1 where none does."""
        return _rejection_table(self.population, self.null_count, self.alpha_block)

    @property
    def down(self) -> tuple[int, ...]:
        """For t = 0..N the largest number of hits that passes; -1 where none does."""
        misses = _rejection_table(self.population, self.population - self.null_count - 1, self.alpha_pass)
        return tuple(max(-1, t - least) for t, least in enumerate(misses))

    def decide(self, t: int, s_sure: int, s_worst: int) -> Verdict:
        """Decision after t items: `s_sure` are hits for sure, `s_worst` also counts every missing or invalid answer.

        A block is taken from `s_sure` and a pass from `s_worst`, so an answer that never came can lead to neither.
        """
        _check_counts(self.population, t, s_sure)
        _check_counts(self.population, t, s_worst)
        if s_sure >= self.up[t]:
            return "block"
        return "pass" if s_worst <= self.down[t] else "continue"


def _least_possible(population: int, t: int, s: int, alpha: float) -> int:
    """Least M that is not ruled out after s hits in t items, each "at most m hits" being rejected at `alpha`."""
    least, log_l = _log_likelihood(population, t, s)
    peak = float(log_l.max())
    above = np.cumsum(np.exp(log_l[::-1] - peak))[::-1]
    # Position i is the null "M <= least + i"; nulls below `least` contradict the data. Underflow can only reach positions
    # beyond the likelihood's peak, where the e-value is below 1 anyway.
    with np.errstate(divide="ignore"):
        log_e = np.log(above[1:]) - np.log(population - least - np.arange(above.size - 1)) + peak - log_l[:-1]
    rejected = np.flatnonzero(log_e >= log_bar(alpha))
    return least + (int(rejected[-1]) + 1 if rejected.size else 0)


def confidence_sequence(
    population: int, t: int, s_sure: int, s_worst: int, alpha: float, *, alpha_upper: float | None = None
) -> tuple[float, float]:
    """Bounds on the suite's rate after t items: the limits that the test would not decide on, (lower, upper).

    The lower bound inverts the block side on `s_sure` at `alpha`; the upper one the pass side on `s_worst` at `alpha_upper`
    (default: `alpha`). Each holds at all looks together with its own confidence. For every limit: lower > limit exactly
    where the test with these alphas blocks at t, and upper <= limit exactly where it passes at t. This is the inversion at t
    alone, not the running intersection over earlier looks. Exact (M/N, M/N) once all is judged.
    """
    _check_counts(population, t, s_sure)
    _check_counts(population, t, s_worst)
    lower = _least_possible(population, t, s_sure, alpha)
    upper = population - _least_possible(population, t, t - s_worst, alpha if alpha_upper is None else alpha_upper)
    return lower / population, upper / population


BETS: Floats = (np.arange(32) + 0.5) / 32
"""Fractions of the capital that the betting test wagers at once, in equal parts (a mixture of bets: 2010.09686 §B, "dKelly")."""
BETS.flags.writeable = False


def _check_differences(differences: Sequence[int], population: int, unit: int = 1) -> npt.NDArray[np.int64]:
    values = np.asarray(differences, dtype=np.int64)
    if values.size > population or (values.size and (values.min() < -unit or values.max() > unit)):
        raise UsageError(
            "These are not paired differences of this suite.",
            expected=f"at most {population} values from {-unit} to {unit}",
            found=f"{values.size} values in [{values.min()}, {values.max()}]",
        )
    return values


def _log_e_differences(values: npt.NDArray[np.int64], population: int, null_sum: int, unit: int = 1) -> Floats:
    """Running log e-values against "the differences of the whole population sum to at most `null_sum`"."""
    n = values.size
    if n == 0:
        return np.zeros(0)
    gained = values + unit
    # Twice what the null leaves for the items still to come, before each item and after it (integers: no drift).
    before = null_sum + unit * population - np.concatenate(([0], np.cumsum(gained)[:-1]))
    left = population - np.arange(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        odds = np.where(before > 0, gained * left / before, np.where(gained > 0, np.inf, 1.0))
    capital = np.cumsum(np.log1p(BETS[:, None] * (odds[None, :] - 1.0)), axis=1)
    peak = capital.max(axis=0)
    with np.errstate(invalid="ignore"):
        log_e = peak + np.log(np.exp(capital - peak).mean(axis=0))
    impossible = np.maximum.accumulate(before - gained < 0)
    return np.clip(np.where(impossible, LOG_E_CAP, log_e), -LOG_E_CAP, LOG_E_CAP)


def log_e_regression(differences: Sequence[int], population: int, margin: float = 0.0) -> list[float]:
    """Running log e-values against "the mean difference over the suite is at most `margin`", one per item.

    A difference is candidate minus baseline on one item: 1 newly a hit, -1 no longer one, 0 the same; in the committed order.
    With x = (d + 1)/2 and m_t the mean that the null leaves for the items still to come, the capital is the mean over `BETS`
    of prod(1 + bet (x_t - m_t)/m_t): bets are fixed before the item is seen, so every capital is a nonnegative
    supermartingale under every suite of the null (arXiv 2010.09686 §5, sampling without replacement). For an endless stream
    and margin 0, m_t stays 1/2 and this is the mixture form of the sequential McNemar test.
    That likelihood mixture itself (2^(b+c+1) B(b+1,c+1) (1 - I_.5(b+1,c+1))) is not used here: drawn without replacement, the
    sign of the next discordant pair depends on those already seen. After more -1 than +1 the remaining +1 can be the
    majority although the null holds, and then that mixture grows in expectation.
    """
    values = _check_differences(differences, population)
    return [float(x) for x in _log_e_differences(values, population, null_count(population, margin))]


def difference_lower_bound(differences: Sequence[int], population: int, alpha: float, unit: int = 1) -> float:
    """Lower bound on the suite's mean difference, confidence 1 - alpha over all looks together: `log_e_regression` inverted.

    Differences are whole numbers of 1/`unit`, from -1 to 1: with a unit of 1 what a rate can do, with a larger one any score.
    Bisection over the possible sums (the e-value falls as the margin grows); a null counts as ruled out once its e-value has
    ever reached 1/alpha, so the bound never falls as items come in. Exact once the whole population is in.
    """
    values = _check_differences(differences, population, unit)
    # The bound is the least sum not ruled out: sums below `low` are ruled out, `high` is not.
    seen = int(values.sum())
    low, high = -unit * population, seen + unit * (population - values.size)
    while low < high:
        middle = (low + high) // 2
        log_e = _log_e_differences(values, population, middle, unit)
        if log_e.size and float(log_e.max()) >= log_bar(alpha):
            low = middle + 1
        else:
            high = middle
    return low / (unit * population)


@dataclass(frozen=True)
class StoppingLaw:
    """How a test ends on a suite with a given number of hits, exactly (over all orders)."""

    mean: float
    """Mean number of items judged."""
    p90: int
    """Nine runs in ten end after at most so many items."""
    block: float
    """Probability of ending in a block."""
    passed: float
    """Probability of ending in a pass."""


def stopping_law(up: Sequence[int], down: Sequence[int], hits: int) -> StoppingLaw:
    """Exact law of the stopping time of any pair of boundary tables on a suite with `hits` hits.

    Walks the hypergeometric tree: `alive[s]` is the probability of having seen s hits after t items and no decision yet.
    Runs that the tables never decide end at N and count for neither side.
    """
    population = len(up) - 1
    counts = np.arange(hits + 1)
    alive = np.zeros(hits + 1)
    alive[0] = 1.0
    block = passed = 0.0
    surviving = [1.0]
    for t in range(1, population + 1):
        step = np.clip((hits - counts) / (population - t + 1), 0.0, 1.0)
        moved = alive * (1.0 - step)
        moved[1:] += (alive * step)[:-1]
        blocked, safe = counts >= up[t], counts <= down[t]
        block += float(moved[blocked].sum())
        passed += float(moved[safe & ~blocked].sum())
        alive = np.where(blocked | safe, 0.0, moved)
        surviving.append(float(alive.sum()))
        if surviving[-1] == 0.0:
            break
    mean = sum(surviving[:population])
    ended = [1.0 - x for x in surviving]
    p90 = next((t for t, x in enumerate(ended) if x >= 0.9 - _ROUNDING), population)
    return StoppingLaw(mean=mean, p90=p90, block=block, passed=passed)


def expected_generations(test: WithoutReplacement, rate: float) -> StoppingLaw:
    """Exact stopping law of the test on a suite whose rate is `rate` (rounded to a whole number of items)."""
    return stopping_law(test.up, test.down, round(rate * test.population))
