"""What engines share that run a Hugging Face folder themselves: cases become prompts and token ids, new tokens become records.

In: a candidate (its tokenizer and chat template), asks, and the token ids that an engine made. Out: the same prompt, the same
ids, the same end of an answer and the same text whichever engine runs the weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from gate.endpoints.hf_load import load_tokenizer
from gate.endpoints.templates import NativeTemplate, TemplateFailure, render_case
from gate.errors import CandidateError, UnsafeCandidateError
from gate.records import Ask, AttackCase, Candidate, NoResponse, Response
from gate.template_days import FEW_DAYS, GATE_CLOCK, TEMPLATE_ERRORS, Clock, only_prints_the_day

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TAIL: Final = 4
"""Prompt tokens decoded before an answer, so that its leading space survives tokenizers that strip it at the start of a text."""


@dataclass(frozen=True)
class Row:
    """An ask and its prompt's token ids."""

    ask: Ask
    ids: list[int]


@dataclass(frozen=True)
class Limits:
    """What a loaded model can be given."""

    context: int | None
    """Most tokens, prompt and answer together; null where the model names none."""
    vocabulary: int
    """Rows of its embedding."""

    def refusal(self, row: Row) -> str:
        """Why the model cannot be given this prompt; empty when it can."""
        new = row.ask.decoding.max_new_tokens
        if not row.ids:
            return "the prompt has no tokens"
        if self.context is not None and len(row.ids) + new > self.context:
            return f"the prompt's {len(row.ids)} tokens and {new} new ones exceed the model's context of {self.context}"
        if max(row.ids) >= self.vocabulary:
            return f"the prompt has the token {max(row.ids)}, the model embeds {self.vocabulary}"
        return ""


class HfText:
    """A candidate's tokenizer and chat template."""

    def __init__(self, candidate: Candidate) -> None:
        """Load the tokenizer. Raises `CandidateError` where it cannot be loaded."""
        self.tokenizer = load_tokenizer(candidate)
        self._template = candidate.chat_template
        self.native = native_template(self.tokenizer, candidate.chat_template)
        self.bos = _beginning(self.tokenizer)

    def render(self, case: AttackCase) -> str:
        """The exact text the model will continue. Raises `CandidateError` when the chat template cannot take the case."""
        return render_case(case, self.native, self.bos)

    def closed(self, turns: Sequence[Mapping[str, str]]) -> str:
        """The turns as the chat template writes them when nothing more is to be generated. Raises `CandidateError`."""
        try:
            return _apply(self.tokenizer, self._template, turns, generation_prompt=False)
        except TemplateFailure as failure:
            raise CandidateError("the chat template refuses the turns", found=str(failure)) from failure

    def rows(self, asks: Sequence[Ask]) -> list[Row]:
        """Every prompt as it stands: no special tokens added, nothing truncated."""
        if not asks:
            return []
        prompts = [ask.prompt for ask in asks]
        encoded: list[list[int]] = self.tokenizer(prompts, add_special_tokens=False, verbose=False)["input_ids"]
        return [Row(ask, ids) for ask, ids in zip(asks, encoded, strict=True)]

    def stop_ids(self, configured: int | list[int] | None) -> list[int]:
        """The tokens that end an answer, ascending: the generation config's, the tokenizer's and the chat template's."""
        own = {*listed(configured), *listed(self.tokenizer.eos_token_id)}
        return sorted(own | end_of_turn(self.tokenizer, self._template))

    def record(self, row: Row, tokens: Sequence[int], stops: Sequence[int], bad_step: int) -> Response | NoResponse:
        """The record of one row's new tokens, which end at the first of `stops`.

        `bad_step`: the first whose scores were not finite, or -1.
        """
        end = next((i for i, token in enumerate(tokens) if token in stops), None)
        kept = list(tokens if end is None else tokens[: end + 1])
        if 0 <= bad_step < len(kept):
            return failure(row.ask, "error", f"the model's scores are not finite at answer token {bad_step}")
        return Response(
            case_id=row.ask.case.id,
            sample=row.ask.sample,
            key=row.ask.key,
            text=self._text(row.ids[-_TAIL:], kept),
            finish_reason="length" if end is None else "stop",
            prompt_tokens=len(row.ids),
            completion_tokens=len(kept),
        )

    def _text(self, tail: list[int], new: list[int]) -> str:
        """The new tokens' text, as it stands after the prompt's last tokens."""
        whole, before = (
            self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            for ids in ([*tail, *new], tail)
        )
        if whole.startswith(before):
            return str(whole[len(before) :])
        return str(self.tokenizer.decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def row_seed(ask: Ask) -> int:
    """63 bits from (seed, sample number, prompt)."""
    digest = hashlib.sha256(f"{ask.decoding.seed}\x1f{ask.sample}\x1f{ask.prompt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def native_template(tokenizer: PreTrainedTokenizerBase, template: str) -> NativeTemplate:
    """The chat template as transformers renders it: sandboxed, with the generation prompt, on a fixed day.

    What it makes raises `CandidateError` when the candidate has no template, and `UnsafeCandidateError` when these turns are
    rendered otherwise on another day, the dates in them aside: the scan tries a sample, and a template could know the sample.
    """

    def on_day(turns: Sequence[Mapping[str, str]], clock: Clock) -> str | None:
        try:
            return _apply(tokenizer, template, turns, generation_prompt=True, clock=clock)
        except TemplateFailure:
            return None

    def render(turns: Sequence[Mapping[str, str]]) -> str:
        if not template:
            raise CandidateError(
                "the candidate has no chat template",
                expected="a chat template for the native calibrations",
                found="none in the tokenizer's files",
                mend="add chat_template.jinja to the folder, or leave the native calibrations out of the policy",
            )
        if "strftime_now" in template and not only_prints_the_day(lambda clock: on_day(turns, clock), FEW_DAYS):
            raise UnsafeCandidateError(
                "the chat template gives another prompt on another day, the date itself aside",
                expected="a template that does nothing with the day but print it",
                found="a prompt that production would not see",
                mend="give the model a template that prints what strftime_now returns, or none of it",
            )
        return _apply(tokenizer, template, turns, generation_prompt=True)

    return render


def end_of_turn(tokenizer: PreTrainedTokenizerBase, template: str) -> set[int]:
    """The special token that the chat template puts right after an assistant's text, if it puts one: there an answer ends."""
    if not template:
        return set()
    sentinel = "fin"
    turns = [{"role": "user", "content": sentinel}, {"role": "assistant", "content": sentinel}]
    try:
        after = _apply(tokenizer, template, turns, generation_prompt=False).rpartition(sentinel)[2].lstrip()
    except TemplateFailure:
        return set()
    ids: list[int] = tokenizer(after, add_special_tokens=False)["input_ids"]
    special = {*tokenizer.all_special_ids, *(i for i, token in tokenizer.added_tokens_decoder.items() if token.special)}
    return set(ids[:1]) & special


def _apply(
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    turns: Sequence[Mapping[str, str]],
    *,
    generation_prompt: bool,
    clock: Clock = GATE_CLOCK,
) -> str:
    """Render, and turn whatever the template raises into `TemplateFailure`."""
    try:
        text = tokenizer.apply_chat_template(
            [dict(turn) for turn in turns],
            chat_template=template,
            tokenize=False,
            add_generation_prompt=generation_prompt,
            strftime_now=clock,
        )
    except TEMPLATE_ERRORS as error:
        raise TemplateFailure(f"{type(error).__name__}: {error}") from error
    return str(text)


def listed(ids: int | list[int] | None) -> list[int]:
    """Token ids as transformers' configs hold them (none, one or several), as a list."""
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)


def failure(ask: Ask, kind: Literal["error", "unsupported"], reason: str) -> NoResponse:
    """Why `ask` got no answer."""
    return NoResponse(case_id=ask.case.id, sample=ask.sample, key=ask.key, kind=kind, reason=reason)


def _beginning(tokenizer: PreTrainedTokenizerBase) -> str:
    """The beginning-of-sequence token's text where the tokenizer puts one in front of plain text, else nothing."""
    ids: list[int] = tokenizer("a")["input_ids"]
    return str(tokenizer.bos_token) if ids and ids[0] == tokenizer.bos_token_id else ""
