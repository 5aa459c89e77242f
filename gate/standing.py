"""What of a run is followed over time: a verdict, its candidate and the run's times go in, one flat `Standing` comes out.

History keeps standings and metrics show them, so neither reads a verdict that another version of this program wrote. Pure.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Final, Literal

from gate.errors import UsageError
from gate.policy import Policy
from gate.records import Candidate, Decision, Record, TaskStats, Verdict

MAX_NAME: Final = 200
"""Characters of a model's name."""
Stage = Literal["ingest", "candidate", "baseline", "decide"]
"""A part of a run whose time is kept."""
_HUB: Final = re.compile(r"hf://(?P<repo>[^@]+)")


class Telemetry(Record):
    """`telemetry.json`: what is known of a run beside its evidence. Nothing is decided on it, and no verdict holds it."""

    schema_version: Literal["taskgate/telemetry/v1"] = "taskgate/telemetry/v1"
    model: str
    """The name under which history and metrics know the candidate and those that follow it; empty: the candidate's own."""
    begun_at: float
    """Seconds since 1970 (UTC) at which the run's first command began."""
    finished_at: float | None = None
    """The same for its verdict; null while there is none."""
    stage_seconds: dict[str, float]
    """`Stage` → seconds, summed over all commands that worked on the run; a later version may know other stages."""


class CellFigures(Record):
    """One rate of a standing: a measure on one task under one calibration and decoding."""

    task: str
    calibration: str
    decoding: str
    measure: str
    """`answered`, `harmful`, or `over_refusal` for the benign twins."""
    gated: bool
    threshold: float | None
    """The policy's limit; null where the cell has none."""
    asked: int
    judged: int
    hits: int
    missing: int
    invalid: int
    rate: float | None
    lower: float
    upper: float
    baseline: float | None = None
    """The baseline's rate on the same items; null without a comparison. Its open items count as answered."""
    difference: float | None = None
    difference_lower: float | None = None
    """How far the rate rose over the baseline's, and the lower bound of that."""


class Standing(Record):
    """What one run found of one model, in figures."""

    model: str
    decision: Decision
    reason: str
    candidate_digest: str
    policy_name: str
    policy_digest: str
    suite_name: str
    suite_digest: str
    engine: str
    tool_version: str
    begun_at: float
    finished_at: float
    stage_seconds: dict[str, float]
    max_increase: float
    """Rise over the baseline's rate that the policy tolerates."""
    cells: tuple[CellFigures, ...]


def model_name(source: str, path: str = "") -> str:
    """A candidate's name where none is given: its repository on the hub, the served model's name, else its folder's name."""
    if found := _HUB.match(source):
        return found["repo"][:MAX_NAME]
    served = source.startswith(("http://", "https://"))
    return (path if served else PurePath(path or source).name)[:MAX_NAME] or "candidate"


def checked_name(name: str) -> str:
    """A model's name as given; one that a table or a metric could not show is refused."""
    if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        expected = f"1 to {MAX_NAME} printable characters"
        raise UsageError("this is no name for a model", expected=expected, found=f"{name[:40]!r}", mend="choose another --name")
    return name.strip()


def standing_of(verdict: Verdict, candidate: Candidate, policy: Policy, telemetry: Telemetry | None) -> Standing:
    """A run's standing. Without times (a run of an older version) it stands on the day that the verdict names."""
    day = datetime.fromisoformat(verdict.evaluated_on).replace(tzinfo=UTC).timestamp()
    finished = telemetry.finished_at if telemetry else None
    return Standing(
        model=(telemetry.model if telemetry else "") or model_name(candidate.source, candidate.path),
        decision=verdict.decision,
        reason=verdict.reason,
        candidate_digest=verdict.candidate_digest,
        policy_name=verdict.policy_name,
        policy_digest=verdict.policy_digest,
        suite_name=verdict.suite_name,
        suite_digest=verdict.suite_digest,
        engine=f"{verdict.engine.name} {verdict.engine.version}".strip(),
        tool_version=verdict.tool_version,
        begun_at=telemetry.begun_at if telemetry else day,
        finished_at=finished if finished is not None else day,
        stage_seconds=telemetry.stage_seconds if telemetry else {},
        max_increase=policy.baseline.max_increase,
        cells=tuple(map(_figures, verdict.stats)),
    )


def _figures(stats: TaskStats) -> CellFigures:
    baseline = None
    if stats.difference is not None and stats.asked:
        # The difference counts an open item of the baseline as answered, so this does too; rounding may leave [0, 1] by a hair.
        baseline = min(1.0, max(0.0, stats.hits / stats.asked - stats.difference))
    return CellFigures(
        task=stats.task,
        calibration=stats.calibration,
        decoding=stats.decoding,
        measure=stats.measure,
        gated=stats.gated,
        threshold=stats.limit,
        baseline=baseline,
        **stats.model_dump(
            include={
                "asked", "judged", "hits", "missing", "invalid", "rate", "lower", "upper", "difference", "difference_lower",
            }
        ),
    )  # fmt: skip
