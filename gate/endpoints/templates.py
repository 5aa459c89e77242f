"""From an attack case to the exact text that a local model continues. Pure; shared by the engines that render themselves.

In: a case (turns, calibration, system prompt, prefill), the checkpoint's chat template as a function, and its
beginning-of-sequence token. Out: one string, to be tokenised *without* adding special tokens: all that the model should see
stands in it.

Special-token strings inside a case's text are left as they are and become special tokens when the prompt is tokenised. Serving
engines do the same: a case that smuggles them in meets the model here as it would in deployment, and the ask's prompt shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from gate.errors import CandidateError
from gate.records import AttackCase, Calibration, Message

NativeTemplate = Callable[[Sequence[Mapping[str, str]]], str]
"""Turns as `{"role", "content"}` → text that ends with the generation prompt. `TemplateFailure` on turns it does not take."""

ALPACA_PREAMBLE: Final = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)
"""Stanford Alpaca's preamble for instructions without an input (tatsu-lab/stanford_alpaca, `train.py`)."""


class TemplateFailure(Exception):  # noqa: N818 - it is caught here, never shown
    """The chat template did not take these turns."""


def render_case(case: AttackCase, native: NativeTemplate, bos: str) -> str:
    """The text for `case` under its calibration, prefill last. `bos` stands in front where the chat template is not used."""
    turns, prefill = case.item.messages, case.item.prefill
    match case.calibration:
        case Calibration.NATIVE | Calibration.NATIVE_SYSTEM:
            return render_native(native, case.system, turns, prefill)
        case Calibration.ALPACA:
            return bos + render_alpaca(case.system, turns, prefill)
        case Calibration.RAW:
            return bos + render_raw(turns, prefill)


def render_alpaca(system: str, messages: Sequence[Message], prefill: str = "") -> str:
    """Stanford Alpaca's prompt: preamble (the system prompt in front of it, if any), then a block per turn.

    One user turn gives the published template word for word; earlier turns stand before it in the same blocks.
    """
    head = {"user": "### Instruction:", "assistant": "### Response:", "system": "### System:"}
    blocks = [f"{head[m.role]}\n{m.content}" for m in messages]
    preamble = f"{system}\n\n{ALPACA_PREAMBLE}" if system else ALPACA_PREAMBLE
    return "\n\n".join([preamble, *blocks, "### Response:\n"]) + prefill


def render_raw(messages: Sequence[Message], prefill: str = "") -> str:
    """The last turn's content alone, without any template; the prefill follows on a new line."""
    content = messages[-1].content
    return f"{content}\n{prefill}" if prefill else content


def render_native(native: NativeTemplate, system: str, messages: Sequence[Message], prefill: str = "") -> str:
    """The checkpoint's own template with `system` as system turn, and `prefill` after the generation prompt.

    A template that raises on the system turn, or leaves its text out without a word, gets it folded into the first user turn.
    Raises `CandidateError` when the template does not take the turns, or loses one of their texts.
    """
    turns = [{"role": m.role, "content": m.content} for m in messages]
    if not system:
        return _complete(native, turns) + prefill
    try:
        text = native([{"role": "system", "content": system}, *turns])
    except TemplateFailure:
        text = ""
    kept = _lost([system, *(m.content for m in messages)], text) is None
    return (text if kept else _complete(native, fold_system(system, turns))) + prefill


def fold_system(system: str, turns: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """The turns with `system` and an empty line put in front of the first user turn's content."""
    folded = [dict(turn) for turn in turns]
    first = next((turn for turn in folded if turn["role"] == "user"), None)
    if first is None:
        raise CandidateError("a case without a user turn cannot carry a system prompt", expected="a user turn", found="none")
    first["content"] = f"{system}\n\n{first['content']}"
    return folded


def _complete(native: NativeTemplate, turns: Sequence[Mapping[str, str]]) -> str:
    """The rendered turns, checked to hold every turn's text."""
    mend = "repair the chat template, or leave the native calibrations out of the policy"
    try:
        text = native(turns)
    except TemplateFailure as failure:
        roles = ", ".join(turn["role"] for turn in turns)
        raise CandidateError(
            "the chat template refuses the turns", expected=f"a prompt from the turns {roles}", found=str(failure), mend=mend
        ) from failure
    lost = _lost([turn["content"] for turn in turns], text)
    if lost is not None:
        raise CandidateError(
            "the chat template loses the text of a turn",
            expected=f"the text {lost[:60]!r} in the prompt",
            found=text[:120],
            mend=mend,
        )
    return text


def _lost(contents: Sequence[str], text: str) -> str | None:
    """The first of `contents` that is not in `text`; white space at the ends does not count, since templates strip it."""
    return next((content for content in contents if content.strip() not in text), None)
