"""R3: project the update onto the alignment's directions in the layers that left them most (Safe LoRA, Hsu et al., 2405.16833).

In: an adapter, the aligned model and the one before alignment; no data. Out: the same adapter with C B in place of B in the
chosen layers. `share` chooses the layers of lowest cosine, `threshold` those below it; the modules are matched by name (the
reference implementation goes by position, which biases shift).
"""

from __future__ import annotations

import math
from pathlib import Path

from gate.repair.alignment import beside_alignment, lowest
from gate.repair.base import Need, Search, Setting, Source, Stage, Tell
from gate.repair.tensors import Adapter, unfit_adapter, write_adapter


class SafeLora:
    """Projects layers of the update. See `gate.repair.base.Method`."""

    name = "safe-lora"
    title = "project the update onto the alignment's directions (R3, Safe LoRA 2405.16833)"
    stage: Stage = "post"
    needs: tuple[Need, ...] = ("adapter", "aligned", "unaligned")
    search: Search = "climb"
    experimental = False
    keys: tuple[str, ...] = ("share", "threshold", "rescale")

    def unfit(self, source: Source) -> str:
        """The update must be LoRA factors."""
        return unfit_adapter(source.candidate)

    def settings(self) -> tuple[Setting, ...]:
        """The third, two thirds and all of the layers, each with the update's norm kept and then as the paper has it."""
        points = [(share, rescale) for share in (1 / 3, 2 / 3, 1.0) for rescale in (True, False)]
        return tuple(Setting(values={"share": round(s, 4), "rescale": r}) for s, r in points)

    def apply(self, source: Source, setting: Setting, out: Path, tell: Tell) -> Path:
        """Write the adapter with the chosen modules projected; which they are, and every cosine, stands in its card."""
        adapter = Adapter.read(Path(source.candidate.path))
        beside = beside_alignment(source, adapter)
        number = math.ceil(setting.number("share") * len(beside) - 1e-3)
        below = {name for name, at in beside.items() if at.cosine < setting.number("threshold", -1.0)}
        chosen = below | set(lowest(beside, number))
        rescale = setting.flag("rescale")
        factors = {n: f if n not in chosen else beside[n].project(rescale=rescale) for n, f in adapter.factors.items()}
        card = {
            "method": self.name,
            "parent_digest": source.candidate.digest,
            "setting": setting.values,
            "projected": sorted(chosen),
            "cosines": {name: round(at.cosine, 6) for name, at in beside.items()},
        }
        tell(1, 1)
        return write_adapter(source.candidate, adapter.with_factors(factors), out, card)
