"""Tuning of the encoder's last layers together with heads that were trained on the frozen encoder; in, a model; out, the blend.

The tuned weights, of layers and heads, are averaged with the ones they started from (WiSE-FT): what tuning learns of the training
sets' style is what hurts on new ones, and the mean keeps most of the gain.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from tokenizers import Tokenizer
from torch import Tensor, nn

from guard_server.labels import Direction
from guard_server.training.batches import Example, Window, balanced, encode, padded
from guard_server.training.heads import Batch, answer_loss, batch_of, prompt_loss
from guard_server.training.model import GuardModel
from guard_server.training.recipe import Recipe

POOL: Final = 16
"""So many batches are drawn at a time and parted by length, so that little is padding."""


def tune(
    model: GuardModel, tokenizer: Tokenizer, examples: Sequence[Example], recipe: Recipe, seed: int, progress: Progress
) -> GuardModel:
    """The model with tuned and blended weights, in place; the same seed gives the same bits on one machine."""
    how = recipe.tuning
    moving = moving_parts(model, how.layers)
    before = {name: value.detach().clone() for name, value in moving}
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for _, parameter in moving:
        parameter.requires_grad_(True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        _fit(model, tokenizer, examples, recipe, np.random.default_rng(seed), progress)
    with torch.no_grad():
        for name, value in moving:
            value.lerp_(before[name], 1 - how.blend)
    return model.eval()


def moving_parts(model: GuardModel, layers: int) -> list[tuple[str, nn.Parameter]]:
    """Named parameters of the heads and of the encoder's last layers (the longest list of modules in it)."""
    lists = [(name, part) for name, part in model.encoder.named_modules() if isinstance(part, nn.ModuleList)]
    name, stack = max(lists, key=lambda item: len(item[1]))
    last = tuple(f"encoder.{name}.{at}." for at in range(len(stack) - layers, len(stack)))
    return [item for item in model.named_parameters() if item[0].startswith(("heads.", *last))]


def _fit(
    model: GuardModel,
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    recipe: Recipe,
    rng: np.random.Generator,
    progress: Progress,
) -> None:
    how = recipe.tuning
    groups = [
        {"params": [value for name, value in moving_parts(model, how.layers) if name.startswith("heads.") is heads], "lr": rate}
        for heads, rate in ((False, how.rate), (True, how.head_rate))
    ]
    optimiser = torch.optim.AdamW(groups, weight_decay=how.decay)
    steps = how.texts // how.batch
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / max(1, how.warmup * steps), max(0.0, 1 - step / steps))
    )
    model.train()
    shown = progress.add_task("tuning", total=steps)
    for chosen in draws(examples, recipe, steps, rng):
        loss = _loss(model, tokenizer, [examples[at] for at in chosen], recipe)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        progress.advance(shown)
    progress.remove_task(shown)


def draws(examples: Sequence[Example], recipe: Recipe, steps: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """`steps` batches of positions, each of one direction; drawn by weight, so that every task and label comes equally often."""
    how = recipe.tuning
    sides = [np.array([at for at, e in enumerate(examples) if e.text.direction is direction]) for direction in Direction]
    chances = [_chance([examples[at] for at in side], recipe) if len(side) else np.zeros(0) for side in sides]
    shares = np.array([1 - how.answers, how.answers]) * [len(side) > 0 for side in sides]
    done = 0
    while done < steps:
        which = int(rng.choice(2, p=shares / shares.sum()))
        drawn = rng.choice(sides[which], size=how.batch * POOL, p=chances[which])
        drawn = drawn[np.argsort([len(examples[at].windows[0]) for at in drawn], kind="stable")]
        for part in rng.permutation(POOL)[: steps - done]:
            yield [int(at) for at in drawn[part * how.batch : (part + 1) * how.batch]]
            done += 1


def _chance(examples: Sequence[Example], recipe: Recipe) -> NDArray[np.float64]:
    weights = balanced(examples, recipe.texts).astype(np.float64)
    return np.asarray(weights / weights.sum())


def _loss(model: GuardModel, tokenizer: Tokenizer, chosen: list[Example], recipe: Recipe) -> Tensor:
    how = recipe.tuning
    windows = [[Window(text, example.context) for text in example.windows[: how.windows]] for example in chosen]
    flat = [window for part in windows for window in part]
    starts = np.cumsum([0, *map(len, windows)])
    rows = [range(start, start + len(part)) for start, part in zip(starts, windows, strict=False)]
    batch: Batch = batch_of(chosen, np.ones(len(chosen), dtype=np.float32), rows, list(range(len(chosen))))
    inputs = padded(encode(tokenizer, flat, how.max_tokens), model.encoder.config.pad_token_id or 0)
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
        out = model(*inputs)
    if chosen[0].text.direction is Direction.PROMPT:
        return prompt_loss(out.harm.float(), out.task.float(), out.category.float(), batch, recipe.heads)
    return answer_loss(out.response.float(), batch, recipe.heads)
