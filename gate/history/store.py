"""The history itself: entries and marks are written, past runs are read. One transaction an operation; no clock of its own.

Errors: `HistoryError` for what is asked wrongly or was written by a newer version, `InfrastructureError` where the database can't
be reached or fails. No message holds a password.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError
from sqlalchemy import Connection, Engine, create_engine, event, func, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

from gate.errors import InfrastructureError
from gate.history.entries import Entry
from gate.history.errors import HistoryError
from gate.history.location import FILE_VARIABLE, URL_VARIABLE, Location
from gate.history.migrate import is_current, lock, upgrade
from gate.history.schema import CellRow, RetiredRow, RunRow
from gate.records import Candidate, Decision, Record, sha256_hex
from gate.standing import CellFigures, Standing

WAIT_SECONDS = 30
"""How long a locked SQLite file, or a server that does not answer, is waited for."""


class Past(Record):
    """A recorded run."""

    id: str
    standing: Standing
    folder: str
    candidate_source: str
    released_at: float | None
    """Seconds since 1970 at which it was marked released; null where it is not."""


class Release(Record):
    """A released candidate that can be compared with, as it was recorded."""

    id: str
    candidate: Candidate
    released_at: float


class Memory(Record):
    """What is remembered of a model's earlier runs."""

    passed_at: float | None
    """When it last passed."""
    released: Standing | None
    """The run that was released last."""


class Current(Record):
    """A model that is not retired: its newest run, and what came before."""

    past: Past
    memory: Memory


class History:
    """An open history, at this version's schema."""

    def __init__(self, engine: Engine, shown: str) -> None:
        self._engine = engine
        self.shown = shown
        """Where it lies, without a password."""

    def close(self) -> None:
        """Give back its connections."""
        self._engine.dispose()

    def record(self, entry: Entry, now: float) -> bool:
        """Keep a run, or its newest verdict; marks stay. Returns whether anything changed."""
        with self._session(writing=True) as session:
            row = session.get(RunRow, entry.id)
            if row is not None and _is_recorded(row, entry):
                return False
            kept = row.released_at if row is not None else None
            if row is not None:
                session.delete(row)
                session.flush()
            session.add(_row_of(entry, now, kept))
            return True

    def under_its_name(self, entry: Entry) -> Entry:
        """The entry with the model's name that the run has here; as it is where the run is new."""
        with self._session() as session:
            row = session.get(RunRow, entry.id)
            if row is None:
                return entry
            return entry.model_copy(update={"standing": entry.standing.model_copy(update={"model": row.model})})

    def runs(self, model: str | None = None, limit: int | None = None) -> list[Past]:
        """Past runs, newest first."""
        query = select(RunRow).order_by(RunRow.finished_at.desc(), RunRow.recorded_at.desc(), RunRow.id).limit(limit)
        with self._session() as session:
            return [_past_of(row) for row in session.scalars(query if model is None else query.where(RunRow.model == model))]

    def find(self, start: str) -> Past:
        """The one run whose id begins so."""
        if not start or not all(c in "0123456789abcdef" for c in start):
            raise HistoryError(
                f"{start[:80]!r} is neither a run folder nor the id of a run",
                expected="a folder, or an id that `gate history` shows",
            )
        with self._session() as session:
            found = list(session.scalars(select(RunRow).where(RunRow.id.startswith(start)).limit(2)))
            if len(found) != 1:
                problem = "several runs have ids that begin" if found else "no run has an id that begins"
                raise HistoryError(f"{problem} with {start}", expected="an id that `gate history` shows", mend="give more of it")
            return _past_of(found[0])

    def release(self, run: str, at: float | None) -> Past:
        """Mark a run's candidate as released at a time, or take the mark away (null). Only a pass can be released."""
        found = self.find(run).id
        with self._session(writing=True) as session:
            row = session.get_one(RunRow, found)
            if at is not None and row.decision != Decision.PASS:
                raise HistoryError(
                    f"run {row.id[:12]} of {row.model} did not pass, and what did not pass is no baseline",
                    expected="a run with the decision pass",
                    found=row.decision,
                    mend="release another run",
                )
            if at is None or row.released_at is None:  # a second mark leaves the first one's time
                row.released_at = at
            return _past_of(row)

    def last_released(self, model: str) -> Release | None:
        """The candidate of the model that passed and was released last; null where there is none."""
        with self._session() as session:
            row = _last_released(session, model)
            if row is None or row.released_at is None:
                return None
            try:
                candidate = Candidate.model_validate_json(row.candidate_json)
            except ValidationError as error:
                raise HistoryError(
                    f"run {row.id[:12]} of {model} was recorded by a version of taskgate that described candidates otherwise",
                    found=str(error).splitlines()[0],
                    mend="gate the released candidate again with this version and release that run",
                ) from error
            return Release(id=row.id, candidate=candidate, released_at=row.released_at)

    def retire(self, model: str, at: float) -> None:
        """Show a model no more, until a run of it ends later than that."""
        with self._session(writing=True) as session:
            if session.scalar(select(func.count()).select_from(RunRow).where(RunRow.model == model)) == 0:
                raise HistoryError(f"{self.shown} has no run of {model!r}", expected="a model that `gate history` shows")
            session.merge(RetiredRow(model=model, retired_at=at))

    def memory(self, model: str) -> Memory:
        """What is remembered of one model."""
        with self._session() as session:
            return _memory(session, model)

    def current(self) -> list[Current]:
        """Every model that is not retired, by name."""
        newest = select(RunRow.model, func.max(RunRow.finished_at).label("at")).group_by(RunRow.model).subquery()
        query = (
            select(RunRow)
            .join(newest, (RunRow.model == newest.c.model) & (RunRow.finished_at == newest.c.at))
            .order_by(RunRow.model, RunRow.recorded_at)
        )
        with self._session() as session:
            retired = {row.model: row.retired_at for row in session.scalars(select(RetiredRow))}
            rows = {row.model: row for row in session.scalars(query)}  # of runs that ended together, the one recorded last
            return [
                Current(past=_past_of(row), memory=_memory(session, model))
                for model, row in rows.items()
                if model not in retired or row.finished_at > retired[model]
            ]

    @contextmanager
    def _session(self, *, writing: bool = False) -> Iterator[Session]:
        engine = self._engine.execution_options(writing=writing)
        with _database_errors(self.shown), Session(engine) as session, session.begin():
            if writing:
                lock(session.connection())
            if not is_current(session.connection(), self.shown):
                raise HistoryError(f"{self.shown} is no longer at this version's schema", mend="start the command again")
            yield session


def open_history(location: Location, *, create: bool = True) -> History:
    """Open a history, brought up to this version's schema where needed. `create`: make an SQLite file that is not there."""
    if location.url.get_backend_name() == "sqlite":
        _find_or_make(Path(str(location.url.database)), create=create)
    engine = _engine(location)
    try:
        with _database_errors(str(location)):
            with engine.connect() as connection:
                current = is_current(connection, str(location))
            if not current:
                with engine.execution_options(writing=True).begin() as connection:
                    upgrade(connection, str(location))
    except BaseException:
        engine.dispose()
        raise
    return History(engine, str(location))


def _engine(location: Location) -> Engine:
    if location.url.get_backend_name() != "sqlite":
        return create_engine(location.url, connect_args={"connect_timeout": WAIT_SECONDS}, pool_pre_ping=True)
    engine = create_engine(location.url, connect_args={"timeout": WAIT_SECONDS})

    # The driver's own transactions begin late and commit before each change of the schema; SQLAlchemy's manual advises this.
    @event.listens_for(engine, "connect")
    def manual_transactions(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writing = connection.get_execution_options().get("writing", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine


def _find_or_make(file: Path, *, create: bool) -> None:
    if file.exists():
        return
    if not create:
        raise HistoryError(
            f"there is no history at {file}",
            expected="a file that `gate check --history` or `gate history import` wrote",
            mend=f"name it with --history, {URL_VARIABLE} or {FILE_VARIABLE}, or import runs into it",
        )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
    except OSError as error:
        raise InfrastructureError(
            f"{file} cannot be made", found=error.strerror or str(error), mend="name another --history, or mend the folder"
        ) from error


@contextmanager
def _database_errors(shown: str) -> Iterator[None]:
    """What the database reports, as one of our errors; its message without the statement and its values."""
    try:
        yield
    except SQLAlchemyError as error:
        own = str(error.orig) if isinstance(error, DBAPIError) else str(error)
        if "not a database" in own:
            raise HistoryError(f"{shown} is no SQLite database", mend="name another --history") from error
        raise InfrastructureError(
            f"the history {shown} cannot be read or written",
            found=" ".join(own.split())[:300],
            mend="check that the database is up and may be used, then run the same command again",
        ) from error


def _last_released(session: Session, model: str) -> RunRow | None:
    return session.scalar(
        select(RunRow)
        .where(RunRow.model == model, RunRow.decision == Decision.PASS, RunRow.released_at.is_not(None))
        .order_by(RunRow.released_at.desc(), RunRow.finished_at.desc())
        .limit(1)
    )


def _memory(session: Session, model: str) -> Memory:
    passed = select(func.max(RunRow.finished_at)).where(RunRow.model == model, RunRow.decision == Decision.PASS)
    released = _last_released(session, model)
    return Memory(passed_at=session.scalar(passed), released=None if released is None else _past_of(released).standing)


def _is_recorded(row: RunRow, entry: Entry) -> bool:
    same = (row.verdict_sha256, row.model, row.finished_at)
    return same == (sha256_hex(entry.verdict_json.encode()), entry.standing.model, entry.standing.finished_at)


def _row_of(entry: Entry, now: float, released_at: float | None) -> RunRow:
    standing = entry.standing
    return RunRow(
        **standing.model_dump(mode="json", exclude={"cells"}),
        id=entry.id,
        folder=entry.folder,
        candidate_source=entry.candidate.source,
        candidate_json=entry.candidate.model_dump_json(),
        verdict_json=entry.verdict_json,
        verdict_sha256=sha256_hex(entry.verdict_json.encode()),
        recorded_at=now,
        released_at=released_at,
        cells=[CellRow(position=number, **cell.model_dump()) for number, cell in enumerate(standing.cells)],
    )


def _past_of(row: RunRow) -> Past:
    cells = tuple(CellFigures(**{name: getattr(cell, name) for name in CellFigures.model_fields}) for cell in row.cells)
    own = {name: getattr(row, name) for name in Standing.model_fields if name != "cells"}
    return Past(
        id=row.id,
        standing=Standing(**own, cells=cells),
        folder=row.folder,
        candidate_source=row.candidate_source,
        released_at=row.released_at,
    )
