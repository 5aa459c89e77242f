"""R5: fine-tune again with refusals of every task mixed in (Bianchi et al., 2309.07875; per task: Jan et al., 2409.15361).

In: the fine-tuning's recipe and a file of refusals. Out: the model that it gives with a share of them, each task's refusals a
cell of their own in the loss (MFTCoder's per-task mean), so that short refusals and long answers weigh alike.
"""

from __future__ import annotations

from pathlib import Path

from gate.finetune.recipe import Safety
from gate.finetune.recipe import Source as Table
from gate.repair.base import Need, Search, Setting, Source, Stage, Tell, need_file
from gate.repair.retraining import recipe_of, train_again


class Mix:
    """Trains again with refusals. See `gate.repair.base.Method`."""

    name = "mix"
    title = "fine-tune again with refusals of every task mixed in (R5, 2309.07875)"
    stage: Stage = "retrain"
    needs: tuple[Need, ...] = ("aligned", "recipe", "safety")
    search: Search = "climb"
    experimental = False
    keys: tuple[str, ...] = ("share",)

    def unfit(self, _: Source) -> str:
        """Whatever was trained by a recipe can be trained again."""
        return ""

    def settings(self) -> tuple[Setting, ...]:
        """A tenth, a fifth and a third of refusals: much more makes a model refuse what is harmless."""
        return tuple(Setting(values={"share": share}) for share in (0.1, 0.2, 0.33))

    def apply(self, source: Source, setting: Setting, out: Path, tell: Tell) -> Path:
        """Train by the recipe with the share of refusals in place of its own."""
        table = Table(path=str(need_file(source.safety).resolve()), task="refusal")
        safety = Safety(data=(table,), share=setting.number("share", 0.2))
        recipe = recipe_of(source).model_copy(update={"safety": safety})
        card = {"method": self.name, "parent_digest": source.candidate.digest, "setting": setting.values}
        return train_again(recipe, out, card, tell)
