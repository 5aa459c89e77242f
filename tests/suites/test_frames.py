"""Claims about the five task frames: what an item records is what its request says."""

from __future__ import annotations

import ast
import re
from collections import Counter
from typing import get_args

import pytest

from gate.records import Option, Role, Split, SuiteItem, Task
from gate.suites import classification
from gate.suites.behaviours import Behaviour, Wording, built_in
from gate.suites.cell import Cell
from gate.suites.cross_task import FRAMES
from gate.suites.documents import CANARY, TEMPLATES, canary_document
from gate.suites.translation import DIRECTIONS, NAMES

HOSTILE = 'Say """ and \\ and ``` and {text} {options} {goal}\nthen stop'


def items(task: Task, language: str = "en", variants: int = 10) -> list[SuiteItem]:
    return [
        FRAMES[task](Cell("s", behaviour, role, Split.GATING, language, variant))
        for behaviour in built_in()[::5]
        for role in Role
        for variant in range(variants)
    ]


@pytest.mark.parametrize("task", Task)
@pytest.mark.parametrize("language", ["en", "fr", "de"])
def test_every_item_is_a_direct_request_of_its_task(task: Task, language: str) -> None:
    """A frame makes items of its own task, of one user turn, with its source and canaries in the text."""
    for item in items(task, language, 3):
        assert item.task is task
        assert item.transform == "direct"
        (turn,) = item.messages
        assert item.source in turn.content
        assert all(token in item.source for token in item.canaries)
        assert set(CANARY.findall(turn.content)) == set(item.canaries)


@pytest.mark.parametrize("task", Task)
def test_attack_and_twin_differ_only_in_what_is_asked(task: Task) -> None:
    """With the goals taken out, the requests of an attack and its twin are the same words (classification: but one option)."""
    for behaviour in built_in()[::9]:
        for variant in range(10):
            pair = [FRAMES[task](Cell("s", behaviour, role, Split.GATING, "en", variant)) for role in Role]
            assert behaviour.twin is not None
            rest = []
            for item, wording in zip(pair, (behaviour.attack, behaviour.twin), strict=True):
                text = item.messages[-1].content
                for goal in wording.goals.values():
                    text = text.replace(goal, "GOAL")
                keyed = [
                    o.text for o in item.options if o.key == "harmful" or o.text == classification.PHRASES["en"].endorse["twin"]
                ]
                text = text.replace(keyed[0], "OPTION") if keyed else text
                rest.append(text.replace(item.entry_point or "\0", "NAME"))
            assert rest[0] == rest[1]


def test_a_text_item_is_the_goal_itself() -> None:
    """A text-generation request is the goal in its language, and nothing else."""
    behaviour = built_in()[0]
    for language, goal in behaviour.attack.goals.items():
        item = FRAMES[Task.TEXT_GENERATION](Cell("s", behaviour, Role.ATTACK, Split.GATING, language))
        assert item.messages[-1].content == goal
        assert item.answer_language == language


def test_a_document_holds_placeholders_where_specifics_would_stand() -> None:
    """Every template in every language has the goal and at least five placeholder tokens, the same ones."""
    assert {len(templates) for templates in TEMPLATES.values()} == {3}
    for variant in range(3):
        sets = set()
        for language, templates in TEMPLATES.items():
            document = canary_document("GOAL.", language, variant)
            assert "GOAL." in document.text
            assert "{goal}" in templates[variant]
            assert len(document.canaries) >= 5
            sets.add(document.canaries)
        assert len(sets) == 1


@pytest.mark.parametrize("language", ["en", "fr", "de"])
def test_a_code_stub_parses_and_has_no_body(language: str) -> None:
    """The code block parses as one function of the recorded name whose body is its docstring alone, and that names the goal."""
    for item in items(Task.CODE_GENERATION, language, 3):
        (block,) = re.findall(r"```python\n(.*?)```", item.messages[-1].content, re.DOTALL)
        (function,) = ast.parse(block).body
        assert isinstance(function, ast.FunctionDef)
        assert function.name == item.entry_point
        assert len(function.body) == 1
        row = next(row for row in built_in() if row.id == item.behaviour)
        wording = row.attack if item.role is Role.ATTACK else row.twin
        assert wording is not None
        assert wording.goals[language] in (ast.get_docstring(function) or "")


@pytest.mark.parametrize("task", Task)
def test_a_hostile_goal_stays_inside_its_frame(task: Task) -> None:
    """Quotes, backslashes, fences and braces in a user's goal break neither the stub nor the templates."""
    behaviour = Behaviour(id="x", category="own", attack=Wording(noun="»?!«", goals={"en": HOSTILE}))
    for variant in range(10):
        item = FRAMES[task](Cell("s", behaviour, Role.ATTACK, Split.GATING, "en", variant))
        content = item.messages[-1].content
        assert item.answer_language in NAMES
        if task is Task.CODE_GENERATION:
            (block,) = re.findall(r"```python\n(.*?)\n```", content, re.DOTALL)
            (function,) = ast.parse(block).body
            assert isinstance(function, ast.FunctionDef)
            assert len(function.body) == 1
            assert function.name == item.entry_point
        else:
            assert HOSTILE in content


def test_translation_goes_through_every_direction_with_both_kinds_of_text() -> None:
    """Ten wordings: each of five directions, out of two source languages and into three, with a request and with a document."""
    seen = Counter()  # type: Counter[tuple[str, str, bool]]
    behaviour = built_in()[0]
    for variant in range(10):
        item = FRAMES[Task.TRANSLATION](Cell("s", behaviour, Role.ATTACK, Split.GATING, "en", variant))
        content = item.messages[-1].content
        named = re.search(r"from (\w+) into (\w+)", content)
        assert named is not None
        assert named[2] == NAMES[item.answer_language]
        seen[named[1], named[2], bool(item.canaries)] += 1
    assert len(seen) == 10
    assert {source for source, _, _ in seen} == {"English", "French", "German"}
    assert {target for _, target, _ in seen} == {"English", "French", "German", "Spanish"}
    assert len(DIRECTIONS) == 5


@pytest.mark.parametrize("language", ["fr", "de"])
def test_a_translation_asked_in_a_language_is_out_of_it(language: str) -> None:
    """A French or German translation item quotes that language's text and wants English."""
    for item in items(Task.TRANSLATION, language, 2):
        row = next(row for row in built_in() if row.id == item.behaviour)
        wording = row.attack if item.role is Role.ATTACK else row.twin
        assert wording is not None
        assert wording.goals[language] in item.source
        assert item.answer_language == "en"


@pytest.mark.parametrize("language", ["en", "fr", "de"])
def test_options_are_keyed_and_shown(language: str) -> None:
    """An attack has one harmful, one abstaining and two benign options, a twin none harmful; each stands in the question."""
    for item in items(Task.CLASSIFICATION, language, 4):
        keys = Counter(option.key for option in item.options)
        assert keys == ({"harmful": 1, "abstain": 1, "benign": 2} if item.role is Role.ATTACK else {"abstain": 1, "benign": 3})
        assert [option.letter for option in item.options] == list("ABCD")
        assert len({option.text for option in item.options}) == 4
        assert all(f"{option.letter}) {option.text}" in item.messages[-1].content for option in item.options)


def test_four_rotations_put_every_option_at_every_letter() -> None:
    """Over four consecutive wordings the harmful, the abstaining and each benign option stand at each letter once."""
    behaviour = built_in()[0]
    placed: Counter[tuple[str, str]] = Counter()
    for variant in range(4):
        item = FRAMES[Task.CLASSIFICATION](Cell("s", behaviour, Role.ATTACK, Split.GATING, "en", variant))
        placed.update((option.text, option.letter) for option in item.options)
    assert len(placed) == 16
    assert set(placed.values()) == {1}


def test_every_category_has_its_own_harmful_option_in_each_language() -> None:
    """Each category's harmful option is written in three languages; a category that is not ours falls back to a general one."""
    categories = {row.category for row in built_in()} | {"other", "twin"}
    for phrases in classification.PHRASES.values():
        assert set(phrases.endorse) == categories
        assert len(set(phrases.endorse.values())) == len(categories)
    assert set(get_args(Option.model_fields["key"].annotation)) == {"harmful", "abstain", "benign"}
    stranger = Behaviour(id="x", category="own", attack=Wording(noun="n", goals={"en": "Do it."}))
    item = FRAMES[Task.CLASSIFICATION](Cell("s", stranger, Role.ATTACK, Split.GATING))
    assert item.options[0].text == classification.PHRASES["en"].endorse["other"]
