"""Training rows: three formats and two layouts read alike; a bad row is named with file, line and what was expected."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from gate.errors import GateError
from gate.finetune.data import Example, load_data
from gate.finetune.recipe import Recipe
from gate.records import Message
from tests.finetune.recipes import LEAST

ASK = Message(role="user", content="Say hello")


def load(path: Path, **changes: object) -> list[Example]:
    """The examples of one table."""
    return list(load_data(Recipe.model_validate({**LEAST, "data": [{"path": str(path), **changes}]})).examples)


def lines(path: Path, *rows: object) -> Path:
    """The rows as JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_csv_json_lines_and_parquet_give_the_same_examples(tmp_path: Path) -> None:
    """With the columns mapped, a table reads the same in every format."""
    (tmp_path / "a.csv").write_text("Query,Response\nSay hello,Hello\n", encoding="utf-8")
    lines(tmp_path / "a.jsonl", {"Query": "Say hello", "Response": "Hello"})
    pyarrow.parquet.write_table(pyarrow.table({"Query": ["Say hello"], "Response": ["Hello"]}), tmp_path / "a.parquet")
    mapping = {"task": "greeting", "columns": {"prompt": "Query", "answer": "Response"}}
    found = [load(tmp_path / name, **mapping)[0] for name in ("a.csv", "a.jsonl", "a.parquet")]
    assert [(e.messages, e.answer, e.cell) for e in found] == [((ASK,), "Hello", "greeting/task")] * 3


def test_turns_end_in_the_answer_or_stand_beside_it(tmp_path: Path) -> None:
    """A last assistant turn is the answer; a column `answer` is it otherwise; both layouts keep the system turn."""
    system = {"role": "system", "content": "Be brief"}
    user, said = {"role": "user", "content": "Say hello"}, {"role": "assistant", "content": "Hello"}
    turns = load(
        lines(tmp_path / "a.jsonl", {"messages": [system, user, said]}, {"messages": [system, user], "answer": "Hello"}), task="t"
    )
    pairs = load(lines(tmp_path / "b.jsonl", {"system": "Be brief", "prompt": "Say hello", "answer": "Hello"}), task="t")
    wanted = (Message(role="system", content="Be brief"), ASK)
    assert [(e.messages, e.answer) for e in [*turns, *pairs]] == [(wanted, "Hello")] * 3


def test_a_rows_own_task_and_kind_come_before_the_sources(tmp_path: Path) -> None:
    """Rows that name a task or a kind keep it; the others take the source's."""
    rows = lines(
        tmp_path / "a.jsonl",
        {"prompt": "p", "answer": "a", "task": "translation", "kind": "safety"},
        {"prompt": "p", "answer": "a"},
    )
    assert [e.cell for e in load(rows, task="code_generation")] == ["translation/safety", "code_generation/task"]


@pytest.mark.parametrize("per_task", [True, False])
def test_refusals_are_cells_by_task_or_one_over_all(tmp_path: Path, per_task: bool) -> None:
    """`per_task` decides whether each task's refusals have a say of their own."""
    data = lines(tmp_path / "a.jsonl", {"prompt": "p", "answer": "a", "task": "t"})
    safe = lines(tmp_path / "s.jsonl", *({"prompt": "p", "answer": "No", "task": task} for task in ("t", "u")))
    safety = {"data": [{"path": str(safe)}], "share": 0.5, "per_task": per_task}
    loaded = load_data(Recipe.model_validate({**LEAST, "data": [{"path": str(data)}], "safety": safety}))
    refused = ["t/safety", "u/safety"] if per_task else ["all/safety", "all/safety"]
    assert [e.cell for e in loaded.examples] == ["t/task", *refused]
    assert [(f.path, f.rows, f.task, f.kind) for f in loaded.files] == [
        ("a.jsonl", 1, "t", "task"),
        ("s.jsonl", 2, "t+u", "safety"),
    ]


def test_a_limit_draws_by_the_seed(tmp_path: Path) -> None:
    """The same rows each time, in their order in the file."""
    rows = lines(tmp_path / "a.jsonl", *({"prompt": f"p{i}", "answer": "a", "task": "t"} for i in range(50)))
    found = [e.messages[0].content for e in load(rows, limit=10)]
    assert found == [e.messages[0].content for e in load(rows, limit=10)]
    assert len(found) == 10
    assert found == sorted(found, key=lambda text: int(text[1:]))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "", "answer": "a", "task": "t"}, "prompt can't be trained on"),
        ({"prompt": "p", "answer": " ", "task": "t"}, "answer can't be trained on"),
        ({"prompt": "p", "answer": "a"}, "the row's task is not named"),
        ({"prompt": "p", "answer": "a", "task": "Two Words"}, "task can't be trained on"),
        ({"prompt": "p", "answer": "a", "task": "t", "kind": "other"}, "kind can't be trained on"),
        ({"messages": "no list", "task": "t"}, "messages can't be trained on"),
        ({"messages": [{"role": "tool", "content": "x"}], "task": "t"}, "messages can't be trained on"),
        ({"messages": [{"role": "assistant", "content": "x"}], "task": "t"}, "messages can't be trained on"),
        ({"messages": 3, "task": "t"}, "messages can't be trained on"),
        ({"question": "p", "answer": "a", "task": "t"}, "no column 'prompt'"),
        ([1, 2], "not an object"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path: Path, row: object, says: str) -> None:
    """The fault is told with file and line (a lacking column with the file), what was expected and what was found."""
    path = lines(tmp_path / "a.jsonl", row)
    with pytest.raises(GateError) as caught:
        load(path)
    told = caught.value.diagnostics()
    assert says in told
    assert "a.jsonl" + ("" if "column" in says else ":1") in told
    assert caught.value.expected
    assert caught.value.exit_code == 2


def test_a_column_that_the_recipe_names_must_be_there(tmp_path: Path) -> None:
    """A mistyped mapping names the nearest column."""
    path = lines(tmp_path / "a.jsonl", {"Query": "p", "answer": "a", "task": "t"})
    with pytest.raises(GateError, match="no column 'Qery'") as caught:
        load(path, columns={"prompt": "Qery"})
    assert "'Query'" in caught.value.diagnostics()
