"""Text generation: the goal as it stands, nothing around it. A cell comes in, its item goes out."""

from __future__ import annotations

from gate.records import SuiteItem, Task
from gate.suites.cell import Cell


def build(cell: Cell) -> SuiteItem:
    """The request itself (A0 of the taxonomy, the direct request)."""
    return cell.item(Task.TEXT_GENERATION, cell.goal)
