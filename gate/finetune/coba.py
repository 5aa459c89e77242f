"""CoBa's task weights (arXiv 2410.06741, after MFTCoder's code): held-out losses come in, a weight per task goes out.

With K tasks, r_i(t) the held-out loss of task i over its first one, and a_i(t) the slope of r_i over the last `window` steps:

    RCS_i = softmax_i( K a_i(t) / sum_j |a_j(t)| )                    slow tasks get more
    ACS_i = softmax_i( -n a_i(t) / sum_s |a_i(s)| )                   diverging tasks get less, over the window's n slopes
    DF    = min(1, n softmax_s( -tau n a_max(s) / sum_u |a_max(u)| )[t])   the share of RCS: it falls when some task diverges
    w_i   = softmax_i( K (DF RCS_i + (1 - DF) ACS_i) ), at least 1/(10 K), then scaled to sum 1

Until `warm_up` measurements are there, every weight is 1/K. Pure NumPy; the whole state is the list of measurements.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def coba_weights(history: Sequence[Sequence[float]], *, warm_up: int, window: int, tau: float) -> list[float]:
    """The weights after these measurements: `history` has one list of held-out losses, by task, per measured step."""
    tasks = len(history[-1]) if history else 0
    if len(history) < warm_up or tasks < 2:
        return [1 / tasks] * tasks if tasks else []
    ratios = np.asarray(history, dtype=np.float64) / np.maximum(np.asarray(history[0], dtype=np.float64), 1e-12)
    slopes = window_slopes(ratios, warm_up, window)
    relative = _softmax(tasks * slopes[-1] / _scale(np.abs(slopes[-1]).sum()))
    steps = len(slopes)
    absolute = _softmax(-steps * slopes[-1] / _scale(np.abs(slopes).sum(axis=0)))
    worst = slopes.max(axis=1)
    divergence = min(1.0, float(steps * _softmax(-tau * steps * worst / _scale(np.abs(worst).sum()))[-1]))
    mixed = _softmax(tasks * (divergence * relative + (1 - divergence) * absolute))
    floored = np.maximum(mixed, 1 / (10 * tasks))
    return [float(weight) for weight in floored / floored.sum()]


def window_slopes(ratios: Array, warm_up: int, window: int) -> Array:
    """Least-squares slopes by task at the last `window` steps from the `warm_up`-th on, each over at most `window` ratios."""
    first = max(warm_up, len(ratios) - window + 1)
    return np.stack([slope(ratios[max(0, end - window) : end]) for end in range(first, len(ratios) + 1)])


def slope(ratios: Array) -> Array:
    """The least-squares slope of each column against the row's number."""
    steps = np.arange(len(ratios), dtype=np.float64)
    centred = steps - steps.mean()
    found: Array = centred @ (ratios - ratios.mean(axis=0)) / (centred @ centred)
    return found


def _scale(sums: Array | np.float64) -> Array | np.float64:
    """A divisor that is never nought: no slope at all is divided by one."""
    return np.where(sums > 0, sums, 1.0)


def _softmax(values: Array) -> Array:
    raised = np.exp(values - values.max())
    found: Array = raised / raised.sum()
    return found
