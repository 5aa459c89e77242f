"""`gate exporter` as a process: what a scrape sees of a history that changes, and how the process ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from gate.conformance.scene import Model, unsafe
from gate.errors import InfrastructureError
from gate.exporter import serving
from gate.history.entries import read_entry
from gate.history.location import Location
from gate.history.store import open_history
from tests.conftest import ROOT
from tests.folders import finished_run
from tests.monitoring.programs import promtool, until
from tests.monitoring.test_metrics import of, samples
from tests.ports import free_port


@contextmanager
def served(place: Path) -> Iterator[str]:
    """The exporter's address, in this process."""
    said: list[str] = []
    with serving(Location.of_file(place), "1", host="127.0.0.1", port=0, warn=said.append) as port:
        yield f"http://127.0.0.1:{port}/metrics"
    assert len(said) <= 1, "the same failure is told once"


def scrape(url: str) -> str:
    """One scrape."""
    return httpx.get(url, timeout=30).text


def test_a_scrape_sees_the_history_as_it_is_then(tmp_path: Path) -> None:
    """Not there yet, then with a pass, then with a block that leaves the time of the pass, then retired: no restart between."""
    place = tmp_path / "h.sqlite"
    good = read_entry(finished_run(tmp_path / "good"))
    bad = read_entry(finished_run(tmp_path / "bad", Model("bad", unsafe)))
    later = bad.standing.model_copy(update={"model": "aligned", "finished_at": good.standing.finished_at + 60})
    with served(place) as url:
        found = samples(scrape(url))
        assert of(found, "gate_history_reachable") == [0.0]
        assert of(found, "gate_verdict") == []
        with closing(open_history(Location.of_file(place))) as history:
            history.record(good, 1.0)
            history.release(good.id, 2.0)
            found = samples(scrape(url))
            assert of(found, "gate_history_reachable") == [1.0]
            assert of(found, "gate_verdict", model="aligned", verdict="pass") == [1.0]
            history.record(bad.model_copy(update={"standing": later}), 3.0)
            text = scrape(url)
            assert promtool("check", "metrics", stdin=text).returncode == 0
            found = samples(text)
            assert of(found, "gate_verdict", model="aligned", verdict="block") == [1.0]
            assert of(found, "gate_last_success_timestamp_seconds") == [good.standing.finished_at]
            assert of(found, "gate_released_attack_success_ratio_upper", task="summarization") != []
            history.retire("aligned", later.finished_at)
        found = samples(scrape(url))
        assert of(found, "gate_history_reachable") == [1.0]
        assert of(found, "gate_verdict") == []


def test_a_port_that_is_taken_is_the_machines_failure(tmp_path: Path) -> None:
    """Code 5 and the address, not a traceback."""
    with served(tmp_path / "h.sqlite") as url:
        port = int(url.split(":")[2].split("/")[0])
        taken = serving(Location.of_file(tmp_path / "h.sqlite"), "1", host="127.0.0.1", port=port, warn=print)
        with pytest.raises(InfrastructureError, match=f"127.0.0.1:{port}"):
            taken.__enter__()


def test_the_command_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    """SIGTERM ends it with code 0; what it prints names the history without a password."""
    port = free_port()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GATE_HISTORY": "postgresql://gate:hunter2@127.0.0.1:9/none"}
    command = [sys.executable, "-m", "gate.cli", "exporter", "--port", str(port)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    first = process.stderr.readline()
    assert first.startswith("serving postgresql://gate:***@127.0.0.1:9/none on"), first
    assert "gate_history_reachable 0.0" in until(lambda: scrape(f"http://127.0.0.1:{port}/metrics"), "a scrape")
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "hunter2" not in rest
    assert "cannot be read" in rest
