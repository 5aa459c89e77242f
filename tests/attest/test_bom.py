"""The ML-BOM: valid by the library's strict validator, a rate for every task, the same bytes every time."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from gate.attest.bom import render_bom
from tests.attest.runs import evaluation_of


def valid(text: str) -> bool:
    """What the library's strict validator says."""
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def test_each_rate_stands_in_the_model_card(passed: Path) -> None:
    """Every cell of the verdict has its metric: rate, bounds and slice as in verdict.json."""
    evaluation = evaluation_of(passed)
    text = render_bom(evaluation, "my-model").decode()
    assert valid(text)
    metrics = json.loads(text)["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    expected = {
        f"{s.task}|{s.calibration}|{s.decoding}|{s.measure}": (s.rate, s.lower, s.upper) for s in evaluation.verdict.stats
    }
    found: dict[str, tuple[float | None, float, float]] = {}
    for metric in metrics:
        interval = metric["confidenceInterval"]
        rate = None if metric["value"] == "none" else float(metric["value"])
        bounds = float(interval["lowerBound"]), float(interval["upperBound"])
        found[f"{metric['slice']}|{metric['type'].split()[0]}"] = (rate, *bounds)
    assert found == expected
    assert len(metrics) == len(evaluation.verdict.stats) > 3


def test_every_file_stands_with_its_digest(passed_adapter: Path, adapter: Path, model: Path) -> None:
    """The files of adapter and base are listed with their SHA-256, each under its owner; the adapter depends on the base."""
    content = json.loads(render_bom(evaluation_of(passed_adapter), "my-adapter"))
    own, base = content["metadata"]["component"], content["components"][0]
    assert {f["name"] for f in own["components"]} == {f.name for f in adapter.iterdir()}
    assert {f["name"] for f in base["components"]} == {f.name for f in model.iterdir()}
    assert {"ref": "model", "dependsOn": ["base"]} in content["dependencies"]


def test_the_same_run_gives_the_same_bytes(blocked: Path) -> None:
    """Serial number and time stamp are the run's: no clock and no chance is in a BOM."""
    assert render_bom(evaluation_of(blocked), "m") == render_bom(evaluation_of(blocked), "m")


def test_hostile_text_stays_text(passed: Path) -> None:
    """A warning that holds markup, quotes and control characters leaves the BOM valid, and comes back as it was."""
    hostile = '<script>alert(1)</script> "]}\u202e\u001b[31m \U0001f600'
    evaluation = evaluation_of(passed)
    evaluation = replace(evaluation, verdict=evaluation.verdict.model_copy(update={"warnings": (hostile,)}))
    text = render_bom(evaluation, hostile).decode()
    assert valid(text)
    assert text.isascii()
    card = json.loads(text)["metadata"]["component"]["modelCard"]
    assert hostile in card["considerations"]["technicalLimitations"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: c["quantitativeAnalysis"]["performanceMetrics"][0].update(score=1),
        lambda c: c["quantitativeAnalysis"]["performanceMetrics"][0].update(value=0.5),
        lambda c: c.update(modelArchitecture="x"),
    ],
)
def test_the_validator_refuses_a_wrong_card(passed: Path, spoil: Callable[[dict[str, Any]], object]) -> None:
    """A metric with an unknown field, a number where text belongs, a field in the wrong place: the validator sees each."""
    content = json.loads(render_bom(evaluation_of(passed), "my-model"))
    spoil(content["metadata"]["component"]["modelCard"])
    assert not valid(json.dumps(content))
