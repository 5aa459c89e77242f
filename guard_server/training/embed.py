"""Pools of every window that a run reads, computed once. In: a model and examples; out: a `Bank`."""

from collections.abc import Iterable
from itertools import chain

import torch
from rich.progress import Progress
from tokenizers import Tokenizer

from guard_server.training.batches import Example, Window, by_length, encode, padded
from guard_server.training.heads import Bank, key
from guard_server.training.model import GuardModel
from guard_server.training.recipe import Recipe

TOKENS = 4096
"""Tokens of one batch through the encoder."""


def bank_of(model: GuardModel, tokenizer: Tokenizer, examples: Iterable[Example], recipe: Recipe, progress: Progress) -> Bank:
    """Pools of the examples' windows, each distinct window once; the order of examples changes no value."""
    places: dict[Window, int] = {}
    rows: dict[str, tuple[int, ...]] = {}
    for example in examples:
        inputs = [Window(text, example.context) for text in example.windows]
        rows[key(example)] = tuple(places.setdefault(item, len(places)) for item in inputs)
    inputs = list(places)
    whole, answer = _pools(model, tokenizer, inputs, recipe, progress)
    pairs = [at for at, item in enumerate(inputs) if item.context is not None]
    answer_row = torch.full((len(inputs),), -1)
    answer_row[pairs] = torch.arange(len(pairs))
    return Bank(whole, answer[pairs].clone(), answer_row, rows)


@torch.no_grad()
def _pools(
    model: GuardModel, tokenizer: Tokenizer, inputs: list[Window], recipe: Recipe, progress: Progress
) -> tuple[torch.Tensor, torch.Tensor]:
    encoded = encode(tokenizer, inputs, recipe.texts.max_tokens)
    lengths = [len(ids) for ids, _ in encoded]
    groups = list(by_length(lengths, TOKENS))
    width = model.heads.width
    whole = torch.empty((len(inputs), width), dtype=torch.float16)
    answer = torch.empty_like(whole)
    pad = model.encoder.config.pad_token_id or 0
    step = progress.add_task("reading texts", total=sum(lengths))
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
        for group in groups:
            found = model.pools(*padded([encoded[at] for at in group], pad))
            whole[group], answer[group] = found.whole.half(), found.answer.half()
            progress.advance(step, sum(lengths[at] for at in group))
    progress.remove_task(step)
    return whole, answer


def joined(*parts: Iterable[Example]) -> list[Example]:
    """All examples."""
    return list(chain(*parts))
