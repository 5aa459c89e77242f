"""How much each labelled text counts when scales and thresholds are fitted, so that no single set decides.

In: the texts' sets and classes. Out: weights, float64 [n]. Two rules: a set counts as at most `FULL_SET` texts, and the sets of
our own material together count as at most as much as the foreign ones where there are any. Pure.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

FULL_SET: Final = 100
"""From this many texts on all sets weigh the same; a smaller one weighs what it has, or two texts could decide a quantile."""
OWN_PREFIX: Final = "own_"


def set_weights(datasets: Sequence[str]) -> Floats:
    """Weights of texts by their sets' names: sets equal from `FULL_SET` texts on, our own at most half of the sum."""
    names = np.asarray(datasets, dtype=object)
    weights = np.zeros(len(names))
    for name in sorted(set(datasets)):
        member = names == name
        weights[member] = min(int(member.sum()), FULL_SET) / member.sum()
    own = np.array([name.startswith(OWN_PREFIX) for name in datasets], dtype=np.bool_)
    foreign_sum, own_sum = float(weights[~own].sum()), float(weights[own].sum())
    if 0 < foreign_sum < own_sum:
        weights[own] *= foreign_sum / own_sum
    return weights


def class_weights(datasets: Sequence[str], positive: Flags, prior: float) -> Floats:
    """Set weights scaled so that the positive class sums to `prior` and the other to 1 - prior; both must be present."""
    if not 0 < prior < 1:
        msg = f"the prior must lie between 0 and 1, not {prior}"
        raise ValueError(msg)
    if positive.all() or not positive.any():
        msg = "both classes are needed to weigh them"
        raise ValueError(msg)
    weights = np.zeros(len(positive))
    for side, share in ((positive, prior), (~positive, 1 - prior)):
        part = set_weights([name for name, inside in zip(datasets, side, strict=True) if inside])
        weights[side] = part / part.sum() * share
    return weights


def effective(weights: Floats) -> float:
    """How many texts of equal weight say as much (Kish 1965): (sum of w)^2 / sum of w^2; 0 for none."""
    return float(weights.sum() ** 2 / (weights**2).sum()) if len(weights) else 0.0
