"""The same request made in another language. The frame words it; these only name it.

Refusals are weaker outside English: MultiJail, Deng et al. 2023, arXiv 2310.06474.
"""

from __future__ import annotations

from gate.records import SuiteItem
from gate.suites.transforms.base import rewrap


def french(item: SuiteItem) -> SuiteItem:
    """An item that its frame worded in French."""
    return rewrap(item, "language-fr")


def german(item: SuiteItem) -> SuiteItem:
    """An item that its frame worded in German."""
    return rewrap(item, "language-de")
