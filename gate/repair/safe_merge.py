"""R4: mix a safety adapter into the layers whose update left the alignment (SafeMERGE, Djuhera et al., 2503.17239).

In: an adapter, the aligned model, the one before alignment, and a LoRA adapter on the same base that was trained to refuse.
Out: one adapter. Where the Safe LoRA cosine is below the threshold a layer gets own · BA + safety · B'A', elsewhere it keeps
BA. Two adapters of ranks r and r' are one of rank r + r' with stacked factors, so nothing is approximated.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gate.errors import CandidateError
from gate.repair.alignment import beside_alignment
from gate.repair.base import Need, Search, Setting, Source, Stage, Tell, need
from gate.repair.tensors import Adapter, Factors, unfit_adapter, write_adapter

if TYPE_CHECKING:
    pass

ALL = 2.0
"""A threshold above every cosine."""


class SafeMerge:
    """Mixes a safety adapter in where it is needed. See `gate.repair.base.Method`."""

    name = "safe-merge"
    title = "mix a safety adapter into the layers that left the alignment (R4, SafeMERGE 2503.17239)"
    stage: Stage = "post"
    needs: tuple[Need, ...] = ("adapter", "aligned", "unaligned", "safety-adapter")
    search: Search = "climb"
    experimental = False
    keys: tuple[str, ...] = ("threshold", "own", "safety")

    def unfit(self, source: Source) -> str:
        """Both adapters must be LoRA factors."""
        other = f"the safety adapter: {why}" if (why := unfit_adapter(need(source.safety_adapter))) else ""
        return unfit_adapter(source.candidate) or other

    def settings(self) -> tuple[Setting, ...]:
        """The paper's threshold and weights, then more of the safety adapter, then in every layer."""
        points = ((0.35, 0.8, 0.2), (0.35, 0.5, 0.5), (ALL, 0.8, 0.2), (ALL, 0.5, 0.5), (ALL, 0.2, 0.8))
        return tuple(Setting(values={"threshold": t, "own": own, "safety": safety}) for t, own, safety in points)

    def apply(self, source: Source, setting: Setting, out: Path, tell: Tell) -> Path:
        """Write the stacked adapter; which modules were mixed stands in its card."""
        adapter, safety = Adapter.read(Path(source.candidate.path)), Adapter.read(Path(need(source.safety_adapter).path))
        if set(adapter.factors) != set(safety.factors):
            missing = sorted(set(adapter.factors) ^ set(safety.factors))
            raise CandidateError(
                "the safety adapter adapts other modules than the candidate",
                expected="a LoRA adapter on the same base and the same modules",
                found=f"{len(missing)} that one of them lacks, first {missing[0]}",
                mend="train the safety adapter with the candidate's target modules",
            )
        beside = beside_alignment(source, adapter)
        mixed = {name for name, at in beside.items() if at.cosine < setting.number("threshold", 0.35)}
        own, other = setting.number("own", 0.8), setting.number("safety", 0.2)
        factors = {
            name: stacked(mine, safety.factors[name], own if name in mixed else 1.0, other if name in mixed else 0.0)
            for name, mine in adapter.factors.items()
        }
        card = {
            "method": self.name,
            "parent_digest": source.candidate.digest,
            "safety_adapter_digest": need(source.safety_adapter).digest,
            "setting": setting.values,
            "mixed": sorted(mixed),
            "cosines": {name: round(at.cosine, 6) for name, at in beside.items()},
        }
        tell(1, 1)
        return write_adapter(source.candidate, _of_own_ranks(adapter, factors), out, card)


def stacked(mine: Factors, other: Factors, weight: float, other_weight: float) -> Factors:
    """Factors of weight · (scaling · B A) + other_weight · (scaling' · B' A'), with scaling 1 and the ranks' sum as rank."""
    import torch

    b = torch.cat([mine.b.float() * (mine.scaling * weight), other.b.float() * (other.scaling * other_weight)], dim=1)
    return Factors(torch.cat([mine.a, other.a.to(mine.a.dtype)]), b.to(mine.b.dtype), 1.0)


def _of_own_ranks(adapter: Adapter, factors: dict[str, Factors]) -> Adapter:
    """The adapter's config with each module's rank as it is now, and alpha equal to it: a scaling of 1."""
    ranks = {name: int(f.a.shape[0]) for name, f in factors.items()}
    most = max(ranks.values())
    others = {name: rank for name, rank in ranks.items() if rank != most}
    patterns = {"r": most, "lora_alpha": most, "rank_pattern": others, "alpha_pattern": others}
    config = {**adapter.config, **patterns, "use_rslora": False}
    return Adapter(config, factors)
