"""Tasks × calibrations as a heat map: evidence in, columns and shaded counts out. Pure.

A column is a calibration (with its decoding, where there are several) in one part of the run: what is gated, or what is reported
beside it, since the two hold different transforms. The shade is the rate's; the number stands in every field.
"""

from __future__ import annotations

from dataclasses import dataclass

from gate.records import Measure, Task, TaskStats
from gate.report.evidence import Evidence
from gate.report.tables import is_attack, place_of, status_of

STEPS = (0.0, 0.05, 0.10, 0.25, 0.50)
"""A rate above the n-th of these has at least shade n."""
MOST = 24
"""Columns that are shown."""


@dataclass(frozen=True)
class Field:
    """One field of the map."""

    rate: str
    counts: str
    shade: int
    """0 (no hit) to 5 (more than half); -1 where nothing was judged."""
    held: bool
    """Whether the cell holds the release."""


@dataclass(frozen=True)
class Heat:
    """The map: columns in two groups, and a row per task."""

    groups: tuple[tuple[str, int], ...]
    """Title and number of columns."""
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Field | None, ...]], ...]
    left_out: int
    """Columns that are not shown."""


def heat_map(evidence: Evidence) -> Heat:
    """The attack cells of the verdict, in the measure that gates; a field is null where nothing was asked."""
    stats = [s for s in evidence.verdict.stats if is_attack(s)]
    measure = next((s.measure for s in stats if s.gated), Measure.ANSWERED)
    fields: dict[tuple[bool, str], dict[Task, TaskStats]] = {}
    for stat in sorted((s for s in stats if s.measure is measure), key=lambda s: not s.gated):
        fields.setdefault((stat.gated, place_of(stat, evidence.verdict)), {})[stat.task] = stat
    kept = list(fields)[:MOST]
    gated = sum(1 for column in kept if column[0])
    groups = (("gated", gated), ("beside the gate", len(kept) - gated))
    tasks = [task for task in Task if any(task in fields[column] for column in kept)]
    return Heat(
        groups=tuple((title, count) for title, count in groups if count),
        columns=tuple(place for _, place in kept),
        rows=tuple((t.value, tuple(_field(fields[c].get(t), evidence) for c in kept)) for t in tasks),
        left_out=len(fields) - len(kept),
    )


def _field(stat: TaskStats | None, evidence: Evidence) -> Field | None:
    if stat is None:
        return None
    rate = stat.rate
    return Field(
        rate="none" if rate is None else f"{100 * rate:.0f} %",
        counts=f"{stat.hits}/{stat.judged}",
        shade=-1 if rate is None else sum(rate > step for step in STEPS),
        held=status_of(stat, evidence.verdict).startswith(("broken", "undecided")),
    )
