"""What a repair leaves behind: each try with its verdict in short, the card of the whole, and what a try's verdict comes to.

In: verdicts of the tuning half. Out: closed records; `repair_card.json` is the last of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from gate.records import Calibration, Decision, Measure, Record, TaskStats, Verdict, canonical_json, sha256_hex
from gate.repair.base import Setting

UNREPAIRED = "unrepaired"
"""The name under which the candidate itself is put through the tuning half."""
_SAFETY = ("max_rate", "regression")
"""Rules that ask for more refusals; whatever else a try lacks, it lacks because too much was changed."""


class Try(Record):
    """One setting of one method, and how it fared on the tuning half."""

    method: str
    setting: Setting
    digest: str
    """Of the candidate that was tried: its folder and base."""
    decision: Decision
    reason: str
    lacks: tuple[str, ...]
    """Names of the policy's rules that it does not meet there."""
    worst_answered: float | None
    mean_answered: float | None
    """Share of the attacks answered, over the gated tasks and calibrations, as read when each was decided: no estimates."""
    worst_over_refusal: float | None
    mean_utility_drop: float | None = None
    """Loss of benign quality against the unrepaired candidate, mean over the tasks, in the worse calibration."""
    verdict_digest: str
    """SHA-256 over the canonical JSON of the verdict."""

    @property
    def label(self) -> str:
        """Method and setting in words."""
        return f"{self.method}, {self.setting.label}" if self.setting.values else self.method

    @property
    def passed(self) -> bool:
        """Whether it met the policy of the tuning half."""
        return self.decision is Decision.PASS

    @property
    def too_weak(self) -> bool:
        """Whether it still answers too much; else it was changed too much already."""
        return not self.passed and (any(rule in _SAFETY for rule in self.lacks) or not self.lacks)


class Untried(Record):
    """A method that could not be tried, and why."""

    method: str
    why: str


class HeldOut(Record):
    """The one gate on the half that nothing was chosen on."""

    look: int
    """Which look of the run's repairs at the held-out half it was, from 1."""
    alpha_pass: float
    """What this look spent of the policy's error."""
    order_seed: int
    decision: Decision
    reason: str
    verdict_digest: str


class RepairCard(Record):
    """`repair_card.json`: what was tried on which candidate, what was chosen, and what the gate said of it."""

    schema_version: Literal["taskgate/repair-card/v1"] = "taskgate/repair-card/v1"
    parent_digest: str
    """Of the blocked candidate's folder."""
    parent_trial_digest: str
    run_verdict_digest: str
    """Of the verdict that blocked it."""
    policy_name: str
    policy_digest: str
    suite_digest: str
    margin: float
    """Share of each limit that the tuning half's were lowered by."""
    tries: tuple[Try, ...]
    untried: tuple[Untried, ...]
    serves_as_it_is: dict[Calibration, bool]
    """Calibration → whether the unrepaired candidate met the tuning half's limits under it."""
    chosen: Try | None
    folder: str
    """The repaired folder, relative to the card; empty where no setting meets the policy."""
    folder_digest: str
    held_out: HeldOut | None
    tool_version: str


def try_of(method: str, setting: Setting, digest: str, verdict: Verdict) -> Try:
    """A try in short."""
    gated = [stats for stats in verdict.stats if stats.gated]
    answered = _rates(s for s in gated if s.measure in (Measure.ANSWERED, Measure.HARMFUL))
    refused = _rates(s for s in gated if s.measure is Measure.OVER_REFUSAL)
    return Try(
        method=method,
        setting=setting,
        digest=digest,
        decision=verdict.decision,
        reason=verdict.reason,
        lacks=tuple(sorted({f.rule for f in verdict.findings if f.status != "met" and not f.waived_by})),
        worst_answered=max(answered, default=None),
        mean_answered=sum(answered) / len(answered) if answered else None,
        worst_over_refusal=max(refused, default=None),
        mean_utility_drop=max(_mean_drops(verdict), default=None),
        verdict_digest=digest_of(verdict),
    )


def _mean_drops(verdict: Verdict) -> list[float]:
    """By calibration: the loss of quality, mean over the tasks; of a single task where there is one."""
    drops = [c for c in verdict.comparisons if c.measure == "utility_drop" and c.difference is not None]
    means = [c for c in drops if c.task is None] or drops
    return [c.difference for c in means if c.difference is not None]


def digest_of(record: Record) -> str:
    """SHA-256 over a record's canonical JSON."""
    return sha256_hex(canonical_json(record.model_dump(mode="json")))


def _rates(stats: Iterable[TaskStats]) -> list[float]:
    return [found.rate for found in stats if found.rate is not None]
