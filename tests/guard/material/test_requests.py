"""Claims about the roundabout requests, tasks with a purpose, attacks and answers that decide."""

from collections import Counter, defaultdict
from random import Random

import pytest

from guard_server.labels import Category
from guard_server.training.material import requests

ROWS = {name: list(family(Random(1))) for name, family in requests.FAMILIES.items()}
EVERY = [one for rows in ROWS.values() for one in rows]


def test_plain_requests_are_many_and_even() -> None:
    """At least 350 different requests, as many of every category but attacks."""
    counts = Counter(one.category for one in ROWS["requests_plain"])
    assert len({one.text for one in ROWS["requests_plain"]}) >= 350
    assert set(counts) == set(Category) - {Category.PROMPT_ATTACK}
    assert len(set(counts.values())) == 1


def test_twins_come_in_pairs_of_one_form() -> None:
    """Each key of a pair stands on one harmful and one harmless prompt of the same task and of about equal length."""
    pairs = defaultdict(list)
    for one in ROWS["requests_tasks"]:
        pairs[one.meta["pair"]].append(one)
    assert len(pairs) >= 380
    for bad, good in pairs.values():
        assert (bad.label, good.label, bad.task) == ("harmful", "benign", good.task)
        assert 0.5 < len(bad.text) / len(good.text) < 2


def test_no_mark_of_a_twin_is_left() -> None:
    """The marks of the differing spans are in no text."""
    assert not [one.text for one in EVERY if "||" in one.text]


def test_a_line_without_a_difference_is_refused() -> None:
    """A line that gives one text only has no twins."""
    with pytest.raises(ValueError, match=r"no \{harmful"):
        requests.twins_of("Summarise this")
    assert requests.twins_of("a {b||c} d {e||f}") == ("a b d e", "a c d f")


def test_attacks_have_harmless_company() -> None:
    """At least sixty attacks and sixty harmless prompts of their form."""
    counts = Counter(one.label for one in ROWS["requests_attacks"])
    assert min(counts["harmful"], counts["benign"]) >= 60


def test_no_text_has_two_labels() -> None:
    """No prompt is harmful and harmless, and no answer to it both safe and harmful."""
    prompts, answers = defaultdict(set), defaultdict(set)
    for one in EVERY:
        prompts[one.text].add(one.label)
        answers[one.text, one.response].add(one.response_label)
    assert all(len(labels) == 1 for labels in prompts.values())
    assert not [labels for labels in answers.values() if {"harmful", "safe"} <= labels]


def test_answers_decide_behind_harmful_prompts() -> None:
    """Behind harmful prompts stand answers that comply, that refuse and that do a part, harmful and safe."""
    kinds = {one.response_label for one in ROWS["requests_answers"] if one.label == "harmful"}
    assert kinds == {"complied", "refused", "partial", "harmful", "safe"}
