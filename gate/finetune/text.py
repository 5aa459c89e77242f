"""From an example to the token ids that are trained on: the prompt is what the gate will ask with, the answer ends as one does.

In: examples, the base's tokenizer and chat template. Out: ids with the length of the prompt; rows that are too long are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gate.endpoints.templates import render_alpaca, render_native
from gate.errors import CandidateError, RecipeError
from gate.finetune.data import Example

if TYPE_CHECKING:
    from gate.endpoints.hf_text import HfText

_CHUNK = 512


class Encoded(NamedTuple):
    """One example as the model reads it."""

    ids: NDArray[np.int32]
    prompt: int
    """Tokens in front of the answer."""


class Writer:
    """Renders and tokenises for one base."""

    def __init__(self, text: HfText, style: Literal["chat", "alpaca"], stops: Sequence[int]) -> None:
        """`text` is the base's tokenizer and template, `stops` the tokens that end its answers."""
        self._text = text
        self._style = style
        self._stops = set(stops)
        self._end = str(text.tokenizer.eos_token or "")

    def texts(self, example: Example) -> tuple[str, str]:
        """The prompt, and the answer with its end mark. Raises `RecipeError` where the template does not take the turns."""
        turns = example.messages
        if self._style == "alpaca":
            system = turns[0].content if turns[0].role == "system" else ""
            return self._text.bos + render_alpaca(system, turns[1:] if system else turns), example.answer + self._end
        try:
            prompt = render_native(self._text.native, "", turns)
            whole = self._text.closed([*turns_of(example), {"role": "assistant", "content": example.answer}])
        except CandidateError as error:
            raise RecipeError(
                f"{example.where}: {error.problem}",
                expected=error.expected,
                found=error.found,
                mend="mend the row, or train with format: alpaca",
            ) from error
        rest = whole[len(prompt) :] if whole.startswith(prompt) else ""
        # Templates that write the answer otherwise than after their own generation prompt: what is generated is the answer.
        return prompt, rest if example.answer.strip() in rest else example.answer + self._end

    def encode(self, examples: Sequence[Example], tell: Callable[[int], None]) -> list[Encoded]:
        """Every example; `tell` is given the number that are done, now and then."""
        out: list[Encoded] = []
        for start in range(0, len(examples), _CHUNK):
            texts = [self.texts(example) for example in examples[start : start + _CHUNK]]
            prompts = self._ids([prompt for prompt, _ in texts])
            answers = self._ids([answer for _, answer in texts])
            for before, after in zip(prompts, answers, strict=True):
                ids = np.asarray([*before, *self._ended(after)], dtype=np.int32)
                out.append(Encoded(ids, len(before)))
            tell(len(out))
        return out

    def _ids(self, texts: list[str]) -> list[list[int]]:
        ids: list[list[int]] = self._text.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def _ended(self, ids: list[int]) -> list[int]:
        """The answer up to its first end mark, as what follows it is never generated; with one if it has none."""
        end = next((place for place, token in enumerate(ids) if token in self._stops), None)
        if end is not None:
            return ids[: end + 1]
        own = self._text.tokenizer.eos_token_id
        return ids if own is None else [*ids, own]


def turns_of(example: Example) -> list[dict[str, str]]:
    """The example's turns as templates take them."""
    return [{"role": turn.role, "content": turn.content} for turn in example.messages]
