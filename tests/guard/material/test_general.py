"""The harmless English text: how much there is, that none comes twice, and that a seed decides it."""

from collections import Counter
from difflib import SequenceMatcher
from functools import cache
from itertools import pairwise
from random import Random

import pytest

from guard_server.labels import Task
from guard_server.training.material.general import FAMILIES, LONG, frames, reworded, texts
from guard_server.training.rows import Row

NAMES = tuple(name.removeprefix("general_") for name in FAMILIES)


@cache
def rows(name: str, seed: int = 1) -> tuple[Row, ...]:
    """The rows of one family."""
    return tuple(FAMILIES[f"general_{name}"](Random(seed)))


@cache
def written(name: str) -> frozenset[str]:
    """The hand-written texts of one family."""
    return frozenset(texts(name))


def all_rows() -> list[Row]:
    return [row for name in NAMES for row in rows(name)]


def test_at_least_1400_texts_are_written_by_hand() -> None:
    """The files hold 1,400 distinct texts or more, and every family at least 80."""
    counts = {name: len(written(name)) for name in NAMES}
    assert sum(counts.values()) >= 1400
    assert min(counts.values()) >= 80


def test_every_row_is_benign() -> None:
    """All rows are labelled benign, carry no category, and are English prompts without an answer."""
    labels = {(row.label, row.category, row.lang, row.response) for row in all_rows()}
    assert labels == {("benign", None, "en", None)}


def test_only_passages_are_no_request() -> None:
    """The passages have the task `other`, everything else is text generation."""
    for name in NAMES:
        expected = Task.OTHER if name == "passages" else Task.TEXT_GENERATION
        assert {row.task for row in rows(name)} == {expected}


def test_no_text_comes_twice() -> None:
    """No two hand-written texts differ only in case or end mark, and no two rows of any family share a text or an id."""
    found = Counter(text.casefold().rstrip(".?! ") for name in NAMES for text in texts(name))
    assert [text for text, times in found.items() if times > 1] == []
    assert len({row.text for row in all_rows()}) == len(all_rows())
    assert len({row.id for row in all_rows()}) == len(all_rows())


@pytest.mark.parametrize("name", NAMES)
def test_every_text_stands_as_written_and_at_most_thrice(name: str) -> None:
    """A family holds each text of its file unchanged, and at most three rows for each."""
    produced = [row.text for row in rows(name)]
    assert written(name) <= set(produced)
    starts = [at for at, text in enumerate(produced) if text in written(name)] + [len(produced)]
    assert max(later - earlier for earlier, later in pairwise(starts)) <= 3


def test_a_seed_decides_the_rows() -> None:
    """The same seed gives the same rows, another seed gives other wordings."""
    assert rows("everyday") == tuple(FAMILIES["general_everyday"](Random(1)))
    assert rows("everyday") != rows("everyday", 2)


def test_lengths_are_spread() -> None:
    """Many short texts, at least 80 of several sentences among the personas, at least 30 longer than 1,200 characters."""
    lengths = [len(row.text) for row in all_rows()]
    assert sum(length < 80 for length in lengths) >= 800
    assert sum(120 <= length < 600 for length in lengths) >= 200
    assert sum(len(text) > 120 for text in texts("roleplay")) >= 80
    assert sum(length > 1200 for length in lengths) >= 30


@pytest.mark.parametrize("kind", ["ask", "say"])
def test_a_rewording_keeps_the_text_recognisable(kind: str) -> None:
    """Whatever the rewording, nine in ten of the text's letters and spaces are still there in their order."""
    text = "Why do the old apple trees behind our house blossom twice this year?"
    for seed in range(100):
        version = reworded(text, Random(seed), frames(kind)).lower()
        blocks = SequenceMatcher(None, text.lower(), version, autojunk=False).get_matching_blocks()
        assert sum(block.size for block in blocks) >= 0.9 * len(text)


def test_long_texts_are_left_alone() -> None:
    """A text longer than the limit appears exactly as written and in no other wording."""
    for name in NAMES:
        long = {text for text in written(name) if len(text) > LONG}
        rest = [row.text for row in rows(name) if row.text not in written(name)]
        assert not [text for text in rest for whole in long if whole in text]
