"""The training card: what a model was made from and how it went, as `training_card.json` in its folder.

No clock, no host, no absolute path: two equal runs write the same bytes. `gate.candidate` reads it, reports show it.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Literal

from gate.finetune.data import DataFile, shown
from gate.finetune.hooks import Setting, TokenWeights
from gate.finetune.ledger import Ledger, Point
from gate.finetune.recipe import Recipe
from gate.records import Candidate, Record, canonical_json, sha256_hex

FORMAT: Literal["taskgate/training-card/v2"] = "taskgate/training-card/v2"
_LIBRARIES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "taskgate")


class CellRows(Record):
    """A cell's rows."""

    train: int
    held_out: int
    too_long: int
    """Left out for their length."""


class Hook(Record):
    """Token weights that the caller brought."""

    name: str
    settings: dict[str, Setting]


class TrainingCard(Record):
    """What stands in the card."""

    format: Literal["taskgate/training-card/v2"] = FORMAT
    name: str
    recipe: dict[str, Any]
    """As given; of absolute paths the last name alone."""
    recipe_digest: str
    """SHA-256 over the recipe with every path replaced by its content's digest: the same digest needs no new training."""
    base: str
    base_revision: str
    base_digest: str
    data: tuple[DataFile, ...]
    cells: dict[str, CellRows]
    seed: int
    epoch_rows: int
    """Rows of one time through the data, refusals included."""
    steps: int
    """Steps that were taken."""
    kept_step: int
    """The step whose weights these are."""
    stop_reason: str
    training_loss: tuple[Point, ...]
    held_out_loss: tuple[Point, ...]
    balance: dict[str, float]
    """The tasks' last weights, where CoBa weighs them."""
    token_weights: Hook | None
    processes: int
    device: str
    versions: dict[str, str]


def versions() -> dict[str, str]:
    """Versions of what decides what a run gives."""
    return {name: version(name) for name in _LIBRARIES}


def hook_of(token_weights: TokenWeights | None) -> Hook | None:
    """The caller's token weights as the card names them."""
    return None if token_weights is None else Hook(name=token_weights.name, settings=dict(token_weights.settings))


def recipe_digest(recipe: Recipe, base: Candidate, files: Sequence[DataFile], hook: Hook | None) -> str:
    """SHA-256 over all that the result depends on and the machine does not decide."""
    told = recipe.model_dump(mode="json", exclude={"description", "save_every"})
    told["base"] = base.digest
    for source, file in zip(_sources(told), files, strict=True):
        source["path"] = file.sha256
    return sha256_hex(canonical_json([told, hook.model_dump(mode="json") if hook else None]))


def told_recipe(recipe: Recipe) -> dict[str, Any]:
    """The recipe as the card shows it."""
    told = recipe.model_dump(mode="json")
    told["base"] = shown(recipe.base)
    for source in _sources(told):
        source["path"] = shown(source["path"])
    return told


def stop_reason(recipe: Recipe, ledger: Ledger, planned: int) -> str:
    """Why the run ended, in words."""
    if ledger.stopped and recipe.early_stop is not None:
        return (
            f"early stop at step {ledger.step} of {planned}: {ledger.worse} measurements without a new best; "
            f"the weights of step {ledger.best_step} are kept"
        )
    return f"all {planned} steps were taken"


def _sources(told: dict[str, Any]) -> list[dict[str, Any]]:
    """The sources of a dumped recipe, in the order of `Recipe.sources`."""
    return [*told["data"], *(told["safety"]["data"] if told["safety"] else ())]
