"""R7: fine-tune again, held to the aligned model in an answer's first tokens (Qi et al., 2406.05946).

The refusals of an aligned model hang on its first tokens. The constrained loss weighs token t of an answer by

    w_t = 2 (1 − σ(β_t (log p_t − log p_t of the aligned model))), taken without gradient and kept above a thousandth

so that a token which fine-tuning has made likelier than the aligned model has it pulls less; β_t is 5 β at the first token, 20
β at the second to fifth, β after them. In: the fine-tuning's recipe, an adapter's; no refusals. Out: the model that it gives
so.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gate.repair.base import Need, Search, Setting, Source, Stage, Tell
from gate.repair.retraining import recipe_of, train_again

if TYPE_CHECKING:
    import torch

    from gate.finetune.hooks import Setting as HookSetting

FIRST: Final = 5.0
EARLY: Final = 20.0
EARLY_TOKENS: Final = 5
"""β is `FIRST` times itself at an answer's first token, `EARLY` times up to the fifth."""
LEAST: Final = 1e-3


class ConstrainedTokens:
    """The weights, as `gate.finetune` asks for them. See `gate.finetune.TokenWeights`."""

    name = "token-wise constrained (2406.05946)"

    def __init__(self, beta: float) -> None:
        self._beta = beta

    @property
    def settings(self) -> Mapping[str, HookSetting]:
        """All that the weights depend on."""
        return {"beta": self._beta, "first": FIRST, "early": EARLY, "early_tokens": EARLY_TOKENS, "least": LEAST}

    def __call__(self, losses: torch.Tensor, reference: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """2 (1 − σ(β_t (reference − loss))): a loss is minus a log-probability."""
        import torch

        beta = torch.full_like(losses, self._beta)
        beta[places == 0] *= FIRST
        beta[(places > 0) & (places < EARLY_TOKENS)] *= EARLY
        weights = 2 * (1 - torch.sigmoid(beta * (reference - losses.detach())))
        return weights.clamp(min=LEAST).detach()


class TokenWise:
    """Trains again under the constraint. See `gate.repair.base.Method`."""

    name = "token-wise"
    title = "fine-tune again, held to the aligned model in the first tokens (R7, 2406.05946)"
    stage: Stage = "retrain"
    needs: tuple[Need, ...] = ("adapter", "aligned", "recipe")
    search: Search = "climb"
    experimental = False
    keys: tuple[str, ...] = ("beta",)

    def unfit(self, _: Source) -> str:
        """Whatever was trained by a recipe can be trained again."""
        return ""

    def settings(self) -> tuple[Setting, ...]:
        """The paper's β of a tenth, then stronger."""
        return tuple(Setting(values={"beta": beta}) for beta in (0.1, 0.5, 2.0))

    def apply(self, source: Source, setting: Setting, out: Path, tell: Tell) -> Path:
        """Train by the recipe with the weights on its loss."""
        card = {"method": self.name, "parent_digest": source.candidate.digest, "setting": setting.values}
        return train_again(recipe_of(source), out, card, tell, ConstrainedTokens(setting.number("beta", 0.1)))
