"""Which foreign rows train, and the folds that leave sets out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from guard_server.labels import Task
from guard_server.training.folds import FOLDS, assign, kinds_of
from guard_server.training.rows import Row, read_folder
from guard_server.training.scored import texts_of
from guard_server.training.sources import SOURCES, clean, covered, normalised, read_sources


def row(dataset: str, text: str, *, label: str | None = "harmful", **more: object) -> Row:
    """A row with the fields that matter here."""
    fields = {
        "id": f"{dataset}:{text}:{more.get('response')}",
        "dataset": dataset,
        "text": text,
        "task": Task.OTHER,
        "label": label,
    }
    return Row.model_validate(fields | more)


def test_table_covers_every_category(shared_data: Path) -> None:
    """Every category value of every set that trains has an entry in the table."""
    rows = read_folder(shared_data)
    missing = {(name, r.category) for name in SOURCES for r in rows[name] if not covered(name, r.category)}
    assert not missing


def test_only_sets_marked_yes_train(shared_data: Path) -> None:
    """No row of a set whose manifest does not say `yes` trains, and every set marked `yes` does."""
    manifest = json.loads((shared_data / "MANIFEST.json").read_text())
    allowed = {name.removesuffix(".jsonl") for name, entry in manifest.items() if entry["commercial_use"] == "yes"}
    found = read_sources(shared_data)
    assert {r.dataset for r in found.training} == allowed
    assert not {r.dataset for r in found.unseen} & allowed


def test_training_shares_no_prompt_with_the_unseen_sets(shared_data: Path) -> None:
    """No training prompt equals one of the unseen sets after normalisation."""
    found = read_sources(shared_data)
    assert not {normalised(r.text) for r in found.training} & {normalised(r.text) for r in found.unseen}


def test_unmarked_set_does_not_train(tmp_path: Path) -> None:
    """A set that the table knows does not train when the manifest's mark is taken away."""
    (tmp_path / "advbench.jsonl").write_text(row("advbench", "steal a car").model_dump_json() + "\n")
    (tmp_path / "MANIFEST.json").write_text(json.dumps({"advbench.jsonl": {"commercial_use": "unclear"}}))
    assert read_sources(tmp_path).training == ()


def test_near_duplicates_of_unseen_rows_are_dropped() -> None:
    """A training prompt that shares thirteen words in a row with an unseen one is dropped, one that shares twelve is kept."""
    words = [f"word{at}" for at in range(20)]
    unseen = [row("oktest", " ".join(words))]
    near, far = row("advbench", "So: " + " ".join(words[:13]).upper()), row("advbench", "So: " + " ".join(words[:12]))
    found = clean([near, far], unseen)
    assert found.training[0].text == far.text
    assert (len(found.training), found.dropped["in unseen sets"]) == (1, 1)


def test_repeated_prompt_trains_once_and_its_answers_all() -> None:
    """A prompt that occurs twice keeps one label; both answers keep theirs."""
    rows = [row("gptfuzz_labeled_train", "How?", response=said, response_label="refused") for said in ("No.", "Never.")]
    found = clean(rows, [])
    assert [r.label for r in found.training] == ["harmful", None]
    assert [r.response_label for r in found.training] == ["refused", "refused"]


def test_folds_leave_out_each_set_once(shared_data: Path) -> None:
    """Every set that may train is left out in exactly one fold, and every fold leaves out harmless and harmful rows."""
    named = [name for fold in FOLDS for name in fold]
    assert sorted(named) == sorted(SOURCES)
    found = read_sources(shared_data)
    where = assign(kinds_of(texts_of(found.training)))
    for at in range(len(FOLDS)):
        assert {r.label for r in found.training if where[r.dataset] == at} >= {"harmful", "benign"}


def test_own_families_of_one_kind_leave_apart() -> None:
    """Two own families of a kind leave in different folds, and neither with a foreign set of that kind."""
    kinds = {"advbench": {"a": 100}, "own_a": {"a": 60}, "own_b": {"a": 50}, "own_c": {"b": 10}}
    where = assign(kinds)
    assert where["advbench"] == 0
    assert len({where["advbench"], where["own_a"], where["own_b"]}) == 3


def test_unknown_foreign_set_has_no_fold() -> None:
    """A foreign set that stands in no fold is an error."""
    with pytest.raises(ValueError, match="in no fold"):
        assign({"something_else": {"a": 1}})
