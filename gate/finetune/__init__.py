"""Fine-tuning: a recipe comes in, a folder with an adapter or model and its training card goes out.

    recipe = load_recipe("recipe.yaml")
    finetune(recipe, Path("out/my-adapter"))

What other parts use stands in `__all__` and is kept stable: `Recipe` (frozen; change one with `recipe.model_copy(update=…)`),
`load_recipe`, `finetune(recipe, out, *, observe=…, token_weights=…) -> Path`, `Progress`, and the protocol `TokenWeights`.
"""

from __future__ import annotations

from gate.finetune.hooks import Observer, Progress, TokenWeights
from gate.finetune.make import finetune
from gate.finetune.recipe import Recipe, Safety, Source, load_recipe, parse_recipe

__all__ = ["Observer", "Progress", "Recipe", "Safety", "Source", "TokenWeights", "finetune", "load_recipe", "parse_recipe"]
