"""The alignment's own directions, layer by layer: how much of an update lies in them, and its part that does.

For a layer let V = W_aligned − W_unaligned (d × k) and C = V Vᵀ / ‖V‖_F (Safe LoRA, Hsu et al., 2405.16833). C is d × d and is
never built: C B = V (Vᵀ B) / ‖V‖_F costs d·k·r, and the cosine of C·B·A and B·A needs r × r Gram matrices alone.

C is no projector, though the paper calls it one: it is divided by ‖V‖_F and not by (Vᵀ V), so it also scales, by σᵢ² / ‖V‖_F in
the i-th direction. Hence the option `rescale`, which gives the layer's update its norm back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gate.repair.base import Source, need
from gate.repair.tensors import Adapter, Factors, Weights

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Aligned:
    """One module of an adapter beside its alignment."""

    factors: Factors
    projected: torch.Tensor
    """C B, in float32."""
    cosine: float
    """Of C·B·A and B·A: near 0 where the update has left the alignment's directions. 0 where either vanishes."""

    def project(self, *, rescale: bool) -> Factors:
        """The module's factors with C B in place of B; rescaled, with the norm that B·A had."""
        b = self.projected
        if rescale:
            before, after = _norm(self.factors.b.float(), self.factors.a), _norm(b, self.factors.a)
            b = b * (before / after) if after > 0 else b
        return replace(self.factors, b=b.to(self.factors.b.dtype))


def beside_alignment(source: Source, adapter: Adapter) -> dict[str, Aligned]:
    """Every module of the adapter with its projection and cosine, by the module's name."""
    aligned, unaligned = Weights(Path(need(source.aligned).path)), Weights(Path(need(source.unaligned).path))
    found: dict[str, Aligned] = {}
    for module, factors in adapter.factors.items():
        weight = aligned.get(f"{module}.weight")
        vector = weight.float() - unaligned.like(f"{module}.weight", weight)
        if adapter.config.get("fan_in_fan_out"):
            vector = vector.T
        image = projected(vector, factors.b.float())
        found[module] = Aligned(factors, image, cosine(image, factors.b.float(), factors.a.float()))
    return found


def projected(vector: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """C B = V (Vᵀ B) / ‖V‖_F; zero where alignment did not touch the layer."""
    norm = vector.norm()
    return vector @ (vector.T @ b) / norm if norm > 0 else b * 0


def cosine(image: torch.Tensor, b: torch.Tensor, a: torch.Tensor) -> float:
    """⟨C B A, B A⟩ / (‖C B A‖ ‖B A‖), from r × r matrices."""
    product = float(((b.T @ image) * (a @ a.T)).sum())
    norms = _norm(image, a) * _norm(b, a)
    return product / norms if norms > 0 else 0.0


def lowest(modules: Mapping[str, Aligned], number: int) -> tuple[str, ...]:
    """The `number` modules whose updates lie least along the alignment, by name where they tie."""
    return tuple(sorted(modules, key=lambda name: (modules[name].cosine, name))[:number])


def _norm(b: torch.Tensor, a: torch.Tensor) -> float:
    """‖B A‖_F."""
    a = a.float()
    return float(((b.T @ b) * (a @ a.T)).sum().clamp(min=0).sqrt())
