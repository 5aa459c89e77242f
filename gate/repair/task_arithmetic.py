"""R2: add the safety vector, W + γ · (W_aligned − W_unaligned), after dropping a part of the update if asked (RESTA).

In: the candidate, the aligned model and the one before alignment. Out: a whole model. With DARE each element of the update
Δ = W − W_aligned is dropped with probability `drop`, drawn from the seed and the tensor's name, and the rest divided by 1 − drop
(Bhardwaj et al., 2402.11746; DARE: Yu et al., 2311.03099).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gate.records import sha256_hex
from gate.repair.base import Need, Search, Setting, Source, Stage, Tell, need
from gate.repair.tensors import Adapter, Weights, unfit_adapter, write_model

if TYPE_CHECKING:
    import torch


class TaskArithmetic:
    """Adds the safety vector. See `gate.repair.base.Method`."""

    name = "task-arithmetic"
    title = "add the safety vector: W + γ·(W_aligned − W_unaligned) (R2, RESTA 2402.11746)"
    stage: Stage = "post"
    needs: tuple[Need, ...] = ("aligned", "unaligned")
    search: Search = "climb"
    experimental = False
    keys: tuple[str, ...] = ("gamma", "drop")

    def unfit(self, source: Source) -> str:
        """The update must be known: LoRA factors or whole weights."""
        return unfit_adapter(source.candidate)

    def settings(self) -> tuple[Setting, ...]:
        """γ from a quarter to one; then with half of the update dropped."""
        whole = tuple(Setting(values={"gamma": gamma}) for gamma in (0.25, 0.5, 0.75, 1.0))
        return (*whole, Setting(values={"gamma": 0.5, "drop": 0.5}))

    def apply(self, source: Source, setting: Setting, out: Path, tell: Tell) -> Path:
        """Write the whole model, tensor by tensor."""
        gamma, drop = setting.number("gamma", 0.5), setting.number("drop")
        candidate, shape = source.candidate, need(source.aligned)
        aligned, unaligned = Weights(Path(shape.path)), Weights(Path(need(source.unaligned).path))
        adapter = Adapter.read(Path(candidate.path)) if candidate.kind == "adapter" else None
        tuned = Weights(Path(candidate.path)) if adapter is None else None

        def change(name: str, weight: torch.Tensor) -> torch.Tensor:
            before = aligned.like(name, weight)
            delta = adapter.delta_of(name) if adapter else tuned.like(name, weight) - before if tuned else None
            kept = 0 if delta is None else dropped(delta, drop, source.seed, name)
            return before + kept + gamma * (before - unaligned.like(name, weight))

        card = {"method": self.name, "parent_digest": candidate.digest, "setting": setting.values, "seed": source.seed}
        write_model(shape, candidate, change, out, card)
        tell(1, 1)
        return out


def dropped(delta: torch.Tensor, drop: float, seed: int, name: str) -> torch.Tensor:
    """`delta` with each element kept with probability 1 − drop and divided by it: the same for the same seed and name."""
    import torch

    if drop == 0:
        return delta
    generator = torch.Generator().manual_seed(int(sha256_hex(f"{seed}|{name}".encode())[:15], 16))
    keep = torch.rand(delta.shape, generator=generator) >= drop
    return delta * keep / (1 - drop)
