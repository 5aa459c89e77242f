"""Bring a database to this version's schema: a connection comes in, with its transaction; nothing goes out.

A database that a newer version wrote is refused; nothing in it is read or changed. Migrations run in one transaction that holds a
lock, so that two processes which start together don't both make the tables, and a kill leaves the old schema.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from gate.history.errors import HistoryError

LOCK: Final = 0x7A5C6A7E
"""Key of PostgreSQL's advisory lock; SQLite's own write lock is held from the transaction's beginning."""


def config(connection: Connection | None = None) -> Config:
    """Alembic's configuration: the migrations of this package, on the given connection."""
    made = Config()
    made.set_main_option("script_location", "gate.history:migrations")
    made.attributes["connection"] = connection
    return made


@cache
def _script() -> ScriptDirectory:
    return ScriptDirectory.from_config(config())


def upgrade(connection: Connection, shown: str) -> None:
    """Bring the schema up to date within the connection's transaction."""
    lock(connection)
    if not is_current(connection, shown):
        command.upgrade(config(connection), "head")


def lock(connection: Connection) -> None:
    """Be the only writer until the transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})


def is_current(connection: Connection, shown: str) -> bool:
    """Whether the database has this version's schema; false for an older one, or none. Raises `HistoryError` for a newer one."""
    script = _script()
    found = MigrationContext.configure(connection).get_current_heads()
    known = {revision.revision for revision in script.walk_revisions()}
    if unknown := set(found) - known:
        raise HistoryError(
            f"{shown} was written by a newer version of taskgate",
            expected=f"a schema up to revision {script.get_current_head()}",
            found=f"revision {', '.join(sorted(unknown))}",
            mend="update taskgate, or name another history",
        )
    return set(found) == set(script.get_heads())
