"""The request as the task frame words it."""

from __future__ import annotations

from gate.records import SuiteItem
from gate.suites.transforms.base import rewrap


def direct(item: SuiteItem) -> SuiteItem:
    """The item itself."""
    return rewrap(item, "direct")
