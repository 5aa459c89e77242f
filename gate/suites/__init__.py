"""The suites: a literal table of the built-in ones, and `load_suite` for a name from it or a folder on disk."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

from gate.errors import SuiteError
from gate.suites.base import Suite
from gate.suites.folder import HEADER_FILE, read_suite, write_suite

__all__ = ["BUILT_IN", "Suite", "load_suite", "write_suite"]

BUILT_IN: dict[str, Callable[[], Suite]] = {}
"""Name → how to build it. A new built-in suite is a module with a `build` and a line here."""


def load_suite(name_or_path: str | Path, relative_to: Path | None = None) -> Suite:
    """The built-in suite of that name, else the suite folder at that path (relative paths start at `relative_to`).

    Raises `SuiteError` when it is neither, or when the folder's suite is damaged.
    """
    name = str(name_or_path)
    if isinstance(name_or_path, str) and name in BUILT_IN:
        return BUILT_IN[name]()
    folder = (relative_to or Path()) / name_or_path
    if (folder / HEADER_FILE).is_file():
        return read_suite(folder)
    near = difflib.get_close_matches(name, BUILT_IN, n=1)
    raise SuiteError(
        f"{name}: no suite of that name or at that path",
        expected=f"one of {', '.join(sorted(BUILT_IN)) or '(none)'}, or a folder with a {HEADER_FILE}",
        found=f"{folder} {'has no ' + HEADER_FILE if folder.is_dir() else 'is not a folder'}",
        mend=f"did you mean {near[0]!r}?" if near else "check the name, or build the suite with `gate suite build`",
    )
