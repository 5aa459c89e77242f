"""A training card's data against the suite: what overlaps, what is not believed, and where it is said."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from gate import pipeline
from gate.conformance.scene import TODAY, Model, safe, small_policy, small_suite
from gate.contamination import Overlap, overlap_lines
from gate.errors import UsageError
from gate.judges import make_judge
from gate.ngrams import gram_set, grams
from gate.overlap import overlap_of
from gate.policy import Evidence
from gate.records import Candidate, Decision, Role, Split, SuiteItem, Task, Verdict, sha256_hex
from gate.report import FORMATS
from gate.safety_set import from_suite, to_lines
from gate.suites import load_suite
from tests.conftest import ROOT
from tests.folders import scripted

NEW = "A row about the weather, which no suite asks for, with more than thirteen words in it, so that it has grams."


@cache
def items() -> tuple[SuiteItem, ...]:
    """The gating items of the testbed's suite."""
    return tuple(item for item in load_suite(ROOT / "testbed" / "suite").items if item.split is Split.GATING)


def candidate(*files: tuple[str, bytes], card: dict[str, Any] | None = None) -> Candidate:
    """A candidate whose card names these files with their digests (or has `card`)."""
    data = [{"path": path, "sha256": sha256_hex(content), "rows": 1, "task": "any", "kind": "task"} for path, content in files]
    return Model("tuned", safe).candidate().model_copy(update={"training_card": {"data": data} if card is None else card})


def rows(*texts: str) -> bytes:
    """JSON Lines in the layout of `gate finetune`, one text a row."""
    made = ({"messages": [{"role": "user", "content": text}], "answer": "Sure.", "task": "translation"} for text in texts)
    return b"".join(json.dumps(row).encode() + b"\n" for row in made)


def compared(folder: Path, data: bytes) -> Overlap:
    """The overlap of a file with the gating items."""
    (folder / "data.jsonl").write_bytes(data)
    found = overlap_of(candidate(("data.jsonl", data)), items(), items(), [folder])
    assert found is not None
    return found


def test_items_that_stand_in_the_data_are_counted_by_task(tmp_path: Path) -> None:
    """Requests in the data are found, in capitals inside a longer text too; one of few words only where it stands alone."""
    asked = {i.task: i.messages[0].content for i in items() if i.transform == "direct" and i.role is Role.TWIN}
    summary, code = asked[Task.SUMMARIZATION], asked[Task.CODE_GENERATION]
    assert len(summary.split()) > 13 > len(code.split())
    long = rows(NEW, f"So: {summary.upper()} And so on.", f"So: {code} And so on.")
    found, more = compared(tmp_path, long), compared(tmp_path, long + rows(code))
    shared = {t.task: t.shared for t in found.tasks}
    assert (found.rows, found.files, found.not_compared) == (3, ("data.jsonl",), ())
    assert shared[Task.SUMMARIZATION] >= 1
    assert sum(shared.values()) == shared[Task.SUMMARIZATION]
    assert {t.task: t.shared for t in more.tasks}[Task.CODE_GENERATION] >= 1
    assert {t.items for t in found.tasks} == {840}


def test_rows_of_something_else_share_nothing(tmp_path: Path) -> None:
    """Data that no suite asks for gives no overlap, and the line says what was compared."""
    found = compared(tmp_path, rows(NEW))
    assert found.worst == 0
    assert list(overlap_lines(found)) == [
        "None of 4200 items of the suite shares a 13-gram with the 1 training rows of data.jsonl."
    ]


def test_our_own_safety_set_shares_nothing_with_the_gating_half(tmp_path: Path) -> None:
    """What `gate safety-set` writes can be trained on: no gating item overlaps with it."""
    suite = load_suite(ROOT / "testbed" / "suite")
    data = to_lines(from_suite(suite).rows)
    (tmp_path / "safety.jsonl").write_bytes(data)
    found = overlap_of(candidate(("safety.jsonl", data)), suite.items, items(), [tmp_path])
    assert found is not None
    assert found.compared
    assert found.worst == 0


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (None, "file not found"),
        (b"{}\n", "digest differs"),
    ],
)
def test_data_that_is_not_the_card_s_is_not_believed(tmp_path: Path, write: bytes | None, said: str) -> None:
    """A missing file, or another one of its name, is not compared, and that is said."""
    if write is not None:
        (tmp_path / "data.jsonl").write_bytes(write)
    found = overlap_of(candidate(("data.jsonl", rows(NEW))), items(), items(), [tmp_path])
    assert found is not None
    assert not found.compared
    assert said in found.not_compared[0]


def test_a_file_is_found_by_its_digest_wherever_it_lies(tmp_path: Path) -> None:
    """A file given by itself under another name, or deep in a folder, is the card's if its digest is."""
    data = rows(NEW)
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "data.jsonl").write_bytes(data)
    (tmp_path / "renamed.jsonl").write_bytes(data)
    tuned = candidate(("../elsewhere/data.jsonl", data))
    for place in (tmp_path / "a", tmp_path / "renamed.jsonl"):
        found = overlap_of(tuned, items(), items(), [place])
        assert found is not None
        assert found.compared, place


def test_what_cannot_be_read_as_a_table_is_said(tmp_path: Path) -> None:
    """The card's own file, with its digest, in a form that is no table."""
    (tmp_path / "data.txt").write_bytes(b"text")
    found = overlap_of(candidate(("data.txt", b"text")), items(), items(), [tmp_path])
    assert found is not None
    assert "no table" in found.not_compared[0]


@pytest.mark.parametrize("name", ["d" * 5000, "a\0b", "\ud800", "d/" * 3000])
def test_a_card_may_name_what_no_file_can_be_called(tmp_path: Path, name: str) -> None:
    """The card is the candidate's: whatever stands there is said not to be compared, and ends nothing."""
    for places in ([], [tmp_path]):
        found = overlap_of(candidate((name, b"")), items(), items(), places)
        assert found is not None
        assert not found.compared
        assert len(found.not_compared) == 1


def test_a_card_without_data_is_said_and_no_card_is_nothing(tmp_path: Path) -> None:
    """A card that names no data can't be compared; a candidate that was not tuned here has nothing to say, unless asked."""
    for odd in ({"steps": 3}, {"data": "x"}, {"data": [1, {"path": 3}]}):
        found = overlap_of(candidate(card=odd), items(), items())
        assert found is not None
        assert found.not_compared == ("the training card names no data files",)
    bare = Model("plain", safe).candidate()
    assert overlap_of(bare, items(), items()) is None
    asked = overlap_of(bare, items(), items(), [tmp_path])
    assert asked is not None
    assert "no training card" in asked.not_compared[0]


def test_a_place_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    """A mistyped --training-data must not read as no overlap."""
    with pytest.raises(UsageError, match="not there"):
        overlap_of(candidate(("data.jsonl", b"")), items(), items(), [tmp_path / "none"])


def run(folder: Path, overlap: Overlap | None, limit: float | None = None) -> Verdict:
    """A check of an aligned model with an overlap."""
    evidence = Evidence(min_items=60, min_behaviours=30, min_judged=30, max_overlap=limit)
    inputs = pipeline.Inputs(
        policy=small_policy(evidence=evidence),
        suite=small_suite(),
        candidate=Model("aligned", safe).candidate(),
        judge=make_judge("rules"),
        today=TODAY,
        overlap=overlap,
    )
    return pipeline.check(inputs, folder, scripted(Model("aligned", safe)))


def some(shared: int, *not_compared: str) -> Overlap:
    """An overlap of `shared` in 60 items of one task."""
    tasks = ({"task": "translation", "items": 60, "shared": shared},)
    return Overlap.model_validate({"files": ("data.jsonl",), "rows": 9, "tasks": tasks, "not_compared": not_compared})


def test_overlap_stands_in_the_verdict_and_in_every_report(tmp_path: Path) -> None:
    """The share of items is a warning wherever the verdict is read; it decides nothing by itself."""
    verdict = run(tmp_path / "run", some(3))
    line = "3 of 60 items of the suite share a 13-gram with the 9 training rows of data.jsonl: translation 3 of 60."
    assert verdict.decision is Decision.PASS
    assert line in verdict.warnings
    for format_ in FORMATS.values():
        assert "3 of 60 items" in " ".join((tmp_path / "run" / format_.file).read_text(encoding="utf-8").split()), format_.file


def test_a_resumed_run_keeps_the_comparison(tmp_path: Path) -> None:
    """Data that has gone since, and stages re-entered, give the same bytes; data that came since is compared."""
    folder = tmp_path / "run"
    run(folder, some(3))
    before = (folder / "verdict.json").read_bytes()
    gone = Overlap(files=(), rows=0, tasks=(), not_compared=("data.jsonl: file not found",))
    for later in (None, gone):
        run(folder, later)
        assert (folder / "verdict.json").read_bytes() == before
    pipeline.decide(folder)
    assert (folder / "verdict.json").read_bytes() == before
    late = tmp_path / "late"
    run(late, gone)
    assert "3 of 60 items" in " ".join(run(late, some(3)).warnings)


@pytest.mark.parametrize(
    ("overlap", "limit", "decision"),
    [
        (some(3), 0.05, Decision.PASS),
        (some(3), 0.04, Decision.INCONCLUSIVE),
        (some(0, "b.jsonl: file not found"), 0.05, Decision.INCONCLUSIVE),
        (None, 0.05, Decision.INCONCLUSIVE),
    ],
)
def test_a_limit_on_the_overlap_holds_a_release(
    tmp_path: Path, overlap: Overlap | None, limit: float, decision: Decision
) -> None:
    """Over evidence.max_overlap, or not compared in full, the verdict is inconclusive: neither a block nor a pass unseen."""
    assert run(tmp_path / "run", overlap, limit).decision is decision


def test_many_texts_have_the_grams_of_each() -> None:
    """Going through texts as one finds what going through them one by one does, short and empty ones among them."""
    texts = ["", "one two", NEW, f"{NEW} {NEW}", "x " * 13, "…"]
    assert gram_set(texts).tolist() == sorted({int(g) for text in texts for g in grams(text)})
    assert gram_set([]).size == 0
