"""Look-alikes: every harmful row has a harmless partner of the same form."""

import re
from collections import Counter, defaultdict
from random import Random

import pytest

from guard_server.labels import CATEGORIES, Task
from guard_server.training.material.twins import FAMILIES
from guard_server.training.rows import Row

ROWS = {name: list(family(Random(3))) for name, family in FAMILIES.items()}
EVERY = [one for rows in ROWS.values() for one in rows]


def _pairs() -> dict[str, list[Row]]:
    found = defaultdict(list)
    for one in EVERY:
        found[str(one.meta["pair"])].append(one)
    return found


def test_each_pair_is_one_harmless_and_one_harmful_row() -> None:
    """A pair is one harmless and one harmful row of the same task and family."""
    for rows in _pairs().values():
        assert sorted(str(one.label) for one in rows) == ["benign", "harmful"]
        assert len({(one.task, one.dataset) for one in rows}) == 1


def test_pairs_share_words() -> None:
    """In nine of ten pairs the twins share at least two words."""
    found = [[set(re.findall(r"\w+", one.text.lower())) for one in pair] for pair in _pairs().values()]
    assert sum(len(a & b) >= 2 for a, b in found) >= 0.9 * len(found)


def test_reversed_pairs_have_the_longer_twin_harmless() -> None:
    """In the family against short cuts every harmless twin is longer than the harmful one."""
    rows = ROWS["twins_reversed"]
    assert all(len(a.text) > len(b.text) for a, b in zip(rows[::2], rows[1::2], strict=True))


@pytest.mark.parametrize(
    ("task", "least"),
    [
        (Task.TEXT_GENERATION, 350),
        (Task.CODE_GENERATION, 60),
        (Task.OTHER, 60),
        (Task.CLASSIFICATION, 80),
        (Task.SUMMARIZATION, 80),
    ],
)
def test_pairs_per_task(task: Task, least: int) -> None:
    """Every task has its number of pairs."""
    assert sum(one.label == "harmful" and one.task == task for one in EVERY) >= least


def test_every_category_occurs() -> None:
    """Every category of harm has at least ten pairs."""
    counts = Counter(one.category for one in EVERY)
    assert all(counts[category] >= 10 for category in CATEGORIES)


def test_no_text_twice() -> None:
    """No text occurs twice, so none has both labels."""
    assert Counter(one.text for one in EVERY).most_common(1)[0][1] == 1


def test_same_seed_same_rows() -> None:
    """A family gives the same rows for the same seed."""
    assert {name: list(family(Random(3))) for name, family in FAMILIES.items()} == ROWS


def test_no_separator_is_left() -> None:
    """No row holds the separators of the files or an unfilled slot."""
    assert not [
        one for one in EVERY if "||" in one.text or "{question}" in one.text or "{passage}" in one.text or "\\n" in one.text
    ]
