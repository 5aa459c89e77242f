"""Claims about long benign documents and filler."""

from collections import Counter
from random import Random

import pytest

from guard_server.labels import Task
from guard_server.training.material.code_text import code_pieces
from guard_server.training.material.documents import FAMILIES, FILLER_KINDS, KINDS, LONGEST, PER_KIND, SHORTEST, filler


def test_documents_are_many_long_and_benign() -> None:
    """At least 150 distinct documents, all benign, none much shorter or longer than stated."""
    rows = list(FAMILIES["documents"](Random(1)))
    assert len({row.text for row in rows}) == len(rows) == PER_KIND * len(KINDS) >= 150
    assert {row.label for row in rows} == {"benign"}
    assert all(SHORTEST - 50 <= len(row.text) <= LONGEST + 150 for row in rows)


def test_documents_have_several_tasks() -> None:
    """A document's task is that of its request; without one it is code or something else."""
    tasks = {row.task for row in FAMILIES["documents"](Random(1))}
    assert {Task.CODE_GENERATION, Task.SUMMARIZATION, Task.CLASSIFICATION, Task.TEXT_GENERATION, Task.OTHER} <= tasks


def test_documents_are_the_seeds() -> None:
    """One seed gives one list of documents, another seed another."""
    assert list(FAMILIES["documents"](Random(1))) == list(FAMILIES["documents"](Random(1)))
    assert list(FAMILIES["documents"](Random(1))) != list(FAMILIES["documents"](Random(2)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("characters", [0, 1, 7, 1_000, 32_000])
def test_filler_has_exactly_the_length_asked_for(kind: str, characters: int) -> None:
    """Filler of every kind is as long as asked, to the character."""
    assert len(filler(kind, characters, Random(3))) == characters


@pytest.mark.parametrize("kind", KINDS)
def test_a_longer_filler_begins_with_the_shorter_one(kind: str) -> None:
    """From one seed the shorter text is the beginning of the longer one, so that lengths can be compared."""
    assert filler(kind, 9_000, Random(4)).startswith(filler(kind, 4_000, Random(4)))


@pytest.mark.parametrize("kind", [*FILLER_KINDS, "text"])
def test_filler_does_not_repeat_itself(kind: str) -> None:
    """In 12,000 characters no passage of 60 characters comes more than five times."""
    text = filler(kind, 12_000, Random(5))
    assert max(Counter(text[at : at + 60] for at in range(0, len(text) - 60)).values()) <= 5


def test_no_slot_is_left_in_logs() -> None:
    """All slots of the log messages are filled."""
    text = filler("log", 40_000, Random(6))
    assert not [slot for slot in ("{ip}", "{ms}", "{p}", "{n}", "{id}", "{user}") if slot in text]


def test_code_is_of_one_language_and_varied() -> None:
    """A hundred pieces of code are nearly all distinct."""
    pieces = code_pieces(Random(7))
    assert len({next(pieces) for _ in range(100)}) >= 95


def test_an_unknown_kind_is_an_error() -> None:
    """Asking for a kind that isn't there names it."""
    with pytest.raises(KeyError, match="opera"):
        filler("opera", 10, Random(1))


def test_text_is_broken_by_hand_and_terms_in_some_documents() -> None:
    """Text files have no line over 88 characters; terms are paragraphs of one line in some documents and broken in others."""
    assert max(map(len, filler("text", 20_000, Random(7)).splitlines())) <= 88
    widest = [max(map(len, filler("terms", 5_000, Random(seed)).splitlines())) for seed in range(8)]
    assert min(widest) <= 88
    assert max(widest) > 200
