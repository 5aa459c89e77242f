"""Rows as the texts the model reads, with their logits."""

import numpy as np
import pytest

from guard_server.labels import Direction, Task
from guard_server.training.rows import Row
from guard_server.training.scored import Scored, texts_of
from tests.guard.training.scores import joined, logits, scored


def _row(**changes: object) -> Row:
    return Row.model_validate({"id": "1", "dataset": "set", "text": "prompt", "task": Task.OTHER} | changes)


def test_a_row_with_both_labels_is_two_texts() -> None:
    """A harmful prompt that was refused is a harmful prompt and a refusing answer whose harm nobody labelled."""
    prompt, answer = texts_of([_row(label="harmful", response="no", response_label="refused")])
    assert (prompt.direction, prompt.harmful, prompt.refused, prompt.context) == (Direction.PROMPT, True, None, None)
    assert (answer.direction, answer.harmful, answer.refused, answer.context) == (Direction.RESPONSE, None, True, "prompt")


@pytest.mark.parametrize(
    ("label", "harmful", "refused", "partial"),
    [
        ("harmful", True, None, False),
        ("safe", False, None, False),
        ("complied", None, False, False),
        ("partial", None, None, True),
    ],
)
def test_the_two_questions_are_never_mixed(label: str, harmful: bool | None, refused: bool | None, partial: bool) -> None:
    """Harmful and safe say nothing of refusal, complied and refused nothing of harm, partial nothing of either."""
    (answer,) = texts_of([_row(response="text", response_label=label)])
    assert (answer.harmful, answer.refused, answer.partial) == (harmful, refused, partial)


def test_rows_without_labels_give_no_text() -> None:
    """A row without labels, or with an answer's label and no answer, is not scored."""
    assert not list(texts_of([_row(), _row(response_label="safe"), _row(response="", response_label="safe")]))


def test_answers_and_prompts_are_told_apart() -> None:
    """What is said about answers' harm leaves prompts out, and refusals leave both out that are not labelled so."""
    harm = np.array([1.5, -2.0])
    both = joined(scored(harm, harm > 0), scored(harm, harm > 0, direction=Direction.RESPONSE))
    assert [t.harmful for t in both.about_harm(Direction.RESPONSE).texts] == [True, False]
    assert both.about_harm(Direction.PROMPT, Task.OTHER).texts == ()
    assert len(both.about_refusal().texts) == 2


def test_logits_that_do_not_fit_are_refused() -> None:
    """One text with two rows of logits, or with a logit that is no number, is an error."""
    one = scored(np.array([1.0]), np.array([True]))
    with pytest.raises(ValueError, match="finite logits"):
        Scored(one.texts, logits(np.array([1.0, 2.0])))
    with pytest.raises(ValueError, match="finite logits"):
        Scored(one.texts, logits(np.array([np.nan])))
