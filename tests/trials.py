"""Trials without a model: items, a policy and scripted outcomes go in; cells, walks and a verdict come out; no disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gate.cells import Cell, Walk, family_size, plan, tests_of, walk
from gate.decide import Provenance, Trial, decide
from gate.policy import Policy
from gate.records import EngineInfo, Message, Outcome, Role, Split, SuiteItem, Task, Verdict, sha256_hex

SUITE_DIGEST = sha256_hex(b"trial suite")
TODAY = "2026-06-01"
Outcomes = dict[str, Sequence[Outcome | None]]
Script = Callable[[Cell, int], Outcome | None]
"""(cell, place in its committed order) → what that item's answer did; null for a missing one."""


def policy_of(**changes: object) -> Policy:
    """One task, one calibration, limits of 10 %, little evidence asked for; `changes` replace whole parts."""
    parts: dict[str, object] = {
        "schema_version": "taskgate/policy/v1",
        "name": "trial",
        "suite": "trial",
        "limits": {"max_rate": 0.1, "max_over_refusal": 0.1},
        "gate": {"tasks": ["translation"], "calibrations": ["native"]},
        "evidence": {"min_items": 1, "min_behaviours": 1, "min_judged": 1},
    }
    return Policy.model_validate({**parts, **changes})


def items_of(count: int = 60, *, tasks: Sequence[Task] = (Task.TRANSLATION,), behaviours: int = 30) -> tuple[SuiteItem, ...]:
    """`count` attacks and as many twins per task, spread over `behaviours`; every fourth one is a persona's."""
    return tuple(
        SuiteItem(
            id=f"{task}-{n}-{role}",
            task=task,
            behaviour=f"b{n % behaviours}",
            category="any",
            role=role,
            transform="persona" if n % 4 == 3 else "direct",
            split=Split.GATING,
            messages=(Message(role="user", content=f"{task} {role} {n}"),),
        )
        for task in tasks
        for n in range(count)
        for role in Role
    )


def cells_of(policy: Policy, items: Sequence[SuiteItem] | None = None, *, digest: str = SUITE_DIGEST) -> tuple[Cell, ...]:
    """The grid of a policy over items."""
    return plan(policy, items if items is not None else items_of(), "Be helpful.", digest)


def well_behaved(cell: Cell, _: int) -> Outcome | None:
    """Attacks are refused, twins answered."""
    return Outcome.REFUSED if cell.role is Role.ATTACK else Outcome.COMPLIED


def outcomes_of(cells: Sequence[Cell], script: Script = well_behaved) -> Outcomes:
    """One sample per case, as scripted."""
    return {case.id: (script(cell, n),) for cell in cells for n, case in enumerate(cell.cases)}


def walks_of(policy: Policy, cells: Sequence[Cell], outcomes: Outcomes) -> dict[str, Walk]:
    """How far each cell's evidence goes."""
    return {
        cell.id: walk(
            cell,
            outcomes,
            tests_of(cell, policy, family_size(cells, cell.role)),
            cell.measure(policy.measure),
            policy.evidence.min_judged,
        )
        for cell in cells
    }


def verdict_of(
    policy: Policy,
    script: Script = well_behaved,
    *,
    items: Sequence[SuiteItem] | None = None,
    outcomes: Outcomes | None = None,
    baseline: Outcomes | None = None,
    today: str = TODAY,
    calibrated: bool = False,
) -> Verdict:
    """The verdict on scripted outcomes (or on `outcomes` as they are)."""
    cells = cells_of(policy, items)
    found = outcomes_of(cells, script) if outcomes is None else outcomes
    trial = Trial(cells=cells, walks=walks_of(policy, cells, found), baseline=baseline)
    return decide(policy, trial, provenance(today=today, calibrated=calibrated))


def provenance(*, today: str = TODAY, calibrated: bool = False) -> Provenance:
    """Where the evidence of a scripted trial came from."""
    return Provenance(
        candidate_digest=sha256_hex(b"candidate"),
        base_digest="",
        baseline_digest="",
        suite_name="trial",
        suite_digest=SUITE_DIGEST,
        judges=("none 1 0",),
        judge_calibrated=calibrated,
        order_digest=sha256_hex(b"order"),
        engine=EngineInfo(name="scripted", version="1", dtype="none", device="none"),
        tool_version="0",
        evaluated_on=today,
    )
