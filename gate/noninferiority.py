"""Bounds on how much worse one model is than another on the same questions: paired losses in [-1, 1] go in, bounds come out.

Two claims. Of the *set*: its own mean loss, from items drawn without replacement in a committed order; exact once all are in. Of
the *population* that the set's behaviours (or rows) stand for: they are taken for independent draws, the items of one behaviour
are not. Both hold at their confidence for every distribution of the losses, in samples of any size. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from gate.errors import UsageError
from gate.sequential import BETS, difference_lower_bound, log_bar

UNIT: Final = 1_000_000
"""Scores count as whole millionths, so that sums are exact and a set that was asked whole is decided by its exact mean."""
_STEPS: Final = 40
"""Bisections of [-1, 1]: finer than a double can matter."""


def in_units(loss: float) -> int:
    """A loss in [-1, 1] as whole millionths."""
    return round(loss * UNIT)


def set_lower_bound(losses: Sequence[float], population: int, alpha: float) -> float:
    """Lower bound on the mean loss over a set of `population` items, of which these were drawn first; confidence 1 - alpha."""
    return difference_lower_bound([in_units(loss) for loss in losses], population, alpha, UNIT) if population else -1.0


def set_upper_bound(losses: Sequence[float], population: int, alpha: float) -> float:
    """The mirror: an upper bound on the mean loss over the set."""
    return 0.0 - set_lower_bound([-loss for loss in losses], population, alpha)


def mean_lower_bound(values: Sequence[float], weights: Sequence[float], alpha: float) -> float:
    """Lower bound on the weighted mean of the expectations of independent values in [-1, 1], at confidence 1 - alpha.

    Inverts the e-value E(m) = mean over `BETS` of prod(1 + bet w_i/w_max (x_i - m)/(1 + m)) against "the weighted mean is at most
    m". Every factor is nonnegative, and by the inequality of the means the product of their expectations is at most 1 wherever
    the weighted mean is at most m, however the expectations differ (the step of Hoeffding 1963, Theorem 1); Markov's inequality
    does the rest. One look at a number of values that was set beforehand.
    """
    x, w = np.asarray(values, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if x.size != w.size or (x.size and (np.abs(x).max() > 1 or w.min() < 0)):
        raise UsageError(
            "These are not losses with weights.",
            expected="as many weights as values, values in [-1, 1]",
            found=f"{x.size}, {w.size}",
        )
    if not x.size or w.max() == 0:
        return -1.0
    share, bar = w / w.max(), log_bar(alpha)
    low, high = -1.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        growth = np.log1p(BETS[:, None] * (share * (x - middle) / (1 + middle))[None, :]).sum(axis=1)
        peak = float(growth.max())
        log_e = peak + math.log(float(np.exp(growth - peak).mean()))
        low, high = (middle, high) if log_e >= bar else (low, middle)
    return low


def mean_upper_bound(values: Sequence[float], weights: Sequence[float], alpha: float) -> float:
    """The mirror: an upper bound on the weighted mean."""
    return 0.0 - mean_lower_bound([-value for value in values], weights, alpha)


def fewest_items(limit: float, alpha: float) -> int:
    """Fewest independent items, none of them answered worse, whose upper bound on the mean loss is within `limit`."""
    low, high = 0, 1
    while mean_upper_bound([0.0] * high, [1.0] * high, alpha) > limit:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        shown = mean_upper_bound([0.0] * middle, [1.0] * middle, alpha) <= limit
        low, high = (low, middle) if shown else (middle, high)
    return high
