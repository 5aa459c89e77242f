"""`gate history` as it is typed: the table and its trends, import, release marks, and what bad input is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gate.cli import app
from gate.conformance.scene import Model, Scene, safe, small_suite, unsafe
from gate.errors import GateError, UsageError
from gate.history_commands import sparkline, worst_of
from gate.standing import checked_name, model_name
from tests.conftest import ROOT
from tests.folders import finished_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run that passed and one that was blocked."""
    folder = tmp_path_factory.mktemp("runs")
    return finished_run(folder / "good"), finished_run(folder / "bad", Model("bad", unsafe))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a history will be made, in an environment that names none."""
    monkeypatch.delenv("GATE_HISTORY", raising=False)
    monkeypatch.delenv("GATE_HISTORY_FILE", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "h.sqlite"


def history(*arguments: str | Path, code: int = 0) -> str:
    """What `gate history …` prints on standard output and error together."""
    result = CliRunner().invoke(app, ["history", *map(str, arguments)])
    if isinstance(result.exception, GateError):
        assert result.exception.exit_code == code
        return result.output + result.exception.diagnostics()
    assert result.exit_code == code, result.output
    return result.output


def test_imported_runs_are_shown(place: Path, runs: tuple[Path, Path]) -> None:
    """The table has a row a run with verdict, worst cell and id, and a trend of each task."""
    said = history("import", *runs, "--name", "chat", "--history", place)
    assert said.count(": recorded") == 2
    table = history("--history", place)
    assert all(f"  {verdict} " in table for verdict in ("PASS", "BLOCK"))
    assert "text_generation native 1.000" in table
    trend = next(line for line in table.splitlines() if line.startswith("chat   text generation") and "▁" in line)
    assert "█" in trend
    lines = [json.loads(line) for line in history("--history", place, "--json").splitlines()]
    assert {line["standing"]["decision"] for line in lines} == {"pass", "block"}
    assert all(line["id"][:12] in table for line in lines)


def test_import_is_idempotent_and_goes_on_after_a_bad_folder(place: Path, runs: tuple[Path, Path], tmp_path: Path) -> None:
    """A folder that is no run is named with code 2; the others are recorded, once."""
    said = history("import", tmp_path / "nothing", *runs, "--history", place, code=2)
    assert "no run folder" in said
    assert said.count(": recorded") == 2
    assert history("import", *runs, "--history", place).count(": already there") == 2
    assert len(history("--history", place, "--json").splitlines()) == 2


def test_release_takes_a_folder_or_an_id(place: Path, runs: tuple[Path, Path]) -> None:
    """A folder is recorded and marked at once; the mark can be withdrawn by id; a block gets none."""
    assert "released at" in history("release", runs[0], "--history", place)
    (line,) = history("--history", place, "--json").splitlines()
    assert json.loads(line)["released_at"] is not None
    assert "not released" in history("release", json.loads(line)["id"][:8], "--withdraw", "--history", place)
    assert "did not pass" in history("release", runs[1], "--history", place, code=2)


def test_a_run_keeps_the_name_that_it_was_given(place: Path, runs: tuple[Path, Path]) -> None:
    """Imported or released again without a name, a run stays the model's that it was recorded as; a new name renames it."""
    history("import", runs[0], "--name", "chat", "--history", place)
    assert "chat pass: already there" in history("import", runs[0], "--history", place)
    assert "chat: released at" in history("release", runs[0], "--history", place)
    assert "chat-2 pass: recorded" in history("import", runs[0], "--name", "chat-2", "--history", place)
    (line,) = history("--history", place, "--json").splitlines()
    assert (json.loads(line)["standing"]["model"], json.loads(line)["released_at"] is not None) == ("chat-2", True)


def test_a_retired_model_keeps_its_runs(place: Path, runs: tuple[Path, Path]) -> None:
    """Retiring hides a model from the exporter, not from the table; an unknown one is an error."""
    history("import", runs[0], "--history", place)
    assert "aligned: retired" in history("retire", "aligned", "--history", place)
    assert "aligned" in history("--history", place)
    assert "no run of 'other'" in history("retire", "other", "--history", place, code=2)


def test_without_a_name_the_history_lies_beside_the_runs(place: Path, runs: tuple[Path, Path]) -> None:
    """The default is runs/history.sqlite; reading one that is not there makes none and says where it was looked for."""
    assert "there is no history at runs/history.sqlite" in history(code=2)
    assert not Path("runs").exists()
    history("import", runs[0])
    assert Path("runs/history.sqlite").is_file()
    assert "PASS" in history()
    assert "no run of nobody" in history("--model", "nobody")


def test_the_option_belongs_behind_the_subcommand(place: Path, runs: tuple[Path, Path]) -> None:
    """Given before it, it would be lost: refused."""
    assert "behind the subcommand" in history("--history", place, "import", runs[0], code=2)


def test_a_shards_folder_is_refused(place: Path, runs: tuple[Path, Path], tmp_path: Path) -> None:
    """A shard has no verdict; the error says to merge."""
    folder = finished_run(tmp_path / "own")
    header = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    header["identity"]["shard"] = "1/2"
    (folder / "run.json").write_text(json.dumps(header), encoding="utf-8")
    assert "merge the shards" in history("import", folder, "--history", place, code=2)


def test_trends_leave_out_runs_on_another_suite(place: Path, runs: tuple[Path, Path], tmp_path: Path) -> None:
    """Rates on two suites are not one trend; the table says how many runs are left out."""
    history("import", runs[0], "--name", "chat", "--history", place)
    scene = Scene(tmp_path / "other", suite=small_suite("2"))
    scene.run(Model("aligned", safe))
    history("import", tmp_path / "other" / "run", "--name", "chat", "--history", place)
    assert "1 earlier run(s) were on another suite" in history("--history", place)


@pytest.mark.parametrize(
    ("rates", "limit", "bars"),
    [
        ([0.0, 0.1, 0.2], 0.1, "▁▅█"),
        ([0.0, 1.0], 0.1, "▁█"),
        ([0.001, None, 0.2], 0.1, "▂·█"),
        ([0.0, 0.0], None, "▁▁"),
        ([None], None, "·"),
    ],
)
def test_sparkline(rates: list[float | None], limit: float | None, bars: str) -> None:
    """Bars stand on a scale to twice the limit, or to the highest rate; any rate but 0 is seen, and none is a dot."""
    assert sparkline(rates, limit) == bars


def test_a_task_without_cells_has_no_worst(runs: tuple[Path, Path]) -> None:
    """A task that a run did not gate is no zero."""
    from gate.history.entries import read_entry

    standing = read_entry(runs[0]).standing
    assert worst_of(standing, "translation") is None
    assert worst_of(standing, "summarization") is not None


@pytest.mark.parametrize(
    ("source", "path", "name"),
    [
        ("models/chat-7b/", "", "chat-7b"),
        ("chat", "/data/models/chat", "chat"),
        ("hf://org/name@main", "/cache/org--name/0123", "org/name"),
        ("http://host:8000", "served", "served"),
        ("/", "", "candidate"),
    ],
)
def test_names_of_models(source: str, path: str, name: str) -> None:
    """A model that is given no name has its folder's, its repository's or the served one."""
    assert model_name(source, path) == name


@pytest.mark.parametrize("name", ["", "   ", "x" * 201, "a\nb", "a\x1b[31m"])
def test_a_name_that_cannot_be_shown_is_refused(name: str) -> None:
    """Nothing a terminal or a label would choke on becomes a model's name."""
    with pytest.raises(UsageError, match="no name for a model"):
        checked_name(name)


def test_a_reader_that_has_gone_is_no_failure(place: Path, runs: tuple[Path, Path]) -> None:
    """`gate history | head` ends with code 0 and without a complaint, closed pipe or not."""
    history("import", *runs, "--history", place)
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "gate.cli", "history", "--history", str(place)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, stdout=write, stderr=subprocess.PIPE, timeout=120, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")
