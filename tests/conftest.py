"""Fixtures of every test: the shared data (skipped with a reason where absent) and the count of what was skipped for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).resolve().parents[1]
NO_DATA = "shared data absent"


def shared_data_dir() -> Path:
    """Where the labelled data lies: TASKGATE_DATA, else ../shared/data beside the checkout."""
    return Path(os.environ.get("TASKGATE_DATA") or ROOT.parent / "shared" / "data")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The labelled data's folder. Absent: skip; absent though TASKGATE_DATA names it: fail."""
    folder = shared_data_dir()
    if not (folder / "MANIFEST.json").is_file():
        message = f"{NO_DATA}: no MANIFEST.json in {folder}"
        if os.environ.get("TASKGATE_DATA"):
            pytest.fail(message)
        pytest.skip(message)
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests did not run for want of the shared data."""
    skipped = [r for r in terminalreporter.stats.get("skipped", []) if NO_DATA in str(r.longrepr)]
    terminalreporter.write_line(f"skipped for want of the shared data: {len(skipped)}")
