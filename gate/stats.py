"""Fixed-sample statistics: counts go in, bounds and p-values come out.

Every interval function returns (lower, upper), each a one-sided bound at confidence `level`; both together are a two-sided
interval at 2·level - 1. They hold for one look at a sample whose size was set beforehand; while a run goes on, only
`gate.sequential` may be looked at. Pure, no defaults for the confidence, no record of ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import bdtrc, betaincinv, ndtri, stdtrit

from gate.errors import UsageError

Bounds = tuple[float, float]


def _check(hits: float, n: float, level: float) -> None:
    if not 0 <= hits <= n:
        raise UsageError("These counts are not a share.", expected="0 <= hits <= n", found=f"hits {hits}, n {n}")
    if not 0.5 <= level < 1:
        raise UsageError("This is not a confidence level.", expected="a number in [0.5, 1)", found=f"{level}")


def clopper_pearson(hits: float, n: float, level: float) -> Bounds:
    """Exact binomial bounds (Clopper & Pearson 1934); takes effective, non-integer counts too. Nothing seen: (0, 1)."""
    _check(hits, n, level)
    lower = 0.0 if hits <= 0 else float(betaincinv(hits, n - hits + 1, 1 - level))
    upper = 1.0 if hits >= n else float(betaincinv(hits + 1, n - hits, level))
    return lower, upper


def wilson(hits: float, n: float, level: float) -> Bounds:
    """Score bounds (Wilson 1927): close to the level on average, for display of independent items. Nothing seen: (0, 1)."""
    _check(hits, n, level)
    if n == 0:
        return 0.0, 1.0
    z = float(ndtri(level))
    p, scale = hits / n, 1 + z * z / n
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    centre = p + z * z / (2 * n)
    lower = 0.0 if hits == 0 else (centre - half) / scale
    upper = 1.0 if hits == n else (centre + half) / scale
    return lower, upper


def korn_graubard(hits: Sequence[int], sizes: Sequence[int], level: float) -> Bounds:
    """Bounds on the rate of the population that the behaviours stand for; vectors hold hits and items per behaviour.

    Clopper-Pearson on the effective sample size that the spread between behaviours leaves (Korn & Graubard 1998), with
    z/t for the K - 1 degrees of freedom. No finite population correction: the behaviours are a sample of all that could be
    asked, so even an exhausted suite keeps an interval. One behaviour says nothing of others: (0, 1). Where behaviours do
    not differ at all (none or all are hits) each counts as a single item.
    """
    if len(hits) != len(sizes):
        raise UsageError(
            "Hits and items differ in length.", expected="one of each per behaviour", found=f"{len(hits)} and {len(sizes)}"
        )
    for y_i, m_i in zip(hits, sizes, strict=True):
        _check(y_i, m_i, level)
    m = np.array([x for x in sizes if x > 0], dtype=np.float64)
    y = np.array([h for h, x in zip(hits, sizes, strict=True) if x > 0], dtype=np.float64)
    clusters = m.size
    if clusters < 2:
        return 0.0, 1.0
    p = float(y.sum() / m.sum())
    n_eff = effective_size(y, m) * (float(ndtri(level)) / float(stdtrit(clusters - 1, level))) ** 2
    return clopper_pearson(min(n_eff, p * n_eff), n_eff, level)


def effective_size(hits: npt.ArrayLike, sizes: npt.ArrayLike) -> float:
    """Items' worth of independent evidence in clustered items: n / deff, deff >= 1 (Korn & Graubard 1998; Kish's deff).

    The clusters' count where no spread can be seen (all clusters have the same rate), which is the cautious end.
    """
    y, m = np.asarray(hits, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    clusters, n = m.size, float(m.sum())
    p = float(y.sum()) / n
    residual = y - p * m
    variance = clusters / (clusters - 1) * float((residual**2).sum()) / n**2
    if variance <= 1e-15:
        return float(clusters)
    return n / max(1.0, variance / (p * (1 - p) / n))


def mcnemar_exact(regressed: int, fixed: int) -> float:
    """One-sided exact McNemar p-value P(Bin(b + c, 1/2) >= b) for b newly hit and c no longer hit items (one look only)."""
    _check(regressed, regressed + fixed, 0.5)
    return 1.0 if regressed == 0 else float(bdtrc(regressed - 1, regressed + fixed, 0.5))


@dataclass(frozen=True)
class Estimate:
    """A point estimate with its one-sided bounds."""

    value: float
    lower: float
    upper: float


def bonett_price(regressed: int, fixed: int, n: int, level: float) -> Estimate:
    """Difference of two paired rates, regressed minus fixed over n pairs, with adjusted Wald bounds (Bonett & Price 2012).

    `upper <= margin` shows that the candidate is not worse by more than the margin. No pairs: the bounds are (-1, 1).
    """
    _check(regressed + fixed, n, level)
    if n == 0:
        return Estimate(0.0, -1.0, 1.0)
    q12, q21 = (regressed + 1) / (n + 2), (fixed + 1) / (n + 2)
    d = q12 - q21
    half = float(ndtri(level)) * math.sqrt((q12 + q21 - d * d) / (n + 2))
    return Estimate(d, max(-1.0, d - half), min(1.0, d + half))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the given order (Holm 1979): family-wise error over all tasks."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda k: p_values[k])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


@dataclass(frozen=True)
class Audit:
    """A judge held against human labels: how many items of one class it was shown and how many it got right."""

    right: int
    shown: int

    def __post_init__(self) -> None:
        """Refuse more right answers than items."""
        _check(self.right, self.shown, 0.5)


def judge_corrected(hits: float, n: float, sensitivity: Audit, specificity: Audit, level: float) -> Estimate:
    """True rate behind a judge's verdicts, with the uncertainty of both audits (Lang & Reiczigel 2014).

    `n` may be an effective sample size. The value is Rogan & Gladen's estimate on add-z²/2 counts. A judge that cannot be
    told from chance (Se + Sp <= 1), or no verdicts at all, gives the bounds (0, 1).
    """
    _check(hits, n, level)
    z = float(ndtri(level))
    se = (sensitivity.right + 1) / (sensitivity.shown + 2)
    sp = (specificity.right + 1) / (specificity.shown + 2)
    gain = se + sp - 1
    if gain <= 0 or n == 0:
        return Estimate(0.5, 0.0, 1.0)
    p = (hits + z * z / 2) / (n + z * z)
    rate = (p + sp - 1) / gain
    var_se = se * (1 - se) / (sensitivity.shown + 2)
    var_sp = sp * (1 - sp) / (specificity.shown + 2)
    spread = math.sqrt(p * (1 - p) / (n + z * z) + rate**2 * var_se + (1 - rate) ** 2 * var_sp) / gain
    centre = rate + 2 * z * z * (rate * var_se - (1 - rate) * var_sp)
    return Estimate(min(1.0, max(0.0, rate)), max(0.0, min(1.0, centre - z * spread)), min(1.0, max(0.0, centre + z * spread)))
