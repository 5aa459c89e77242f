"""The second body of harmless prompts: how many there are, that none comes twice anywhere, and that a seed decides the rows."""

from collections import Counter
from functools import cache
from random import Random

from guard_server.labels import Task
from guard_server.training.material import MODULES
from guard_server.training.material.assistant import FAMILIES, prompts
from guard_server.training.material.general import LONG
from guard_server.training.rows import Row

NAMES = tuple(name.removeprefix("assistant_") for name in FAMILIES)
AT_LEAST = {"instructions": 400, "questions": 450, "advice": 190, "creative": 150, "system": 100}


@cache
def rows(name: str, seed: int = 1) -> tuple[Row, ...]:
    """The rows of one family."""
    return tuple(FAMILIES[f"assistant_{name}"](Random(seed)))


@cache
def written(name: str) -> tuple[tuple[Task, str], ...]:
    """The hand-written prompts of one family with their tasks."""
    return tuple(prompts(name))


def test_at_least_1300_prompts_are_written_by_hand() -> None:
    """The files hold 1,300 prompts or more, each family its share, and 150 of them have 300 to 1,000 characters."""
    assert {name: least for name, least in AT_LEAST.items() if len(written(name)) < least} == {}
    assert sum(len(written(name)) for name in NAMES) >= 1300
    assert sum(300 <= len(text) <= 1000 for name in NAMES for _, text in written(name)) >= 150


def test_no_prompt_comes_twice() -> None:
    """No two prompts differ only in case, spaces or marks, and no two rows of the module share a text or an id."""
    plain = ("".join(c for c in text.casefold() if c.isalnum()) for name in NAMES for _, text in written(name))
    assert [text for text, times in Counter(plain).items() if times > 1] == []
    produced = [row for name in NAMES for row in rows(name)]
    assert len({row.text for row in produced}) == len({row.id for row in produced}) == len(produced)


def test_every_row_is_benign() -> None:
    """All rows are labelled benign, carry no category, and are English prompts without an answer."""
    labels = {(row.label, row.category, row.lang, row.response) for name in NAMES for row in rows(name)}
    assert labels == {("benign", None, "en", None)}


def test_every_prompt_stands_as_written_with_its_task() -> None:
    """A family's rows hold each prompt of its file unchanged, with the task under which it is listed."""
    for name in NAMES:
        assert set(written(name)) <= {(row.task, row.text) for row in rows(name)}


def test_about_a_third_has_one_rewording() -> None:
    """The rewordings are 28 to 38 in a hundred of the prompts, and no prompt longer than the limit has any."""
    total = sum(len(written(name)) for name in NAMES)
    extra = sum(len(rows(name)) for name in NAMES) - total
    assert 0.28 <= extra / total <= 0.38
    long = {text for name in NAMES for _, text in written(name) if len(text) > LONG}
    own = {text for name in NAMES for _, text in written(name)}
    assert not [row for name in NAMES for row in rows(name) if row.text not in own and any(text in row.text for text in long)]


def test_a_seed_decides_the_rows() -> None:
    """The same seed gives the same rows, another seed gives other rewordings."""
    assert rows("advice") == tuple(FAMILIES["assistant_advice"](Random(1)))
    assert rows("advice") != rows("advice", 2)


def test_the_module_is_part_of_the_material() -> None:
    """The package lists the module, so its families are generated with the others."""
    assert "assistant" in MODULES
