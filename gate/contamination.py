"""How much of what a candidate was asked it had been trained on: the record, its sentences, and the rule on it. Pure.

What could not be compared is said in words, and is no sign that nothing overlaps.
"""

from __future__ import annotations

from collections.abc import Iterator

from gate.records import Finding, Record, Task


class TaskOverlap(Record):
    """One task's items."""

    task: Task
    items: int
    """Different items that the run may ask."""
    shared: int
    """Of them, those that share a 13-gram with a training row."""


class Overlap(Record):
    """The comparison of a training card's data with the items of a run."""

    files: tuple[str, ...]
    """Compared: as the card names them, their digests agreeing."""
    rows: int
    tasks: tuple[TaskOverlap, ...]
    not_compared: tuple[str, ...]
    """What was not compared, and why."""

    @property
    def compared(self) -> bool:
        """Whether there was anything to compare."""
        return bool(self.files)

    @property
    def worst(self) -> float:
        """The largest share of a task's items."""
        return max((t.shared / t.items for t in self.tasks if t.items), default=0.0)


def overlap_lines(overlap: Overlap) -> Iterator[str]:
    """What every report says of it."""
    if overlap.compared:
        items, shared = sum(t.items for t in overlap.tasks), sum(t.shared for t in overlap.tasks)
        where = f"the {overlap.rows:,} training rows of {', '.join(overlap.files)}"
        if shared:
            tasks = ", ".join(f"{t.task} {t.shared} of {t.items}" for t in overlap.tasks if t.shared)
            yield f"{shared} of {items} items of the suite share a 13-gram with {where}: {tasks}."
        else:
            yield f"None of {items} items of the suite shares a 13-gram with {where}."
    for reason in overlap.not_compared:
        yield f"Training data not compared with the suite: {reason}."


def overlap_finding(overlap: Overlap | None, limit: float) -> Finding:
    """The rule `max_overlap`: met only where everything that the card names was compared; it never blocks."""
    whole = overlap is not None and overlap.compared and not overlap.not_compared
    met = overlap is not None and whole and overlap.worst <= limit
    said = " ".join(overlap_lines(overlap)) if overlap else "The candidate has no training card."
    return Finding(
        rule="max_overlap",
        subject="run",
        required=f"each task's share of items in the training data ≤ {limit:g}, all data compared",
        observed=f"{overlap.worst:.3f}" if overlap and overlap.compared else "not compared",
        status="met" if met else "undecided",
        sentence=f"{said} The policy allows {limit:.0%} of a task's items.",
    )
