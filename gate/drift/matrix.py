"""Verdicts of a plan's checkpoints → rows; rows → the spread over seeds, and the claims with whether they held. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from gate.drift.plan import BASE, DriftPlan
from gate.records import Calibration, Decision, Measure, Record, Task, TaskStats, Verdict


class Quality(Record):
    """Exactly right answers to the benign twins that have a reference."""

    right: int
    asked: int

    @property
    def rate(self) -> float | None:
        """Null where nothing was asked."""
        return self.right / self.asked if self.asked else None


class Checkpoint(Record):
    """One row's evidence: the base, or one fine-tune under one seed."""

    arm: str
    """The arm's name, or `base`."""
    seed: int | None
    candidate_digest: str
    decision: Decision
    reason: str
    broken: tuple[str, ...]
    """`rule subject` of every broken finding."""
    stats: tuple[TaskStats, ...]
    quality: dict[Task, Quality]


class Spread(Record):
    """One cell of the matrix over the seeds: rates, and the bounds of the lowest and of the highest seed."""

    rates: tuple[float, ...]
    """By seed; a seed of which nothing could be judged is left out."""
    mean: float
    lower: float
    upper: float
    """Least lower and greatest upper bound."""
    judged: int
    asked: int
    """Items of all seeds together. What is not judged was missing or invalid: no hit in the lower bound, one in the upper."""

    @property
    def readable(self) -> bool:
        """Whether most answers could be judged at all; where not, the mean says little."""
        return self.judged >= 0.9 * self.asked


class Claim(Record):
    """An arm's expectation under one seed, and what came of it."""

    arm: str
    seed: int
    expected: Literal["block", "pass"]
    held: bool
    sentence: str


class Drift(Record):
    """The matrix (`drift.json`)."""

    schema_version: Literal["taskgate/drift/v1"] = "taskgate/drift/v1"
    plan: DriftPlan
    plan_digest: str
    policy_digest: str
    suite_name: str
    suite_digest: str
    engine: str
    tool_version: str
    checkpoints: tuple[Checkpoint, ...]
    claims: tuple[Claim, ...]

    @property
    def held(self) -> bool:
        """Whether every expectation of the plan held."""
        return all(claim.held for claim in self.claims)

    def of(self, arm: str) -> tuple[Checkpoint, ...]:
        """An arm's checkpoints, by seed."""
        return tuple(found for found in self.checkpoints if found.arm == arm)


def checkpoint(arm: str, seed: int | None, verdict: Verdict, quality: Mapping[Task, Quality]) -> Checkpoint:
    """One row from a verdict and the quality that was counted beside it."""
    return Checkpoint(
        arm=arm,
        seed=seed,
        candidate_digest=verdict.candidate_digest,
        decision=verdict.decision,
        reason=verdict.reason,
        broken=tuple(f"{found.rule} {found.subject}" for found in verdict.findings if found.status == "broken"),
        stats=verdict.stats,
        quality=dict(quality),
    )


def assemble(plan: DriftPlan, verdict: Verdict, checkpoints: Sequence[Checkpoint]) -> Drift:
    """The whole matrix; `verdict` is any one of the plan's, for what all of them share."""
    return Drift(
        plan=plan,
        plan_digest=plan.digest,
        policy_digest=verdict.policy_digest,
        suite_name=verdict.suite_name,
        suite_digest=verdict.suite_digest,
        engine=" ".join(verdict.engine.model_dump().values()),
        tool_version=verdict.tool_version,
        checkpoints=tuple(checkpoints),
        claims=claims(plan, checkpoints),
    )


def claims(plan: DriftPlan, checkpoints: Sequence[Checkpoint]) -> tuple[Claim, ...]:
    """Every expectation of the plan, by arm and seed. A block counts only where the tuned task is shown to be over its limit."""
    found = {(row.arm, row.seed): row for row in checkpoints}
    out = []
    for arm in plan.arms:
        for seed in plan.seeds if arm.expect else ():
            row = found[arm.name, seed]
            own = f"max_rate {arm.tuned_on}|{plan.calibration}|{plan.decoding.name}"
            held = row.decision is Decision.PASS if arm.expect == "pass" else own in row.broken
            sentence = f"{row.decision.upper()}: {row.reason}"
            out.append(Claim(arm=arm.name, seed=seed, expected=arm.expect or "pass", held=held, sentence=sentence))
    return tuple(out)


def spread(rows: Sequence[Checkpoint], task: Task, calibration: Calibration, measure: Measure) -> Spread | None:
    """One cell over the seeds; null where nothing was judged."""
    cells = [
        stat
        for row in rows
        for stat in row.stats
        if stat.task is task and stat.calibration is calibration and stat.measure is measure and stat.rate is not None
    ]
    rates = tuple(stat.rate for stat in cells if stat.rate is not None)
    if not rates:
        return None
    return Spread(
        rates=rates,
        mean=sum(rates) / len(rates),
        lower=min(stat.lower for stat in cells),
        upper=max(stat.upper for stat in cells),
        judged=sum(stat.judged for stat in cells),
        asked=sum(stat.asked for stat in cells),
    )


def mixes(plan: DriftPlan) -> tuple[str, ...]:
    """The mixes in the plan's order."""
    return tuple(dict.fromkeys(arm.mix for arm in plan.arms))


def lines_of(plan: DriftPlan, mix: str) -> tuple[tuple[str, str], ...]:
    """(label, arm) of a panel's lines: the base, then the arms with this mix."""
    return (("none (the base)", BASE), *((str(arm.tuned_on), arm.name) for arm in plan.arms if arm.mix == mix))
