"""Harmful prompts: enough of each kind, in each task, labelled without contradiction."""

from collections import Counter
from random import Random

import pytest

from guard_server.labels import CATEGORIES, TASKS, Category, Task
from guard_server.training.material.harmful import FAMILIES

ROWS = {name: list(family(Random(3))) for name, family in FAMILIES.items()}
EVERY = [one for rows in ROWS.values() for one in rows]


def test_enough_hand_written_prompts() -> None:
    """Apart from filled attacks there are at least 420 different harmful prompts."""
    assert len({one.text for one in EVERY if one.label == "harmful" and one.dataset != "own_harmful_attacks"}) >= 420


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_category_occurs(category: Category) -> None:
    """Every category of harm has at least twenty rows."""
    assert sum(one.category == category for one in EVERY) >= 20


@pytest.mark.parametrize("task", [task for task in TASKS if task != Task.OTHER])
def test_every_task_occurs(task: Task) -> None:
    """Every task has at least twelve harmful rows."""
    assert sum(one.task == task and one.label == "harmful" for one in EVERY) >= 12


def test_attacks_vary_in_length() -> None:
    """Attacks number at least 140 rows, the shortest below 90 characters and the longest above 700."""
    lengths = sorted(len(one.text) for one in ROWS["harmful_attacks"])
    assert len(lengths) >= 140
    assert lengths[0] < 90
    assert lengths[-1] > 700


def test_attacks_have_harmless_counterparts() -> None:
    """At least fifty harmless prompts have the form of an attack."""
    contrast = ROWS["harmful_contrast"]
    assert len(contrast) >= 50
    assert {one.label for one in contrast} == {"benign"}


def test_no_text_twice() -> None:
    """No text occurs twice, so none has both labels, and no slot is left unfilled."""
    assert Counter(one.text for one in EVERY).most_common(1)[0][1] == 1
    assert not [one for one in EVERY if "{request}" in one.text]


def test_same_seed_same_rows() -> None:
    """A family gives the same rows for the same seed, and another choice of fillings for another."""
    assert {name: list(family(Random(3))) for name, family in FAMILIES.items()} == ROWS
    assert list(FAMILIES["harmful_attacks"](Random(4))) != ROWS["harmful_attacks"]
