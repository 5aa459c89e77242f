"""The bench of fine-tuning runs from end to end; what it measures here says nothing, that it measures does."""

from __future__ import annotations

from bench import finetune_speed
from bench.results import RESULTS, ROOT


def test_a_quick_run_measures_and_writes_nothing() -> None:
    """Steps per second, peak memory and the way to the first step are there; the resumed run has the same digest."""
    files = [ROOT / "docs" / "performance.md", RESULTS / "finetune_speed.json"]
    before = [file.read_bytes() for file in files]
    (found,) = finetune_speed.main(["--quick", "--steps", "12", "--batch", "2", "--tokens", "40"])
    assert float(str(found["steps_per_second"])) > 0
    assert float(str(found["peak_memory_gib"])) > 0
    assert found["same_digest"] is True
    assert [file.read_bytes() for file in files] == before
