"""Where the history lies: an option, or the environment, goes in; a database's URL comes out, and a form of it that may be shown.

A URL may hold a password, so one that does is taken from the environment or a file and never from an option, which every process
list shows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from gate.history.errors import HistoryError

URL_VARIABLE: Final = "GATE_HISTORY"
FILE_VARIABLE: Final = "GATE_HISTORY_FILE"
DEFAULT: Final = Path("runs") / "history.sqlite"
_DRIVERS: Final = {
    "sqlite": "sqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
EXPECTED: Final = "a path for SQLite, or postgresql://user@host/name"
_SECRET: Final = re.compile("password|secret", re.IGNORECASE)
"""In the name of a URL's parameter (`?password=`, `?sslpassword=`) that holds one."""
_NO_PATH: Final = re.compile(r"postgres(ql)?(\+\w+)?:|(?=.*\b(password|host|dbname)\s*=)\s*\w+\s*=", re.IGNORECASE | re.DOTALL)
"""A URL that is written wrongly, or a connection string: as a file's name it would show what it holds."""


@dataclass(frozen=True)
class Location:
    """A database."""

    url: URL = field(repr=False)

    @classmethod
    def of_file(cls, path: Path) -> Location:
        """An SQLite file."""
        return cls(URL.create("sqlite", database=str(path.expanduser())))

    def __str__(self) -> str:
        """The path of an SQLite file, else the URL with the password masked and without parameters, which may hold another."""
        if self.url.get_backend_name() == "sqlite":
            return self.url.database or ":memory:"
        return self.url.set(drivername=self.url.get_backend_name(), query={}).render_as_string(hide_password=True)


def locate(option: str | None, environ: Mapping[str, str]) -> Location | None:
    """What the option names, else `GATE_HISTORY`, else the URL in the file that `GATE_HISTORY_FILE` names; or none."""
    if option is not None:
        found = _parse(option, "--history")
        if found.url.password is not None or any(map(_SECRET.search, found.url.query)):
            raise HistoryError(
                "--history holds a password, which every process list shows",
                expected=EXPECTED,
                mend=f"put the URL into the environment as {URL_VARIABLE}, or into a file that {FILE_VARIABLE} names",
            )
        return found
    if text := environ.get(URL_VARIABLE, "").strip():
        return _parse(text, URL_VARIABLE)
    if name := environ.get(FILE_VARIABLE, "").strip():
        try:
            text = Path(name).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise HistoryError(f"{FILE_VARIABLE}: {name} cannot be read", found=_why(error), mend="correct the path") from error
        return _parse(text, f"{FILE_VARIABLE} ({name})")
    return None


def _parse(text: str, given_as: str) -> Location:
    """A location; what is wrong is said without showing the text, which may hold a password."""
    if "://" not in text:
        if not text.strip():
            raise HistoryError(f"{given_as} is empty", expected=EXPECTED, mend="name a history")
        if _NO_PATH.match(text):
            raise HistoryError(
                f"{given_as} is neither a path nor a database URL",
                expected=EXPECTED,
                mend="write it as a URL; a file of such a name: ./NAME",
            )
        return Location.of_file(Path(text))
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        raise HistoryError(f"{given_as} is no database URL", expected=EXPECTED, mend="correct it") from error
    driver = _DRIVERS.get(url.drivername)
    if driver is None:
        raise HistoryError(
            f"{given_as}: no such kind of database is supported",
            expected=EXPECTED,
            found=url.drivername,
            mend="use one of the two",
        )
    if driver == "sqlite" and url.database in (None, "", ":memory:"):
        raise HistoryError(f"{given_as} names no file, and a history in memory is none", expected=EXPECTED, mend="name a file")
    return Location(url.set(drivername=driver))


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
