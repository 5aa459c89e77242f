"""The examples run as they stand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.full
def test_the_tiny_example_blocks_the_drifted_model(tmp_path: Path) -> None:
    """examples/tiny.sh ends well, names the regression's exit code, and leaves a verdict without answers."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    run = tmp_path / "run"
    done = subprocess.run(
        ["bash", str(ROOT / "examples" / "tiny.sh"), str(run)],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "exit code 3" in done.stdout
    assert "Taskgate: BLOCK" in done.stdout
    assert (run / "verdict.json").exists()
    assert not list(run.glob("*.jsonl"))
