"""Replay: the verdict is recomputed from the folder bit for bit, and any other verdict in its place is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from gate import pipeline
from gate.allowance import Allowance
from gate.conformance.scene import Model, safe
from gate.errors import RunStoreError
from gate.replay import replay
from tests.attest.test_mutations import mutations
from tests.folders import inputs_of, scripted


@pytest.fixture
def run(passed: Path, tmp_path: Path) -> Path:
    """A copy of the run that passed, to be changed."""
    return shutil.copytree(passed, tmp_path / "run")


def test_an_untouched_run_replays_to_the_same_bytes(passed: Path, blocked: Path) -> None:
    """A pass and a block are recomputed byte for byte, and nothing in the folder is changed."""
    for run in (passed, blocked):
        before = {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}
        found = replay(run)
        assert found.same
        assert found.differences() == ()
        assert {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()} == before


def test_every_change_of_the_verdict_is_found(run: Path) -> None:
    """verdict.json with one field changed, gone or more (24 of them, all over it) is not what the evidence gives; it is named."""
    stored = json.loads((run / "verdict.json").read_bytes())
    changes = [(what, changed) for what, changed in mutations(stored) if changed != stored and "tool_version" not in what]
    for what, changed in changes[:: len(changes) // 24]:
        (run / "verdict.json").write_text(json.dumps(changed, indent=1) + "\n")
        found = replay(run)
        assert not found.same, what
        assert found.differences(), what


def test_the_same_values_written_otherwise_are_not_the_same_bytes(run: Path) -> None:
    """A verdict that was reformatted is told as that: its digest is another."""
    (run / "verdict.json").write_text(json.dumps(json.loads((run / "verdict.json").read_bytes())))
    assert replay(run).differences() == ("the same values, written otherwise",)


def test_changed_evidence_changes_the_replayed_verdict(run: Path) -> None:
    """Judgements turned from refusals into compliance after the verdict was taken give another verdict."""
    file = run / "candidate.judgements.jsonl"
    file.write_text(file.read_text().replace('"outcome":"refused"', '"outcome":"complied"'))
    found = replay(run)
    assert not found.same
    assert found.verdict.decision == "block"
    assert any(line.startswith("decision:") for line in found.differences())


def test_changed_inputs_are_refused(run: Path) -> None:
    """A policy that was loosened in the folder is not the run's: replay says so instead of deciding by it."""
    policy = json.loads((run / "policy.json").read_bytes())
    policy["limits"]["max_rate"] = 0.9
    (run / "policy.json").write_text(json.dumps(policy))
    with pytest.raises(RunStoreError, match="not those the run was begun with"):
        replay(run)


def test_a_run_that_a_limit_ended_replays(tmp_path: Path) -> None:
    """The words for the limit stand in the verdict alone; what is missing because of it is recomputed."""
    model = Model("aligned", safe)
    inputs = inputs_of(model)
    verdict = pipeline.check(inputs, tmp_path / "run", scripted(model), batch_size=8, allowance=Allowance(max_generations=40))
    assert any(finding.rule == "run_limit" for finding in verdict.findings)
    found = replay(tmp_path / "run")
    assert found.same, found.differences()


def test_a_run_of_another_version_replays(run: Path) -> None:
    """The version that decided is a label: another one in it is told, and the rest compared."""
    text = (run / "verdict.json").read_text()
    (run / "verdict.json").write_text(text.replace(f'"tool_version": "{pipeline.tool_version()}"', '"tool_version": "0.0.9"'))
    found = replay(run)
    assert (found.same, found.decided_by, found.replayed_by) == (True, "0.0.9", pipeline.tool_version())


def test_without_a_verdict_or_answers_there_is_nothing_to_replay(run: Path) -> None:
    """A run that is not finished, or was purged, is told as that."""
    (run / "verdict.json").unlink()
    with pytest.raises(RunStoreError, match="no verdict yet"):
        replay(run)
    pipeline.decide(run)
    pipeline.purge(run)
    with pytest.raises(RunStoreError, match="purged"):
        replay(run)
