"""What the methods that train again share: a changed recipe and a place come in, a repaired folder with its card goes out.

In: the fine-tuning's recipe, on the aligned model. Out: what `gate.finetune` leaves, with the repair's card in it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gate.candidate import load_candidate
from gate.errors import CandidateError
from gate.finetune import Progress, Recipe, TokenWeights, finetune, load_recipe
from gate.repair.base import Source, Tell, need, need_file
from gate.repair.tensors import write_card

if TYPE_CHECKING:
    from gate.finetune import Observer


def recipe_of(source: Source) -> Recipe:
    """The fine-tuning's recipe. Raises `CandidateError` where it starts from another model than the aligned one."""
    recipe, aligned = load_recipe(need_file(source.recipe)), need(source.aligned)
    base = load_candidate(str(recipe.directory / Path(recipe.base).expanduser()) if "://" not in recipe.base else recipe.base)
    if base.digest != aligned.digest:
        raise CandidateError(
            f"the recipe {recipe.name} starts from another model than the candidate",
            expected=f"the aligned model, digest {aligned.digest[:16]}",
            found=f"{recipe.base}, digest {base.digest[:16]}",
            mend="give the recipe that the candidate was trained by, or --aligned",
        )
    return recipe


def train_again(
    recipe: Recipe, out: Path, card: Mapping[str, object], tell: Tell, token_weights: TokenWeights | None = None
) -> Path:
    """Train by `recipe` and leave the folder, with the card, at `out`; a killed training goes on from its last checkpoint."""
    beside = out.with_name(f".{out.name}.training")
    finetune(recipe, beside, observe=_observer(tell), token_weights=token_weights)
    write_card(beside, card)
    shutil.rmtree(out, ignore_errors=True)
    beside.replace(out)
    return out


def _observer(tell: Tell) -> Observer:
    def observe(progress: Progress) -> None:
        if progress.steps:
            tell(progress.step, progress.steps)

    return observe
