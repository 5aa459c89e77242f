"""The second body of look-alikes: pairs of one form with opposite labels, and neither length nor place gives the label away."""

from collections import Counter, defaultdict
from random import Random

import pytest

from guard_server.labels import CATEGORIES, Task
from guard_server.training.material.contrast import FAMILIES, twins
from guard_server.training.rows import Row

ROWS = {name: list(family(Random(3))) for name, family in FAMILIES.items()}
EVERY = [one for rows in ROWS.values() for one in rows]


def test_each_pair_is_one_harmless_and_one_harmful_row() -> None:
    """A pair is one harmless and one harmful row of the same task and family."""
    found: defaultdict[str, list[Row]] = defaultdict(list)
    for one in EVERY:
        found[str(one.meta["pair"])].append(one)
    for rows in found.values():
        assert sorted(str(one.label) for one in rows) == ["benign", "harmful"]
        assert len({(one.task, one.dataset) for one in rows}) == 1


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("contrast_howto", 290),
        ("contrast_code", 145),
        ("contrast_puzzles", 28),
        ("contrast_choices", 75),
        ("contrast_passages", 195),
        ("contrast_requests", 65),
    ],
)
def test_pairs_per_family(name: str, least: int) -> None:
    """Every family has its number of pairs."""
    assert sum(one.label == "harmful" for one in ROWS[name]) >= least


def test_every_category_occurs() -> None:
    """Every category of harm has at least twenty pairs."""
    counts = Counter(one.category for one in EVERY)
    assert all(counts[category] >= 20 for category in CATEGORIES)


@pytest.mark.parametrize("name", FAMILIES)
def test_length_tells_little(name: str) -> None:
    """In every family both labels have about the same mean length, so that length is no short cut."""
    mean = {
        label: sum(len(one.text) for one in ROWS[name] if one.label == label) / (len(ROWS[name]) / 2)
        for label in ("benign", "harmful")
    }
    assert 0.8 < mean["benign"] / mean["harmful"] < 1.25


def test_a_line_parts_in_its_braces() -> None:
    """Text around the braces stands on both sides, and an empty side leaves no double space."""
    assert twins("Kill {a process|my boss} {now|}.") == ("Kill a process now.", "Kill my boss.")


def test_a_line_without_twins_is_refused() -> None:
    """A line that does not part is an error, not a text with both labels."""
    with pytest.raises(ValueError, match="do not part"):
        twins("How do I kill time?")


def test_translations_and_summaries_hold_their_passage() -> None:
    """Every request around a passage holds a bare passage of the same label."""
    rows = ROWS["contrast_passages"]
    bare = {label: [one.text for one in rows if one.task is Task.OTHER and one.label == label] for label in ("benign", "harmful")}
    assert all(any(text in one.text for text in bare[str(one.label)]) for one in rows if one.task is not Task.OTHER)


def test_no_text_twice_and_no_separator_left() -> None:
    """No text occurs twice, and none holds a separator of the files."""
    assert Counter(one.text for one in EVERY).most_common(1)[0][1] == 1
    assert not [one for one in EVERY if "||" in one.text or "{" in one.text or "\\n" in one.text]
