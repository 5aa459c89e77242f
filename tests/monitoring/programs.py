"""Debian's Prometheus, Pushgateway and Alertmanager as processes on loopback, each stopped at the end."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import httpx
import pytest

T = TypeVar("T")
PATIENCE = 120.0
"""Seconds after which what should happen is said not to: far more than it takes, on a busy machine too."""


def program(name: str) -> str:
    """A program's path; without it the test is skipped."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: prometheus, prometheus-pushgateway, prometheus-alertmanager)")
    return found


def promtool(*arguments: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """One run of promtool."""
    command = [program("promtool"), *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=300, check=False)


@contextmanager
def process(command: Sequence[str], folder: Path, ready: str, env: dict[str, str] | None = None) -> Iterator[Path]:
    """A program that runs while the block does, once it answers at `ready`; yields its log."""
    log = folder / f"{Path(command[0]).name}.log"
    with log.open("wb") as out:
        started = subprocess.Popen(command, cwd=folder, stdout=out, stderr=out, env=env)
        try:
            until(lambda: started.poll() is not None or answers(ready), ready)
            assert started.poll() is None, log.read_text(encoding="utf-8")
            yield log
        finally:
            started.terminate()
            started.wait(timeout=60)


def answers(url: str) -> bool:
    """Whether a server answers there, and well."""
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def until(ask: Callable[[], T], what: str) -> T:
    """What `ask` returns as soon as that is true; fails when it stays false."""
    end = time.monotonic() + PATIENCE
    while not (found := ask()):
        assert time.monotonic() < end, f"in vain: {what}"
        time.sleep(0.1)
    return found
