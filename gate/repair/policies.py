"""The two policies of a repair, made from the blocked run's: what chooses on the tuning half, what decides on the held-out one.

Pure. The tuning policy's limits are lower by a margin, so that what just passes there does not just fail afterwards; it asks
for no minimum of items, since nothing is claimed from it. The held-out policy is the run's own, with the error and the order of
its look.
"""

from __future__ import annotations

from typing import TypeVar

from gate.errors import UsageError
from gate.policy import Baseline, Evidence, Limits, Policy, Reported, TaskLimits, Utility
from gate.records import Role, Split
from gate.repair.ledger import Look
from gate.suites.base import Suite

L = TypeVar("L", Limits, TaskLimits)


def tuning_policy(policy: Policy, margin: float) -> Policy:
    """The policy that settings are chosen by: the other split, limits lower by the share `margin`, nothing reported beside."""
    evidence = policy.evidence
    return policy.model_copy(
        update={
            "name": f"{policy.name}-tuning",
            "split": Split.TUNING,
            "limits": _lowered(policy.limits, margin),
            "tasks": {task: _lowered(limits, margin) for task, limits in policy.tasks.items()},
            "utility": with_mean_drop(policy, _times(policy.utility.max_mean_drop, 1 - margin)).utility,
            "report": Reported(),
            "evidence": Evidence(min_items=1, min_behaviours=1, min_judged=evidence.min_judged, max_missing=evidence.max_missing),
            "baseline": Baseline(on_regression="report"),
        }
    )


def with_mean_drop(policy: Policy, limit: float | None) -> Policy:
    """The policy with another limit on the loss of quality, mean over the tasks."""
    return policy.model_copy(update={"utility": policy.utility.model_copy(update={"max_mean_drop": limit})})


def compares(policy: Policy) -> bool:
    """Whether the policy compares benign answers with a baseline's."""
    return any(map(policy.compares, policy.gate.tasks))


def without_comparisons(policy: Policy) -> Policy:
    """The policy as far as it needs no baseline: what is tried first, since it asks less."""
    none = {"max_utility_drop": None, "max_over_refusal_rise": None}
    return policy.model_copy(
        update={
            "limits": policy.limits.model_copy(update=none),
            "tasks": {task: limits.model_copy(update=none) for task, limits in policy.tasks.items()},
            "utility": Utility(),
        }
    )


def held_out_policy(policy: Policy, look: Look) -> Policy:
    """The run's policy for one look at the held-out half: its share of the error, an order of its own.

    The order is drawn anew for each look: what an earlier look has shown then says nothing about which items this one reads
    first.
    """
    rule = policy.decision.model_copy(update={"alpha_pass": look.alpha_pass, "order_seed": look.order_seed})
    return policy.model_copy(update={"decision": rule, "baseline": Baseline(on_regression="report")})


def refuse_without_tuning_half(policy: Policy, suite: Suite) -> None:
    """Raise `UsageError` where a gated task has no items to choose on: choosing on the held-out half would spend its evidence."""
    if policy.split is not Split.GATING:
        raise UsageError(
            f"policy {policy.name!r} gates the split on which repairs are chosen",
            expected="a run on the split `gating`",
            found=f"split: {policy.split}",
            mend="check the candidate with a policy that gates on the other split, and repair that run",
        )
    there = {(item.task, item.role) for item in suite.items if item.split is Split.TUNING}
    if missing := [task for task in policy.gate.tasks for role in Role if (task, role) not in there]:
        raise UsageError(
            f"suite {suite.name!r} has no tuning half to choose a repair on",
            expected="attacks and twins of the split `tuning` for every gated task",
            found=f"none for {', '.join(dict.fromkeys(missing))}",
            mend="use a suite with both splits, as the built-in ones have",
        )


def _lowered(limits: L, margin: float) -> L:
    """Limits with every rate that guards against too much lowered by the share; the share of invalid answers stays."""
    rates = {name: getattr(limits, name) for name in type(limits).model_fields if name != "max_invalid"}
    return limits.model_copy(update={name: _times(rate, 1 - margin) for name, rate in rates.items()})


def _times(rate: float | None, factor: float) -> float | None:
    return None if rate is None else rate * factor
