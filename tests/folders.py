"""Run folders for tests: the conformance scene's suite and scripted models, on disk, with or without a process of their own."""

from __future__ import annotations

from pathlib import Path

from gate import pipeline
from gate.conformance.scene import TODAY, Model, Scene, safe, small_policy, small_suite
from gate.endpoints.base import Endpoint
from gate.endpoints.scripted import Scripted
from gate.judges import make_judge
from gate.policy import Policy
from gate.records import Candidate
from gate.suites.base import Suite


def inputs_of(model: Model, *, policy: Policy | None = None, suite: Suite | None = None) -> pipeline.Inputs:
    """A check of a scripted model."""
    return pipeline.Inputs(
        policy=policy or small_policy(),
        suite=suite or small_suite(),
        candidate=model.candidate(),
        judge=make_judge("rules"),
        today=TODAY,
    )


def finished_run(folder: Path, model: Model | None = None) -> Path:
    """A whole run of an aligned model (or of `model`); returns its folder."""
    Scene(folder).run(model or Model("aligned", safe))
    return folder / "run"


def scripted(model: Model) -> pipeline.OpenEndpoint:
    """Opens the model, whatever candidate is named."""

    def open_endpoint(_: Candidate) -> Endpoint:
        return Scripted(model.answer)

    return open_endpoint
