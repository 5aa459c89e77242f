"""R1: serve θ_base + α · BA with α below 1, the largest that the gate lets through.

What fine-tuning took from the refusals goes back first as its update is scaled down (cf. Farn et al., 2412.19512, who merge the
models before and after). In: an adapter, or a whole model and the aligned one. Out: the same adapter with `lora_alpha` times α,
its weights byte for byte as they were; or, merged, θ_aligned + α · (θ − θ_aligned).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gate.repair.base import Need, Search, Setting, Source, Stage, Tell, need
from gate.repair.tensors import Adapter, Weights, unfit_adapter, write_adapter, write_model

if TYPE_CHECKING:
    import torch

RUNGS = 16
"""α is sought to a sixteenth."""


class Scaling:
    """Scales the candidate's update. See `gate.repair.base.Method`."""

    name = "scaling"
    title = "scale the update down: θ_aligned + α·Δ (R1, 2412.19512)"
    stage: Stage = "post"
    needs: tuple[Need, ...] = ("aligned",)
    search: Search = "bisect"
    experimental = False
    keys: tuple[str, ...] = ("alpha", "merged")

    def unfit(self, source: Source) -> str:
        """Scaling is defined for LoRA factors and for whole weights."""
        return unfit_adapter(source.candidate)

    def settings(self) -> tuple[Setting, ...]:
        """α = 15/16, 14/16, … 1/16."""
        return tuple(Setting(values={"alpha": k / RUNGS}) for k in range(RUNGS - 1, 0, -1))

    def apply(self, source: Source, setting: Setting, out: Path, tell: Tell) -> Path:
        """Write the adapter with another scaling; a whole model where the candidate is one, or where it is asked for."""
        alpha, candidate = setting.number("alpha", 0.5), source.candidate
        card = {"method": self.name, "parent_digest": candidate.digest, "setting": setting.values}
        if candidate.kind == "adapter" and not setting.flag("merged"):
            adapter = Adapter.read(Path(candidate.path))
            write_adapter(candidate, scaled(adapter, alpha), out, card)
        elif candidate.kind == "adapter":
            deltas, base = Adapter.read(Path(candidate.path)), need(source.aligned)

            def merge(name: str, weight: torch.Tensor) -> torch.Tensor:
                delta = deltas.delta_of(name)
                return weight if delta is None else weight.float() + alpha * delta

            write_model(base, candidate, merge, out, card)
        else:
            aligned = Weights(Path(need(source.aligned).path))

            def blend(name: str, weight: torch.Tensor) -> torch.Tensor:
                before = aligned.like(name, weight)
                return before + alpha * (weight.float() - before)

            write_model(candidate, candidate, blend, out, card)
        tell(1, 1)
        return out


def scaled(adapter: Adapter, alpha: float) -> Adapter:
    """The adapter with every scaling times `alpha`, by its config: PEFT's scaling is linear in `lora_alpha`."""
    patterns: dict[str, Any] = adapter.config.get("alpha_pattern") or {}
    config = {
        **adapter.config,
        "lora_alpha": adapter.config["lora_alpha"] * alpha,
        "alpha_pattern": {key: value * alpha for key, value in patterns.items()},
    }
    return Adapter(config, adapter.factors)
