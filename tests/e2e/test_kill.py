"""`kill -9` at any moment, then the same command: nothing stored is asked again, nothing is stored twice, same verdict bytes."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from tests.conftest import ROOT
from tests.run_driver import BATCH

KILLS = 24
KILLS_A_RUN = 6
SLEEP = "0.004"


def start(folder: Path, log: Path) -> subprocess.Popen[bytes]:
    """The driver on a folder, in a process of its own."""
    command = [sys.executable, "-m", "tests.run_driver", str(folder), "--log", str(log), "--sleep", SLEEP]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def finish(folder: Path, log: Path) -> None:
    """Run to the end; the scripted model is within its limits."""
    assert start(folder, log).wait(timeout=120) == 0


def kill_at_random(folder: Path, log: Path, draw: random.Random) -> bool:
    """Start, wait until it asks (or a random while), kill; whether it was still running."""
    before = len(asks_in(log))
    process = start(folder, log)
    more = draw.choice([0, draw.randrange(1, 60)])
    deadline = time.monotonic() + (draw.uniform(0, 2) if more == 0 else 30)
    while process.poll() is None and time.monotonic() < deadline and not (more and len(asks_in(log)) >= before + more):
        time.sleep(0.002)
    time.sleep(draw.uniform(0, 0.04))
    process.kill()
    return process.wait(timeout=30) == -signal.SIGKILL


def asks_in(log: Path) -> list[tuple[str, str, str, str]]:
    """(process, batch, sample, case) of every ask that reached the endpoint."""
    if not log.exists():
        return []
    found = [line.split(" ", 3) for line in log.read_text(encoding="utf-8").splitlines()]
    return [(pid, batch, sample, case) for pid, batch, sample, case in found]


def stored_in(folder: Path) -> list[tuple[str, int]]:
    """(case, sample) of every whole line of the answer log."""
    path = folder / "candidate.responses.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith(b"\n")]
    return [(row["case_id"], row["sample"]) for row in rows]


def killed_run(folder: Path, draw: random.Random) -> int:
    """Kill a run several times, finish it, and hold it to what must be true; returns the kills that met a living process."""
    folder.mkdir()
    run, log = folder / "run", folder / "asks"
    kills = 0
    for _ in range(KILLS_A_RUN):
        stored = stored_in(run)
        known = len(asks_in(log))
        kills += kill_at_random(run, log, draw)
        new = {(case, int(sample)) for _, _, sample, case in asks_in(log)[known:]}
        assert not new & set(stored), "a stored answer was asked for again"
        in_flight = new - set(stored_in(run))
        assert len(in_flight) <= BATCH, "more than one batch was lost"
    known, stored = len(asks_in(log)), stored_in(run)
    finish(run, log)
    assert not {(case, int(sample)) for _, _, sample, case in asks_in(log)[known:]} & set(stored)
    assert max(Counter(stored_in(run)).values()) == 1, "an answer is stored twice"
    return kills


def test_killed_at_random_moments_the_run_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    """Over 24 kills at seeded random moments no answer is lost but a batch in flight, and every verdict is the same bytes."""
    draw = random.Random(20261120)
    finish(tmp_path / "whole", tmp_path / "whole-asks")
    wanted = (tmp_path / "whole" / "verdict.json").read_bytes()
    kills = 0
    for number in range(-(-KILLS // KILLS_A_RUN) + 1):
        kills += killed_run(tmp_path / str(number), draw)
        assert (tmp_path / str(number) / "run" / "verdict.json").read_bytes() == wanted
        if kills >= KILLS:
            break
    assert kills >= 20
