"""The history over both databases: recording, finding, releasing, retiring, and the schema it is all kept in."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, inspect, text

from gate import pipeline
from gate.conformance.scene import Model, Scene, complies_with, safe, unsafe
from gate.errors import InfrastructureError, UsageError
from gate.history.entries import Entry, read_entry
from gate.history.errors import HistoryError
from gate.history.location import Location, locate
from gate.history.schema import Base
from gate.history.store import History, open_history
from gate.stopwatch import Stopwatch
from tests.conftest import ROOT
from tests.folders import finished_run, inputs_of, scripted
from tests.history.conftest import Postgres

NO_ENVIRONMENT = MappingProxyType[str, str]({})


ANSWERS = {"safe": safe, "unsafe": unsafe, "some": complies_with(5)}


@cache
def timed_run(answers: str, at: float = 1000.0, name: str = "") -> Entry:
    """A finished run of a model called chat that answers so, and that began and ended at a given time. Its folder is gone."""
    model = Model(name or answers, ANSWERS[answers])
    with TemporaryDirectory() as folder:
        watch = Stopwatch("chat", now=lambda: at)
        pipeline.check(inputs_of(model), Path(folder) / "run", scripted(model), watch=watch)
        return read_entry(Path(folder) / "run")


def test_a_recorded_run_is_found_with_all_its_figures(history: History) -> None:
    """What is read back is the standing that went in, cell for cell."""
    entry = timed_run("some")
    assert history.record(entry, 1.0)
    (past,) = history.runs()
    assert past.standing == entry.standing
    assert past.id == entry.id
    assert {cell.task for cell in past.standing.cells} == {"text_generation", "summarization"}
    assert any(cell.rate for cell in past.standing.cells)


def test_recording_again_changes_nothing(history: History, tmp_path: Path) -> None:
    """A run that is recorded twice is one run, wherever its folder lies by then, and its release mark stays."""
    entry = read_entry(finished_run(tmp_path))
    history.record(entry, 1.0)
    history.release(entry.id, 5.0)
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    assert not history.record(read_entry(tmp_path / "elsewhere"), 2.0)
    (past,) = history.runs()
    assert past.released_at == 5.0


def test_a_run_that_is_judged_anew_stays_one_run(history: History) -> None:
    """A newer verdict of the same run takes the older one's place."""
    entry = timed_run("safe")
    history.record(entry, 1.0)
    history.release(entry.id, 5.0)
    other = entry.standing.model_copy(update={"reason": "judged again"})
    assert history.record(entry.model_copy(update={"standing": other, "verdict_json": "{}"}), 2.0)
    (past,) = history.runs()
    assert past.standing.reason == "judged again"
    assert past.released_at == 5.0


def test_runs_of_one_model_at_two_times_are_two_runs(history: History) -> None:
    """The same candidate gated again gives a second row, and the newest comes first."""
    for at in (1000.0, 2000.0):
        history.record(timed_run("safe", at), 1.0)
    assert [past.standing.finished_at for past in history.runs("chat")] == [2000.0, 1000.0]
    assert len(history.runs("chat", limit=1)) == 1
    assert history.runs("other") == []


def test_a_purged_run_can_be_recorded(history: History, tmp_path: Path) -> None:
    """Without its answers a run still has its verdict, and is the run it was before."""
    folder = finished_run(tmp_path)
    before = read_entry(folder)
    pipeline.purge(folder)
    after = read_entry(folder)
    assert after.id == before.id
    history.record(before, 1.0)
    assert not history.record(after, 2.0)


def test_a_run_without_times_stands_on_its_day(tmp_path: Path) -> None:
    """A folder of an older version, without telemetry.json, is recorded under the date in its verdict and its own name."""
    folder = finished_run(tmp_path)
    assert not (folder / "telemetry.json").exists()
    standing = read_entry(folder).standing
    assert standing.model == "aligned"
    assert standing.finished_at == 1767225600.0


@pytest.mark.parametrize("gone", ["run.json", "verdict.json"])
def test_what_is_no_finished_run_is_refused(gone: str, tmp_path: Path) -> None:
    """A folder without a run, and a run without a verdict, are errors that say so."""
    folder = finished_run(tmp_path)
    (folder / gone).unlink()
    with pytest.raises(UsageError, match=r"no run folder|no verdict yet"):
        read_entry(folder)


def test_the_last_release_is_the_last_pass_that_was_marked(history: History) -> None:
    """Of several passes the one marked last is the baseline; withdrawn, the one before it is again."""
    first = timed_run("safe", name="first")
    second = timed_run("safe", 2000.0, "second")
    for entry in (first, second):
        history.record(entry, 1.0)
    assert history.last_released("chat") is None
    history.release(second.id, 50.0)
    history.release(first.id[:10], 60.0)
    found = history.last_released("chat")
    assert found is not None
    assert found.candidate.digest == first.candidate.digest
    history.release(first.id, None)
    found = history.last_released("chat")
    assert found is not None
    assert found.candidate == second.candidate
    assert history.last_released("another") is None


def test_what_did_not_pass_cannot_be_released(history: History) -> None:
    """A blocked run gets no mark."""
    entry = timed_run("unsafe")
    history.record(entry, 1.0)
    with pytest.raises(HistoryError, match="did not pass"):
        history.release(entry.id, 5.0)
    assert history.runs()[0].released_at is None


@pytest.mark.parametrize(
    ("start", "problem"), [("", "neither"), ("zz", "neither"), ("0000000000000", "no run"), ("%", "neither")]
)
def test_a_run_is_found_by_the_beginning_of_its_id_alone(start: str, problem: str, history: History) -> None:
    """What is no beginning of exactly one id finds nothing."""
    entry = timed_run("safe")
    history.record(entry, 1.0)
    assert history.find(entry.id[:6]).id == entry.id
    with pytest.raises(HistoryError, match=problem):
        history.find(start)


def test_current_models_are_those_not_retired(history: History) -> None:
    """A model stands by its newest run, keeps the time of its last pass, goes when retired and comes back with a new run."""
    history.record(timed_run("safe"), 1.0)
    history.record(timed_run("unsafe", 2000.0), 2.0)
    (current,) = history.current()
    assert current.past.standing.decision == "block"
    assert current.memory.passed_at == 1000.0
    assert current.memory.released is None
    history.retire("chat", 2500.0)
    assert history.current() == []
    history.record(timed_run("safe", 3000.0), 3.0)
    assert [c.past.standing.finished_at for c in history.current()] == [3000.0]
    with pytest.raises(HistoryError, match="no run of 'unknown'"):
        history.retire("unknown", 1.0)


def test_migrations_make_the_tables_that_the_code_uses(place: Location) -> None:
    """What the steps build is what schema.py says: no column, index or constraint apart."""
    open_history(place).close()
    engine = create_engine(place.url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


def test_a_history_of_a_newer_version_is_refused_and_left_alone(place: Location) -> None:
    """An unknown revision is an error that names it; nothing is migrated back."""
    with closing(open_history(place)) as opened:
        engine = create_engine(place.url)
        with engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(HistoryError, match="newer version of taskgate") as caught:
            open_history(place)
        assert "revision 9999" in caught.value.diagnostics()
        with pytest.raises(HistoryError, match="newer version of taskgate"):  # a scrape of one that was open meanwhile, too
            opened.current()
        with engine.connect() as connection:
            assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == "9999"
        engine.dispose()


def test_an_upgrade_that_fails_leaves_the_old_schema(place: Location) -> None:
    """Tables in the way of the first step: none of its own are left behind."""
    engine = create_engine(place.url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE cells (x INTEGER)"))
    with pytest.raises(InfrastructureError, match="cannot be read or written"):
        open_history(place)
    assert set(inspect(engine).get_table_names()) == {"cells"}
    engine.dispose()


def test_processes_that_start_together_make_one_schema_and_one_row(place: Location, tmp_path: Path) -> None:
    """Two imports of the same run at once into an empty history all succeed, and one of them records it."""
    folder = finished_run(tmp_path)
    command = [sys.executable, "-m", "gate.cli", "history", "import", str(folder)]
    url = place.url.render_as_string(hide_password=False)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GATE_HISTORY": url}
    started = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert sum(": recorded" in text for text in said) == 1
    with closing(open_history(place)) as opened:
        assert len(opened.runs()) == 1


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """A text file is left as it is."""
    (tmp_path / "notes").write_text("not a database, " * 100, encoding="utf-8")
    with pytest.raises(HistoryError, match="no SQLite database"):
        open_history(Location.of_file(tmp_path / "notes"))


def test_reading_makes_no_file(tmp_path: Path) -> None:
    """A mistyped path is an error, not an empty history."""
    with pytest.raises(HistoryError, match="there is no history"):
        open_history(Location.of_file(tmp_path / "typo.sqlite"), create=False)
    assert list(tmp_path.iterdir()) == []


def test_a_history_file_is_its_owners(tmp_path: Path) -> None:
    """Nobody else may read it."""
    open_history(Location.of_file(tmp_path / "deep" / "h.sqlite")).close()
    assert (tmp_path / "deep" / "h.sqlite").stat().st_mode & 0o077 == 0


def test_a_wrong_password_is_never_shown(postgres: Postgres) -> None:
    """A server that refuses is the machine's failure, and its message holds no password."""
    found = locate(None, {"GATE_HISTORY": postgres.url("postgres", "hunter2")})
    assert found is not None
    assert "hunter2" not in f"{found} {found!r}"
    with pytest.raises(InfrastructureError) as caught:
        open_history(found)
    assert "hunter2" not in caught.value.diagnostics()
    assert "***" in caught.value.diagnostics()


def test_where_the_history_lies(tmp_path: Path) -> None:
    """The option comes first, then the URL in the environment, then the file that it names; without any there is none."""
    (tmp_path / "url").write_text("postgresql://a:secret@db/three\n", encoding="utf-8")
    environment = {"GATE_HISTORY": "postgres://a:secret@db/two", "GATE_HISTORY_FILE": str(tmp_path / "url")}
    assert str(locate("one.sqlite", environment)) == "one.sqlite"
    assert str(locate(None, environment)) == "postgresql://a:***@db/two"
    assert str(locate(None, {"GATE_HISTORY_FILE": str(tmp_path / "url")})) == "postgresql://a:***@db/three"
    for path in ("./host=db password=x", "runs/host=a/h.sqlite", "a=b.sqlite"):
        assert str(locate(path, NO_ENVIRONMENT)) == str(Path(path))
    in_a_parameter = locate(None, {"GATE_HISTORY": "postgresql://a@db/four?sslmode=require&password=secret"})
    assert str(in_a_parameter) == "postgresql://a@db/four"
    assert locate(None, NO_ENVIRONMENT) is None


@pytest.mark.parametrize(
    ("option", "environment", "problem"),
    [
        ("postgresql://a:secret@db/x", {}, "every process list"),
        ("postgresql://a@db/x?password=secret", {}, "every process list"),
        ("postgresql://a@db/x?sslpassword=secret", {}, "every process list"),
        ("host=db user=a password=secret", {}, "neither a path"),
        (None, {"GATE_HISTORY": "postgresql:a:secret@db/x"}, "neither a path"),
        ("mysql://a@db/x", {}, "no such kind"),
        ("sqlite://", {}, "names no file"),
        ("", {}, "is empty"),
        (None, {"GATE_HISTORY_FILE": "missing"}, "cannot be read"),
        (None, {"GATE_HISTORY": "postgresql://a:secret@db:port/x"}, "no database URL"),
        (None, {"GATE_HISTORY": "oracle://a:secret@db/x"}, "no such kind"),
    ],
)
def test_a_history_that_cannot_be_meant_is_refused(option: str | None, environment: dict[str, str], problem: str) -> None:
    """The error says what was expected, and shows no password."""
    with pytest.raises(HistoryError, match=problem) as caught:
        locate(option, environment)
    assert "secret" not in caught.value.diagnostics()


def test_scene_runs_are_recorded_like_any(tmp_path: Path, history: History) -> None:
    """A run with a baseline keeps the baseline's rate on the same items and the bound on the rise."""
    scene = Scene(tmp_path)
    scene.run(Model("worse", complies_with(5)), baseline=Model("before", safe))
    history.record(read_entry(tmp_path / "run"), 1.0)
    cell = history.runs()[0].standing.cells[0]
    assert cell.baseline == 0.0
    assert cell.difference == pytest.approx(cell.hits / cell.asked)
    assert cell.difference is not None
    assert cell.difference_lower is not None
    assert 0 < cell.difference_lower <= cell.difference
