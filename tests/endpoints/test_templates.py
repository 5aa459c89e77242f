"""Tests of the rendered prompt: what the model continues, word for word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from gate.endpoints.templates import (
    TemplateFailure,
    fold_system,
    render_alpaca,
    render_case,
    render_native,
    render_raw,
)
from gate.errors import CandidateError
from gate.records import AttackCase, Calibration, Message, Role, Split, SuiteItem, Task

ASK = (Message(role="user", content="Name a fruit."),)
DIALOGUE = (
    Message(role="user", content="Name a fruit."),
    Message(role="assistant", content="A pear."),
    Message(role="user", content="Another."),
)


def plain(turns: Sequence[Mapping[str, str]]) -> str:
    """A template that writes every turn."""
    return "".join(f"[{t['role']}]{t['content']}" for t in turns) + "[assistant]"


def no_system(turns: Sequence[Mapping[str, str]]) -> str:
    """A template that refuses a system turn, as Gemma's does."""
    if turns[0]["role"] == "system":
        raise TemplateFailure("System role not supported")
    return plain(turns)


def deaf(turns: Sequence[Mapping[str, str]]) -> str:
    """A template that drops a system turn without a word."""
    return plain([t for t in turns if t["role"] != "system"])


def forgetful(turns: Sequence[Mapping[str, str]]) -> str:
    """A template that writes the last turn alone."""
    return plain(turns[-1:])


def case(calibration: Calibration, *, system: str = "", prefill: str = "") -> AttackCase:
    """One question under a calibration."""
    item = SuiteItem(
        id="q1",
        task=Task.TEXT_GENERATION,
        behaviour="b1",
        category="none",
        role=Role.TWIN,
        transform="direct",
        split=Split.GATING,
        messages=ASK,
        prefill=prefill,
    )
    return AttackCase(id=f"q1|{calibration}|greedy", item=item, calibration=calibration, system=system, decoding="greedy")


def test_alpaca_is_the_published_template() -> None:
    """One user turn gives Stanford Alpaca's no-input template, character for character."""
    assert render_alpaca("", ASK) == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nName a fruit.\n\n### Response:\n"
    )


def test_alpaca_puts_system_first_and_prefill_last() -> None:
    """The system prompt opens an Alpaca prompt and the prefill closes it."""
    text = render_alpaca("Be kind.", ASK, "Sure")
    assert text.startswith("Be kind.\n\nBelow is")
    assert text.endswith("### Response:\nSure")


def test_alpaca_keeps_earlier_turns_in_order() -> None:
    """A dialogue becomes instruction, response, instruction, response."""
    text = render_alpaca("", DIALOGUE)
    assert [line for line in text.splitlines() if line.startswith("###")] == ["### Instruction:", "### Response:"] * 2
    assert text.index("Name a fruit.") < text.index("A pear.") < text.index("Another.")


def test_raw_is_the_last_turn_alone() -> None:
    """The raw prompt holds no template and no earlier turn."""
    assert render_raw(DIALOGUE) == "Another."
    assert render_raw(DIALOGUE, "Sure") == "Another.\nSure"


@pytest.mark.parametrize("template", [no_system, deaf])
def test_system_is_folded_where_the_template_has_no_place_for_it(template: object) -> None:
    """A template that refuses the system turn and one that drops it silently give the same folded prompt."""
    assert callable(template)
    assert render_native(template, "Be kind.", ASK) == "[user]Be kind.\n\nName a fruit.[assistant]"


def test_system_turn_is_used_where_the_template_takes_it() -> None:
    """A template that writes the system turn gets one, unfolded."""
    assert render_native(plain, "Be kind.", ASK) == "[system]Be kind.[user]Name a fruit.[assistant]"


def test_native_prefill_follows_the_generation_prompt() -> None:
    """The prefill is the last thing in the prompt, after the assistant's header."""
    assert render_native(plain, "", ASK, "Sure, ").endswith("[assistant]Sure, ")


def test_template_that_loses_a_turn_is_refused() -> None:
    """A template that leaves out a turn raises instead of asking another question."""
    with pytest.raises(CandidateError, match="loses the text"):
        render_native(forgetful, "", DIALOGUE)


def test_template_that_takes_no_turns_is_refused() -> None:
    """A template that raises on plain user turns is the candidate's fault and says what it raised."""

    def broken(turns: Sequence[Mapping[str, str]]) -> str:
        raise TemplateFailure("no")

    with pytest.raises(CandidateError, match="refuses the turns") as caught:
        render_native(broken, "Be kind.", ASK)
    assert caught.value.found == "no"


def test_folding_needs_a_user_turn() -> None:
    """A system prompt is never dropped for want of a user turn."""
    with pytest.raises(CandidateError, match="without a user turn"):
        fold_system("Be kind.", [{"role": "assistant", "content": "Hello."}])


def test_folding_leaves_its_input_alone() -> None:
    """Folding returns new turns; the ones given are unchanged."""
    turns = [{"role": "user", "content": "Hi."}]
    fold_system("Be kind.", turns)
    assert turns == [{"role": "user", "content": "Hi."}]


def test_beginning_token_stands_where_no_template_writes_it() -> None:
    """Raw and Alpaca prompts open with the beginning-of-sequence token; native ones leave that to the template."""
    opens = {c: render_case(case(c), plain, "<s>").startswith("<s>") for c in Calibration}
    assert opens == {
        Calibration.RAW: True,
        Calibration.ALPACA: True,
        Calibration.NATIVE: False,
        Calibration.NATIVE_SYSTEM: False,
    }


@pytest.mark.parametrize("calibration", list(Calibration))
def test_every_calibration_ends_with_the_prefill(calibration: Calibration) -> None:
    """Under no calibration does anything follow the prefill."""
    assert render_case(case(calibration, system="Be kind.", prefill="Sure"), plain, "").endswith("Sure")
