"""A real PostgreSQL for the history's tests, run by an unprivileged user on a port of its own; and both kinds of history."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from gate.history.location import Location, locate
from gate.history.store import History, open_history
from tests.ports import free_port


@dataclass(frozen=True)
class Postgres:
    """A running server."""

    port: int
    password: str

    def url(self, database: str, password: str | None = None) -> str:
        """The URL of a database, with the right password unless another is given."""
        return f"postgresql://gate:{password or self.password}@127.0.0.1:{self.port}/{database}"

    def database(self, name: str) -> str:
        """Make an empty database; returns its URL."""
        url = self.url("postgres").replace("postgresql:", "postgresql+psycopg:")
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return self.url(name)


def programs() -> Path:
    """The folder with initdb and pg_ctl; Debian keeps it off the path."""
    found = shutil.which("pg_ctl")
    folders = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not folders:
        pytest.skip("PostgreSQL is not installed (Debian: the package postgresql)")
    return folders[-1]


def unprivileged() -> list[str]:
    """What to put before a command that refuses to run as root: the user that Debian's package made."""
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"] if os.getuid() == 0 else []


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for all tests, with password authentication; its data is gone afterwards."""
    bin_, become = programs(), unprivileged()
    server = Postgres(free_port(), secrets.token_hex(12))
    folder = Path(tempfile.mkdtemp(prefix="history-postgres-"))
    try:
        (folder / "password").write_text(server.password, encoding="utf-8")
        if become:
            user = pwd.getpwnam("postgres")
            for path in (folder, folder / "password"):
                os.chown(path, user.pw_uid, user.pw_gid)

        def run(*command: str | Path) -> None:
            subprocess.run([*become, *map(str, command)], check=True, capture_output=True, timeout=120, cwd=folder)

        data = folder / "data"
        run(bin_ / "initdb", "-D", data, "-U", "gate", "-A", "scram-sha-256", f"--pwfile={folder / 'password'}", "--no-sync")
        options = f"-p {server.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        run(bin_ / "pg_ctl", "-D", data, "-l", folder / "log", "-w", "-o", options, "start")
        try:
            yield server
        finally:
            run(bin_ / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """An empty history of either kind."""
    if request.param == "sqlite":
        return Location.of_file(tmp_path / "history.sqlite")
    server: Postgres = request.getfixturevalue("postgres")
    found = locate(None, {"GATE_HISTORY": server.database(f"h{secrets.token_hex(6)}")})
    assert found is not None
    return found


@pytest.fixture
def history(place: Location) -> Iterator[History]:
    """The same, open."""
    with closing(open_history(place)) as opened:
        yield opened
