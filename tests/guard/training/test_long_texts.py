"""Harmless long documents: of the length that was asked for, the same for the same seed."""

from guard_server.bundle_spec import Window
from guard_server.training.long_texts import answer_documents, characters_for, list_documents, prompt_documents
from guard_server.training.material.documents import KINDS
from guard_server.windows import windows

WINDOW = Window(characters=480, overlap=160)
PROMPTS = {"a": ["Name a tree.", "Name a river."], "b": ["Sort these words: pear, plum."]}


def test_documents_have_exactly_the_windows_asked_for() -> None:
    """Every document of every kind has 20 windows."""
    made = prompt_documents(WINDOW, 0, per_kind=2, windows=20)
    assert made.keys() == {*KINDS}
    assert {len(windows(text, WINDOW)) for texts in made.values() for text, _ in texts} == {20}
    assert {
        len(windows(text, WINDOW)) for texts in answer_documents(WINDOW, 0, per_kind=1, windows=5).values() for text, _ in texts
    } == {5}


def test_the_seed_decides() -> None:
    """One seed gives one set of documents, another seed another; documents of one kind differ."""
    first, again, other = (prompt_documents(WINDOW, seed, per_kind=2, windows=10) for seed in (0, 0, 1))
    assert first == again != other
    assert all(texts[0] != texts[1] for texts in first.values())


def test_a_list_holds_one_set_alone() -> None:
    """Documents take the sets in turn, and no prompt of another set stands in them."""
    first, second = list_documents(PROMPTS, WINDOW, 0, count=2, windows=3)
    assert "Name a tree." in first[0]
    assert "Sort" not in first[0]
    assert "Name" not in second[0]
    assert len(first[0]) == characters_for(WINDOW, 3)


def test_answers_stand_behind_a_request() -> None:
    """Every document read as an answer has the request that it answers as its context."""
    assert all(context for texts in answer_documents(WINDOW, 0, per_kind=1, windows=2).values() for _, context in texts)
