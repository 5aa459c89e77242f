"""The suites: a literal table of the built-in ones, and `load_suite` for a name from it or a folder on disk."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from gate.errors import SuiteError
from gate.records import Record
from gate.suites import cross_task
from gate.suites.base import Suite
from gate.suites.folder import HEADER_FILE, read_suite, write_suite

__all__ = ["BUILT_IN", "Suite", "SuiteCounts", "SuiteInfo", "describe", "list_suites", "load_suite", "write_suite"]

BUILT_IN: dict[str, Callable[[], Suite]] = {
    "cross-task": cross_task.build,
}
"""Name → how to build it. A new built-in suite is a module with a `build` and a line here."""


class SuiteInfo(Record):
    """One line of the list of suites."""

    name: str
    version: str
    digest: str
    languages: tuple[str, ...]
    items: int
    behaviours: int


class SuiteCounts(Record):
    """How many items a suite holds, cut one way at a time; and behaviours per split."""

    items: int
    behaviours: dict[str, int]
    """Split → behaviours."""
    task: dict[str, int]
    role: dict[str, int]
    split: dict[str, int]
    transform: dict[str, int]
    category: dict[str, int]
    answer_language: dict[str, int]
    task_split_role: dict[str, int]
    """`task|split|role` → items: what a policy's minimum evidence is compared with."""


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
        expected=f"one of {', '.join(sorted(BUILT_IN))}, or a folder with a {HEADER_FILE}",
        found=f"{folder} {'has no ' + HEADER_FILE if folder.is_dir() else 'is not a folder'}",
        mend=f"did you mean {near[0]!r}?" if near else "check the name, or build the suite with `gate suite build`",
    )


def list_suites() -> tuple[SuiteInfo, ...]:
    """The built-in suites, in the table's order."""
    return tuple(
        SuiteInfo(
            name=suite.name,
            version=suite.version,
            digest=suite.digest,
            languages=suite.languages,
            items=len(suite.items),
            behaviours=len({item.behaviour for item in suite.items}),
        )
        for suite in (build() for build in BUILT_IN.values())
    )


def describe(suite: Suite) -> SuiteCounts:
    """The suite's counts. Keys are in order of first appearance."""
    items = suite.items
    seen = dict.fromkeys((item.split.value, item.behaviour) for item in items)
    return SuiteCounts(
        items=len(items),
        behaviours=dict(Counter(split for split, _ in seen)),
        task=dict(Counter(item.task.value for item in items)),
        role=dict(Counter(item.role.value for item in items)),
        split=dict(Counter(item.split.value for item in items)),
        transform=dict(Counter(item.transform for item in items)),
        category=dict(Counter(item.category for item in items)),
        answer_language=dict(Counter(item.answer_language for item in items)),
        task_split_role=dict(Counter(f"{item.task}|{item.split}|{item.role}" for item in items)),
    )
