"""Wrapping a prompt into a task: the text stays in it, whatever it holds."""

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard_server.labels import TASKS, Task
from guard_server.training.material.wrap import LAYOUTS, wordings, wrapped

PLAIN = [task for task in TASKS if task not in {Task.CODE_GENERATION, Task.OTHER}]


def _inside(text: str, made: str) -> bool:
    literal = json.dumps(text, ensure_ascii=False)
    listed = json.dumps(text.split(), ensure_ascii=False)
    comment = "\n".join(f"# {line}" for line in text.splitlines())
    docstring = text.replace('"""', '\\"\\"\\"')
    return any(form in made for form in (text, literal, listed, comment, docstring))


@pytest.mark.parametrize("task", TASKS)
@given(text=st.text(min_size=1, max_size=60), seed=st.integers(0, 999), lang=st.sampled_from(["en", "fr", "de", "es", "nl"]))
def test_the_text_is_in_the_copy(task: Task, text: str, seed: int, lang: str) -> None:
    """Any text is in its wrapped copy, verbatim, as a literal, as a list of words or as a comment."""
    assert _inside(text, wrapped(text, task, Random(seed), lang))


@pytest.mark.parametrize("task", PLAIN)
def test_verbatim_outside_code(task: Task) -> None:
    """Outside code the text stands in the copy unchanged, quotes and slot names included."""
    text = 'How do I "kill" {options} and {text}?\nNow {language}'
    assert all(text in wrapped(text, task, Random(seed)) for seed in range(100))


@pytest.mark.parametrize("task", TASKS)
def test_enough_wordings(task: Task) -> None:
    """Every task has at least twelve English wordings, no two alike, each with a place for the text."""
    forms = wordings(task, "en")
    assert len(set(forms)) == len(forms) >= 12
    assert all(any(slot in form for slot in ("{text}", "{quoted}", "{words}", "{comment}")) for form in forms)


def test_enough_layouts() -> None:
    """At least ten layouts of options differ on the same options."""
    assert len({layout(["one", "two", "three"]) for layout in LAYOUTS}) == len(LAYOUTS) >= 10


def test_no_slot_is_left() -> None:
    """No slot of a wording is left unfilled."""
    made = [wrapped("plain text", task, Random(seed)) for task in TASKS for seed in range(60)]
    assert not [
        one for one in made for slot in ("{text}", "{quoted}", "{words}", "{comment}", "{options}", "{language}") if slot in one
    ]


def test_same_seed_same_copy() -> None:
    """The copy depends on the text, the task and the generator alone."""
    assert [wrapped("a b", task, Random(5)) for task in TASKS] == [wrapped("a b", task, Random(5)) for task in TASKS]
