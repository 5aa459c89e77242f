"""The examples run as they stand."""

from __future__ import annotations

import os
import socket
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


def test_the_release_example_verifies_and_refuses_four_times(tmp_path: Path) -> None:
    """examples/release.sh: a pass is signed, recorded, shown and verified; four refusals come in order, each with its reason."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", str(ROOT / "examples" / "release.sh"), str(tmp_path / "release")],
        env={**os.environ, "PATH": path, "EXPORTER_PORT": str(port)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert 'gate_verdict{model="chat",verdict="pass"} 1.0' in done.stdout
    assert "verified:" in done.stdout
    reasons = ("not the one that was attested", "is too old", "a policy that is not allowed", "not signed by a trusted key")
    said = [line for line in done.stderr.splitlines() if "RefusedAttestation" in line]
    assert [reason in line for reason, line in zip(reasons, said, strict=True)] == [True] * 4
