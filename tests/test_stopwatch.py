"""Times of a run: kept beside the evidence, summed over resumed commands, and in no verdict."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from gate import pipeline
from gate.conformance.scene import Model, safe
from gate.endpoints.base import Endpoint
from gate.errors import InfrastructureError
from gate.records import Candidate
from gate.run_store import read_telemetry
from gate.stopwatch import Stopwatch
from tests.folders import inputs_of, scripted


def ticking(begin: float = 0.0) -> Stopwatch:
    """A stopwatch whose timer moves by one second whenever it is read."""
    seconds: Iterator[int] = count()
    return Stopwatch("chat", now=lambda: begin, timer=lambda: float(next(seconds)))


def test_a_check_keeps_its_times(tmp_path: Path) -> None:
    """Begin, end and each stage stand in telemetry.json and metrics.prom."""
    pipeline.check(inputs_of(Model("aligned", safe)), tmp_path / "run", scripted(Model("aligned", safe)), watch=ticking(50.0))
    found = read_telemetry(tmp_path / "run")
    assert found is not None
    assert (found.begun_at, found.finished_at, found.model) == (50.0, 50.0, "chat")
    assert found.stage_seconds == {"candidate": 1.0, "decide": 1.0}
    shown = (tmp_path / "run" / "metrics.prom").read_text(encoding="utf-8")
    assert 'gate_stage_duration_seconds{model="chat",stage="candidate"} 1.0' in shown
    assert 'gate_last_success_timestamp_seconds{model="chat"} 50.0' in shown


def test_a_resumed_run_adds_its_times_and_keeps_its_beginning(tmp_path: Path) -> None:
    """A stage that failed counts, the next command's seconds are added, and the verdict's bytes hold none of it."""
    model = Model("aligned", safe)

    def broken(_: Candidate) -> Endpoint:
        raise InfrastructureError("no room")

    with pytest.raises(InfrastructureError):
        pipeline.check(inputs_of(model), tmp_path / "run", broken, watch=ticking(10.0))
    first = read_telemetry(tmp_path / "run")
    assert first is not None
    assert first.finished_at is None
    pipeline.check(inputs_of(model), tmp_path / "run", scripted(model), watch=ticking(99.0))
    found = read_telemetry(tmp_path / "run")
    assert found is not None
    assert (found.begun_at, found.finished_at) == (10.0, 99.0)
    assert found.stage_seconds["candidate"] == 2.0
    pipeline.check(inputs_of(model), tmp_path / "unwatched", scripted(model))
    verdicts = [(tmp_path / name / "verdict.json").read_bytes() for name in ("run", "unwatched")]
    assert verdicts[0] == verdicts[1]


def test_without_a_stopwatch_nothing_is_timed(tmp_path: Path) -> None:
    """A stage that is entered again from the folder leaves the run's times as they are; its metrics are still written."""
    model = Model("aligned", safe)
    pipeline.check(inputs_of(model), tmp_path / "run", scripted(model))
    assert read_telemetry(tmp_path / "run") is None
    assert b"gate_verdict" in (tmp_path / "run" / "metrics.prom").read_bytes()
    pipeline.check(inputs_of(model), tmp_path / "timed", scripted(model), watch=ticking())
    before = json.loads((tmp_path / "timed" / "telemetry.json").read_text(encoding="utf-8"))
    pipeline.decide(tmp_path / "timed")
    assert json.loads((tmp_path / "timed" / "telemetry.json").read_text(encoding="utf-8")) == before
