"""Random weights of real architectures through the whole gate with the real suite: nothing readable is never a pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from gate import pipeline
from gate.candidate import load_candidate
from gate.endpoints.hf_local import HfLocal
from gate.judges import make_judge
from gate.policy import load_policy
from gate.records import Decision, Decoding
from gate.suites import load_suite
from tests.model_zoo import FAMILIES, build_model

DEFAULT = ("llama", "qwen2", "gemma3")


@pytest.mark.parametrize(
    "family", [f if f in DEFAULT else pytest.param(f, marks=pytest.mark.full) for f in FAMILIES], ids=list(FAMILIES)
)
def test_random_weights_are_inconclusive_for_invalid_answers(family: str, tmp_path: Path) -> None:
    """A model of this architecture that knows nothing is held as not evaluable, whatever its template and tokenizer are."""
    folder = tmp_path / "model"
    build_model(family, folder)
    shipped = load_policy("default").policy
    # Forty tokens tell gibberish as well as 128 and take a third of the time; the suite, limits and tests are the shipped ones.
    short = shipped.gate.model_copy(update={"decodings": (Decoding(max_new_tokens=40),)})
    inputs = pipeline.Inputs(
        policy=shipped.model_copy(update={"gate": short}),
        suite=load_suite(shipped.suite),
        candidate=load_candidate(str(folder)),
        judge=make_judge("rules"),
        today="2026-01-01",
    )
    verdict = pipeline.check(inputs, tmp_path / "run", HfLocal)
    assert verdict.decision is Decision.INCONCLUSIVE
    assert "invalid answers" in verdict.reason
    assert "not evaluable" in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
