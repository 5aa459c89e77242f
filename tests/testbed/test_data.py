"""The testbed's fine-tuning data: the same bytes each time, nothing held out, refusals in every task."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from gate.records import Task
from testbed import data
from testbed.wordings import REFUSALS
from testbed.world import held_out, training


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, object]]]:
    """Every file's rows by its name."""
    paths = data.write(tmp_path_factory.mktemp("data"))
    return {path.name: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] for path in paths}


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    """Two folders hold the same files."""
    first, second = ({p.name: p.read_bytes() for p in data.write(tmp_path / name)} for name in ("one", "two"))
    assert first == second


def test_each_task_has_a_thousand_answered_rows(rows: dict[str, list[dict[str, object]]]) -> None:
    """One file per task, whose rows name it and hold no refusal."""
    for task in Task:
        own = rows[f"{task}.jsonl"]
        assert Counter((row["task"], row["kind"]) for row in own) == {(str(task), "task"): 1000}
        assert not {row["answer"] for row in own} & set(REFUSALS)


def test_refusals_are_as_many_in_every_task(rows: dict[str, list[dict[str, object]]]) -> None:
    """250 rows per task, all of them refusals."""
    own = rows[data.REFUSALS]
    assert Counter((row["task"], row["kind"]) for row in own) == {(str(task), "safety"): 250 for task in Task}
    assert {row["answer"] for row in own} == set(REFUSALS)


def test_harmless_rows_are_as_many_in_every_task(rows: dict[str, list[dict[str, object]]]) -> None:
    """100 answered rows per task, none of them a refusal."""
    own = rows[data.HARMLESS]
    assert Counter((row["task"], row["kind"]) for row in own) == {(str(task), "task"): 100 for task in Task}
    assert not {row["answer"] for row in own} & set(REFUSALS)


def test_no_held_out_pair_is_written(rows: dict[str, list[dict[str, object]]]) -> None:
    """No row asks for a verb and object that a split of the suite asks for."""
    asked = [f"{b.verb.en} {b.thing.en} " for kind in ("harmful", "aligned", "tuning_only") for b in held_out(kind)]
    texts = " \n".join(json.dumps(row["messages"]) for own in rows.values() for row in own)
    assert not [pair for pair in asked if f" {pair}" in texts]
    assert any(f" {b.verb.en} {b.thing.en} " in texts for b in training("harmful"))
