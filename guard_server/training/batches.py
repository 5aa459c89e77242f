"""Training examples: rows in, texts cut into windows with labels and weights out; and token batches of windows.

A text counts as its worst window does, in training as in serving. Copies of prompts (inside another task's request; inside
harmless filler) keep the set of the original, so that leaving a set out leaves its copies out. All randomness comes from the
seed and the row's id, so that a new row changes no other one's copies.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from guard_server.labels import Direction, Task
from guard_server.training.material.wrap import wrapped
from guard_server.training.recipe import Texts
from guard_server.training.rows import Row
from guard_server.training.scored import Text, texts_of
from guard_server.windows import windows

Kind = Literal["plain", "wrapped", "diluted", "sentences"]
SHORT: Final = 320
"""Prompts up to so many characters get diluted copies: with filler they still fit one window."""
_JOINTS: Final = 4
"""Characters between a prompt and the filler around it, at most: two empty lines."""
WRAPS: Final = (Task.TRANSLATION, Task.SUMMARIZATION, Task.CODE_GENERATION, Task.CLASSIFICATION, Task.TEXT_GENERATION)


class Filler(Protocol):
    """Harmless text, cut as windows cut it."""

    def passage(self, characters: int, rng: Random) -> str:
        """So many characters from anywhere in a document, or fewer where white space at its ends falls away."""

    def sentences(self, count: int, rng: Random) -> tuple[str, ...]:
        """So many sentences or lines of one kind, or all where there are fewer, as the windows of a long text read them."""


@dataclass(frozen=True, slots=True)
class Example:
    """One text with the windows that are read of it."""

    text: Text
    windows: tuple[str, ...]
    context: str | None
    """The prompt's end, for an answer."""
    worth: float
    """Of its row beside one of a clean set."""
    kind: Kind = "plain"
    pair: str | None = None


def plain(rows: Iterable[Row], texts: Texts, *, all_windows: bool) -> Iterator[Example]:
    """The labelled prompts and answers of rows as they stand, with all windows or at most as many as train."""
    for row in rows:
        worth, pair = float(row.meta.get("weight", 1.0)), row.meta.get("pair")
        for text in texts_of([row]):
            parts = cut(text.text, texts, all_windows=all_windows)
            context = None if text.context is None else text.context[-texts.context_characters :]
            yield Example(text, parts, context, worth, pair=None if pair is None else f"{row.dataset}:{pair}")


def copies(rows: Iterable[Row], texts: Texts, filler: Filler, seed: int) -> Iterator[Example]:
    """Copies of prompts inside requests of other tasks and inside harmless filler, and such filler alone."""
    for row in rows:
        rng = Random(f"{seed}:{row.id}")
        for text in texts_of([row]):
            if text.direction is Direction.RESPONSE:
                continue
            worth = float(row.meta.get("weight", 1.0))
            if rng.random() < texts.wrapped and text.task in {Task.TEXT_GENERATION, Task.CODE_GENERATION, Task.OTHER}:
                task = rng.choice([other for other in WRAPS if other is not text.task])
                yield _copy(text, wrapped(text.text, task, rng, text.lang), task, "wrapped", texts, worth)
            if rng.random() < texts.diluted and text.harmful and len(text.text) <= SHORT:
                around = filler.passage(texts.window.characters - len(text.text) - _JOINTS, rng)
                yield _copy(text, _inside(text.text, around, rng), text.task, "diluted", texts, worth)
                alone = replace(text, harmful=False, category=None)
                yield _copy(alone, filler.passage(texts.window.characters, rng), text.task, "diluted", texts, worth)
                if texts.window.sentence:
                    read = filler.sentences(texts.windows, rng)
                    spoken = replace(alone, id=f"{text.id}#sentences", text="\n".join(read))
                    yield Example(spoken, read, None, worth, "sentences")


def cut(text: str, texts: Texts, *, all_windows: bool) -> tuple[str, ...]:
    """Windows of a text; where only some train, the first, the last and evenly spread ones between."""
    parts = [part.text for part in windows(text, texts.window)]
    if all_windows or len(parts) <= texts.windows:
        return tuple(parts)
    chosen = np.linspace(0, len(parts) - 1, texts.windows).round().astype(int)
    return tuple(parts[at] for at in chosen)


def _copy(text: Text, new: str, task: Task, kind: Kind, texts: Texts, worth: float) -> Example:
    copied = replace(text, id=f"{text.id}#{kind}", text=new, task=task)
    return Example(copied, cut(new, texts, all_windows=False), None, worth, kind)


def _inside(text: str, around: str, rng: Random) -> str:
    """The text at a random break between the words of another."""
    breaks = [at for at, character in enumerate(around) if character.isspace()] or [len(around)]
    at = rng.choice(breaks)
    joint = rng.choice((" ", "\n", "\n\n"))
    return f"{around[:at]}{joint}{text}{joint}{around[at:].lstrip()}".strip()


def balanced(examples: Sequence[Example], texts: Texts) -> NDArray[np.float32]:
    """The weight of each example in the loss, mean 1 [n].

    A set counts as at most `set_cap` texts of a task and label; then, per task, harmful and harmless prompts sum to the same;
    answers balance by label, harm apart from refusal.
    """
    sizes = Counter(_group(example) for example in examples)
    weights = np.array([
        example.worth
        * min(sizes[_group(example)], texts.set_cap) / sizes[_group(example)]
        * (1.0 if example.text.own else texts.foreign)
        for example in examples
    ])  # fmt: skip
    sides = np.array([_side(example) for example in examples])
    for side in sorted(set(sides)):
        member = sides == side
        direction, task = side.split("/")[:2]
        target = texts.tasks[Task(task)] if direction == Direction.PROMPT else 1.0
        weights[member] *= target / weights[member].sum()
    return np.asarray(weights / weights.mean(), dtype=np.float32)


def _group(example: Example) -> tuple[str, Direction, Task, bool | None, bool | None]:
    text = example.text
    return text.dataset, text.direction, text.task, text.harmful, text.refused


def _side(example: Example) -> str:
    text = example.text
    if text.direction is Direction.PROMPT:
        return f"{text.direction}/{text.task}/{text.harmful}"
    return f"{text.direction}/all/{text.harmful}/{text.refused}"


@dataclass(frozen=True, slots=True)
class Window:
    """One input of the model: a window of a prompt, or of an answer with its prompt's end."""

    text: str
    context: str | None


def encode(tokenizer: Tokenizer, inputs: Sequence[Window], max_tokens: int) -> list[tuple[list[int], list[int]]]:
    """Token ids and types of each input, cut to `max_tokens` at the end of the longer text of a pair."""
    pairs: list[str | tuple[str, str]] = [item.text if item.context is None else (item.context, item.text) for item in inputs]
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return [(found.ids, found.type_ids) for found in tokenizer.encode_batch(pairs)]


def padded(encoded: Sequence[tuple[list[int], list[int]]], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """ids, mask and types, int64 [n, longest]."""
    longest = max(len(ids) for ids, _ in encoded)
    ids = torch.full((len(encoded), longest), pad, dtype=torch.long)
    mask, types = torch.zeros_like(ids), torch.zeros_like(ids)
    for at, (own_ids, own_types) in enumerate(encoded):
        ids[at, : len(own_ids)] = torch.tensor(own_ids)
        mask[at, : len(own_ids)] = 1
        types[at, : len(own_types)] = torch.tensor(own_types)
    return ids, mask, types


def by_length(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Positions grouped by similar length, so that each group, padded, holds at most `tokens` tokens (at least one position)."""
    group: list[int] = []
    for at in sorted(range(len(lengths)), key=lambda position: (lengths[position], position)):
        if group and (len(group) + 1) * lengths[at] > tokens:
            yield group
            group = []
        group.append(at)
    if group:
        yield group
