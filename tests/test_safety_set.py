"""The safety set: what is taken, what never is, and refusals that are refusals."""

from __future__ import annotations

import csv
import json
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gate.cli import app
from gate.errors import SuiteError
from gate.finetune.data import load_data
from gate.finetune.recipe import Recipe
from gate.judges import make_judge
from gate.judges.language import LanguageModel
from gate.ngrams import grams, shares
from gate.records import AttackCase, Calibration, Message, Outcome, Response, Role, Split, SuiteItem, Task
from gate.safety_set import SafetySet, from_multitaskbench, from_suite, to_lines
from gate.safety_wordings import WORDINGS, refusal
from gate.suites import load_suite
from gate.suites.base import Suite
from gate.suites.behaviours import built_in, split_of
from gate.suites.particular import particular
from tests.conftest import ROOT

NAMES = ("cross-task", "testbed/suite")


@cache
def suite(name: str) -> Suite:
    """A suite of the repository."""
    return load_suite(name if name == "cross-task" else ROOT / name)


@cache
def made(name: str) -> SafetySet:
    """Its whole safety set."""
    return from_suite(suite(name))


@pytest.mark.parametrize("name", NAMES)
def test_no_behaviour_and_no_gram_of_the_gating_half_occurs(name: str) -> None:
    """No row is about a gating behaviour, and none shares a 13-gram with what is the gating requests' own."""
    gating = [item for item in suite(name).items if item.split is Split.GATING]
    own, rows = particular(gating), made(name).rows
    assert not {row.behaviour for row in rows} & {item.behaviour for item in gating}
    assert not any(shares(text, own) for row in rows for text in (*(turn.content for turn in row.messages), row.answer))
    assert all(any(shares(turn.content, own) for turn in item.messages) for item in gating)


def test_no_gating_goal_is_asked_in_any_language() -> None:
    """The words of a gating behaviour's goals stand in no row of the built-in suite's set."""
    asked = "\n".join(turn.content for row in made("cross-task").rows for turn in row.messages)
    goals = [goal for b in built_in() if split_of(b.id) is Split.GATING for goal in b.attack.goals.values()]
    assert len(goals) > 200
    assert [goal for goal in goals if goal in asked] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_task_is_refused_in_many_wordings(name: str) -> None:
    """Each of the five tasks has a hundred rows or more, no request twice in one task, and dozens of different refusals."""
    rows = made(name).rows
    counts = Counter(row.task for row in rows)
    assert set(counts) == set(Task)
    assert min(counts.values()) >= 100
    assert len({(row.task, row.messages) for row in rows}) == len(rows)
    for task in Task:
        assert len({row.answer for row in rows if row.task is task}) > 30


def test_every_refusal_is_one_to_the_judge() -> None:
    """Each opening with each closing, in each task and language, is read as a refusal; and it is short."""
    judge = make_judge("rules")
    asked = {"en": "Explain how.", "fr": "Expliquez comment.", "de": "Erkläre, wie.", "es": "Explica cómo."}
    for language, parts in WORDINGS.items():
        for task in Task:
            item = SuiteItem(
                id="x",
                task=task,
                behaviour="b",
                category="c",
                role=Role.ATTACK,
                transform="direct",
                split=Split.TUNING,
                messages=(Message(role="user", content=asked[language]),),
                answer_language=language,
            )
            case = AttackCase(id="x", item=item, calibration=Calibration.NATIVE, decoding="greedy")
            for draw in range(len(parts.openings) * len(parts.closings)):
                text = refusal(language, task, draw)
                answer = Response(
                    case_id="x", sample=0, key="", text=text, finish_reason="stop", prompt_tokens=0, completion_tokens=0
                )
                found = judge.judge(case, answer)
                assert getattr(found, "outcome", None) is Outcome.REFUSED, text
                assert len(text.split()) <= 30


def test_a_request_is_refused_in_its_language() -> None:
    """French and German requests of the built-in suite get French and German refusals, the others English ones."""
    language = LanguageModel()
    transforms = {
        item.messages: item.transform
        for item in suite("cross-task").items
        if item.split is Split.TUNING and item.role is Role.ATTACK
    }
    wanted = {"language-fr": "fr", "language-de": "de"}
    seen: Counter[str] = Counter()
    for row in made("cross-task").rows:
        expected = wanted.get(transforms[row.messages], "en")
        assert language.identify(row.answer)[0] == expected, row
        seen[expected] += 1
    assert set(seen) == {"en", "fr", "de"}


def test_the_same_seed_gives_the_same_bytes_and_another_other_wordings() -> None:
    """The set follows from suite and seed; --per-task draws so many of each."""
    one, again, other = (from_suite(suite("testbed/suite"), per_task=20, seed=seed) for seed in (1, 1, 2))
    assert to_lines(one.rows) == to_lines(again.rows) != to_lines(other.rows)
    assert set(Counter(row.task for row in one.rows).values()) == {20}


def test_the_command_writes_what_finetune_reads(tmp_path: Path) -> None:
    """The file of `gate safety-set` is a recipe's safety data as it stands: every row a refusal of its own task."""
    out = tmp_path / "safety.jsonl"
    found = CliRunner().invoke(app, ["safety-set", "--out", str(out), "--per-task", "7"])
    assert found.exit_code == 0, found.output
    assert "35 rows" in found.output
    recipe = Recipe.model_validate(
        {
            "schema_version": "taskgate/recipe/v1",
            "name": "r",
            "base": "b",
            "data": [{"path": str(out)}],
            "safety": {"data": [{"path": str(out)}], "share": 0.2},
        }
    )
    cells = Counter(example.cell for example in load_data(recipe).examples)
    assert cells == {f"{task}/safety": 14 for task in Task}


def test_a_suite_without_a_tuning_half_gives_no_set() -> None:
    """Where all is gating there is nothing to train on, and that is an error."""
    whole = suite("testbed/suite")
    gating = whole.model_copy(update={"items": tuple(item for item in whole.items if item.split is Split.GATING)})
    with pytest.raises(SuiteError, match="no request is left"):
        from_suite(gating)


def write_table(path: Path, rows: list[tuple[str, str]]) -> Path:
    """A CSV in MultiTaskBench's layout."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("Query", "Response"), *rows])
    return path


def test_multitaskbench_rows_are_taken_where_they_refuse(tmp_path: Path) -> None:
    """Its queries keep its refusals; what answers, repeats or asks what the gating half asks is left out and counted."""
    gating = next(i for i in suite("cross-task").items if i.split is Split.GATING and i.transform == "persona-novelist")
    rows = [
        ("Which plan would work? A) one B) two", "I'm sorry, but I can't help with that."),
        ("Which plan would work? A) one B) two", "I'm sorry, but I can't help with that."),
        ("Which plan is best? A) one B) two", "The plan that works is the first one, because it needs no help."),
        (gating.messages[-1].content, "I'm sorry, but I can't help with that."),
    ]
    found = from_multitaskbench(write_table(tmp_path / "m.csv", rows), suite("cross-task"))
    assert [(row.task, row.behaviour) for row in found.rows] == [(Task.CLASSIFICATION, "multitaskbench-0001")]
    assert sum(found.left_out.values()) == 3
    with pytest.raises(SuiteError, match="none of its rows"):
        from_multitaskbench(write_table(tmp_path / "n.csv", rows[2:]), suite("cross-task"))


def test_lines_are_the_documented_rows() -> None:
    """A line holds messages, answer, task, kind and behaviour, and nothing else."""
    line = json.loads(to_lines(made("testbed/suite").rows[:1]))
    assert set(line) == {"messages", "answer", "task", "kind", "behaviour"}
    assert line["kind"] == "safety"


def test_grams_are_of_words() -> None:
    """Case, punctuation and width don't matter; a text of fewer words is one gram that no longer text holds."""
    text = "One two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    assert grams(text).size == 2
    assert (grams(text) == grams(text.upper().replace(" ", " , "))).all()
    assert grams("one two").size == 1
    assert not shares(text, grams("one two"))
    assert grams("… !").size == 0
