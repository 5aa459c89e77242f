"""Prompts with answers: two questions per answer, neither contradicted anywhere."""

from collections import Counter, defaultdict
from random import Random

import pytest

from guard_server.training.material import answers, harmful, twins
from guard_server.training.material.base import words

ROWS = {name: list(family(Random(3))) for name, family in answers.FAMILIES.items()}
EVERY = [one for rows in ROWS.values() for one in rows]


def _count(name: str, key: str) -> int:
    return len(set(words(name)[key].splitlines()))


def test_enough_rows() -> None:
    """There are at least 3,000 rows, each with an answer, a label of it and a label of the prompt."""
    assert len(EVERY) >= 3000
    assert all(one.response and one.response_label and one.label for one in EVERY)


@pytest.mark.parametrize(("lang", "least"), [("en", 150), ("fr", 25), ("de", 25), ("es", 25)])
def test_enough_refusals(lang: str, least: int) -> None:
    """Every language has its number of different refusals."""
    assert _count("answers_refusals", lang) >= least


def test_enough_compliance() -> None:
    """There are at least 200 helpful answers and 150 wordings of harmful compliance."""
    assert sum(_count("answers_good", key) for key in words("answers_good")) >= 200
    assert sum(_count("answers_harmful", key) for key in words("answers_harmful")) >= 150


def test_one_answer_to_each_question() -> None:
    """No prompt and answer are both safe and harmful, nor two of complied, refused and partial."""
    found = defaultdict(set)
    for one in EVERY:
        found[one.text, one.response].add(one.response_label)
    for labels in found.values():
        assert not {"harmful", "safe"} <= labels
        assert len(labels & {"complied", "refused", "partial"}) <= 1


def test_refusals_follow_both_kinds_of_prompt() -> None:
    """Refusals stand behind harmful and behind harmless prompts."""
    assert {one.label for one in EVERY if one.response_label == "refused"} == {"harmful", "benign"}


def test_harm_needs_a_harmful_prompt() -> None:
    """An answer does harm only behind a harmful prompt, and safe answers stand behind both kinds."""
    assert {one.label for one in EVERY if one.response_label == "harmful"} == {"harmful"}
    assert {one.label for one in EVERY if one.response_label == "safe"} == {"harmful", "benign"}


def test_answers_are_spread() -> None:
    """No answer makes up more than one in a hundred rows."""
    assert Counter(one.response for one in EVERY).most_common(1)[0][1] <= len(EVERY) / 100


def test_helpful_answers_hold_words_of_refusals() -> None:
    """At least twenty answers that comply hold 'sorry', 'can't', 'cannot', 'refuse' or 'decline'."""
    marks = ("sorry", "can't", "cannot", "refus", "decline")
    assert sum(any(mark in str(one.response).lower() for mark in marks) for one in ROWS["answers_helpful"]) >= 40


def test_ids_differ() -> None:
    """The rows of the two questions have ids of their own, and one generation gives no id twice."""
    assert len({one.id for one in EVERY}) == len(EVERY)


def test_no_prompt_has_both_labels() -> None:
    """Over twins, harmful prompts and answers no prompt has both labels."""
    found = defaultdict(set)
    for family in (*twins.FAMILIES.values(), *harmful.FAMILIES.values()):
        for one in family(Random(3)):
            found[one.text].add(one.label)
    for one in EVERY:
        found[one.text].add(one.label)
    assert not [text for text, labels in found.items() if len(labels) > 1]


def test_same_seed_same_rows() -> None:
    """A family gives the same rows for the same seed."""
    assert {name: list(family(Random(3))) for name, family in answers.FAMILIES.items()} == ROWS
