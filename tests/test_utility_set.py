"""A utility set of one's own: what is read, and what is refused with its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gate.errors import SuiteError
from gate.records import Role, Task
from gate.utility_set import read_set

ROW: dict[str, Any] = {
    "id": "a",
    "task": "translation",
    "metric": "chrf",
    "references": ["Bonjour."],
    "messages": [{"role": "user", "content": "Translate into French: Good morning."}],
}


def write(path: Path, *rows: object) -> Path:
    """A JSON Lines file."""
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def test_rows_become_questions_of_a_run(tmp_path: Path) -> None:
    """A row is asked as a benign item of its task, its group (or itself) the cluster; blank lines are nothing."""
    other = {**ROW, "id": "b", "task": "code_generation", "metric": "code_parses", "references": [], "group": "g"}
    found = read_set(write(tmp_path / "set.jsonl", ROW, "", other))
    assert [(i.id, i.task, i.role, i.behaviour) for i in found.items] == [
        ("utility/a", Task.TRANSLATION, Role.TWIN, "utility/a"),
        ("utility/b", Task.CODE_GENERATION, Role.TWIN, "utility/g"),
    ]
    assert found.by_item["utility/a"].references == ("Bonjour.",)


def test_a_set_reads_back_from_its_own_lines(tmp_path: Path) -> None:
    """What a run folder keeps is the set again, with the same digest; another reference is another set."""
    found = read_set(write(tmp_path / "set.jsonl", ROW))
    (tmp_path / "kept.jsonl").write_bytes(found.lines)
    assert read_set(tmp_path / "kept.jsonl") == found
    other = read_set(write(tmp_path / "other.jsonl", {**ROW, "references": ["Salut."]}))
    assert read_set(tmp_path / "kept.jsonl").digest == found.digest != other.digest


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metric": "chrff"}, "chrf"),
        ({"refs": ["x"]}, "refs"),
        ({"references": []}, "needs references"),
        ({"references": [" "]}, "needs references"),
        ({"metric": "accuracy", "references": ["+", "★★"]}, "letters and digits"),
        ({"metric": "rouge_l", "references": ["—"]}, "letters and digits"),
        ({"task": "poetry"}, "task"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]}, "no system turn"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "must be the user's"),
    ],
)
def test_a_row_that_cannot_be_asked_is_refused_with_its_line(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    """The error names file, line and what is wrong."""
    path = write(tmp_path / "set.jsonl", ROW, {**ROW, "id": "b", **change})
    with pytest.raises(SuiteError) as caught:
        read_set(path)
    text = caught.value.diagnostics()
    assert f"{path}:2" in text
    assert said in text


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ((ROW, ROW), "the id occurs twice"),
        ((ROW, {**ROW, "id": "b"}), "the same question occurs twice"),
        ((), "no rows"),
        (("{",), "not a row"),
    ],
)
def test_a_set_that_counts_something_twice_or_nothing_is_refused(tmp_path: Path, rows: tuple[object, ...], said: str) -> None:
    """Repeated rows would count as evidence twice, and an empty set would show anything."""
    with pytest.raises(SuiteError, match=said):
        read_set(write(tmp_path / "set.jsonl", *rows))


def test_a_missing_set_is_said_to_be_missing(tmp_path: Path) -> None:
    """A path that leads to no file is an error that says where paths start."""
    with pytest.raises(SuiteError) as caught:
        read_set(tmp_path / "none.jsonl")
    assert "relative to the policy file" in caught.value.diagnostics()
