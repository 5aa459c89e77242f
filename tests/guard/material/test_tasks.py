"""Claims about the benign prompts for code, classification and summarization."""

from random import Random

import pytest

from guard_server.labels import Task
from guard_server.training.material.tasks import CONTAINERS, FAMILIES, blocks, hidden, lines, listed, summary_request
from guard_server.training.rows import Row

LEAST = {"code_everyday": 1_000, "code_security": 800, "classify": 1_000, "summarize": 600}
TASK = {
    "code_everyday": Task.CODE_GENERATION,
    "code_security": Task.CODE_GENERATION,
    "classify": Task.CLASSIFICATION,
    "summarize": Task.SUMMARIZATION,
}


def rows_of(name: str, seed: int = 1) -> list[Row]:
    return list(FAMILIES[name](Random(seed)))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_large_benign_and_of_one_task(name: str) -> None:
    """Every row of a family is benign, English and of the family's task, and there are many of them."""
    rows = rows_of(name)
    assert len(rows) >= LEAST[name]
    assert {(row.label, row.lang, row.task, row.dataset) for row in rows} == {("benign", "en", TASK[name], f"own_{name}")}


@pytest.mark.parametrize("name", FAMILIES)
def test_no_text_comes_twice(name: str) -> None:
    """The texts of a family are distinct, even when case and blanks don't count."""
    texts = [" ".join(row.text.split()) for row in rows_of(name)]
    assert len(set(texts)) >= 0.99 * len(texts)
    assert len({row.id for row in rows_of(name)}) == len(texts)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_seed_decides(name: str) -> None:
    """One seed gives one list of rows, another seed another."""
    assert rows_of(name) == rows_of(name)
    assert rows_of(name) != rows_of(name, 2)


@pytest.mark.parametrize("name", FAMILIES)
def test_no_placeholder_is_left(name: str) -> None:
    """No row shows a slot or a separator of the files it came from."""
    assert not [row.text for row in rows_of(name) if "{text}" in row.text or "\n%%" in row.text or " @ " in row.text]


@pytest.mark.parametrize("name", FAMILIES)
def test_short_and_long_prompts_both_come(name: str) -> None:
    """A family holds prompts of under 120 and of over 500 characters."""
    lengths = [len(row.text) for row in rows_of(name)]
    assert min(lengths) < 120
    assert max(lengths) > 500


@pytest.mark.parametrize("seed", range(20))
def test_a_hidden_question_keeps_its_words(seed: int) -> None:
    """Whatever the container, each word of the question stands somewhere in the code."""
    text = hidden("how to prune apple trees", Random(seed))
    assert all(word in text for word in ("how", "prune", "apple", "trees"))


def test_containers_of_hidden_questions_differ() -> None:
    """No two containers write the same question in the same way."""
    assert len({container(["a", "b", "c", "d"]) for container in CONTAINERS}) == len(CONTAINERS)


@pytest.mark.parametrize(
    ("mark", "shown"),
    [
        ("A) ", "A) x\nB) y"),
        ("(a) ", "(a) x\n(b) y"),
        ("1. ", "1. x\n2. y"),
        ("- ", "- x\n- y"),
        ("Option 1: ", "Option 1: x\nOption 2: y"),
    ],
)
def test_marks_count_on(mark: str, shown: str) -> None:
    """Letters and numbers count on from the first mark; bullets stay."""
    assert listed(["x", "y"], mark, "\n") == shown


def test_a_summary_request_keeps_passage_and_request() -> None:
    """The passage and the request both stand whole in the prompt, in either order."""
    texts = [summary_request("A storm came.", "Sum it up.", Random(seed)) for seed in range(40)]
    assert all("A storm came." in text and "Sum it up." in text for text in texts)
    assert {text.index("Sum it up.") < text.index("A storm came.") for text in texts} == {True, False}


def test_separators_part_prompts() -> None:
    """Blocks are parted by a line of their own, lines by line ends; blank ones are dropped."""
    assert blocks("a\nb\n%%\nc\n") == ["a\nb", "c"]
    assert lines("a\n\nb\n") == ["a", "b"]
