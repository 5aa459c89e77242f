"""Curvature from a few differences of gradients: steps and what they did to the gradient come in, H⁻¹ times a vector goes out.

The two-loop recursion (Nocedal 1980): no matrix is built, memory is that of the pairs. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch


class Pair(NamedTuple):
    """A step s, and y: the gradient after it less the gradient before."""

    s: torch.Tensor
    y: torch.Tensor


def curved(s: torch.Tensor, before: torch.Tensor, after: torch.Tensor, damping: float) -> Pair | None:
    """The pair of a step, y damped by λ·s; null where no positive curvature shows along it, which BFGS cannot use."""
    y = after - before + damping * s
    return Pair(s, y) if float(s @ y) > 1e-10 * float(s.norm() * y.norm()) else None


def inverse_times(pairs: Sequence[Pair], vector: torch.Tensor) -> torch.Tensor:
    """H⁻¹ · vector, H⁻¹ being BFGS's after these pairs, from (sᵀy ÷ yᵀy) · I of the last one; the vector itself without pairs."""
    q = vector.clone()
    alphas = []
    for s, y in reversed(pairs):
        alpha = (s @ q) / (y @ s)
        alphas.append(alpha)
        q = q - alpha * y
    if pairs:
        s, y = pairs[-1]
        q = q * ((s @ y) / (y @ y))
    for (s, y), alpha in zip(pairs, reversed(alphas), strict=True):
        q = q + s * (alpha - (y @ q) / (y @ s))
    return q


def without(vector: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """The part of a vector that is orthogonal to a direction."""
    square = direction @ direction
    return vector - (vector @ direction / square) * direction if float(square) > 0 else vector
