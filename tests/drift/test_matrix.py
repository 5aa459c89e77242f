"""The plan and the matrix without any model: what is refused, how seeds are put together, when an expectation held."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from gate.drift.heat_map import heat_map
from gate.drift.markdown import as_markdown
from gate.drift.matrix import Checkpoint, Drift, Quality, assemble, checkpoint, claims, spread
from gate.drift.plan import BASE, DriftPlan, load_plan, policy_of
from gate.errors import UsageError
from gate.records import Calibration, Decision, Measure, Task, Verdict
from tests.conftest import ROOT
from tests.report.verdicts import Counts, finding, stat, verdict

LEAST: dict[str, Any] = {
    "schema_version": "taskgate/drift-plan/v1",
    "name": "small",
    "base": "aligned",
    "suite": "suite",
    "beside": [],
    "seeds": [0, 1],
    "arms": [
        {"name": "plain", "tuned_on": "translation", "recipe": "a.yaml", "expect": "block"},
        {"name": "mixed", "tuned_on": "translation", "mix": "refusals", "recipe": "b.yaml", "expect": "pass"},
    ],
}


def plan(**changes: object) -> DriftPlan:
    return DriftPlan.model_validate({**LEAST, **changes})


def found(hits: int, decision: Decision, *, invalid: int = 0) -> Verdict:
    """A verdict on translation under the native template, blocked on that cell where it is blocked."""
    about = stat(Task.TRANSLATION, Counts(hits=hits, asked=100, invalid=invalid), calibration=Calibration.NATIVE)
    status = "broken" if decision is Decision.BLOCK else "met"
    return verdict(decision, "Because.", (about,), (finding(about, status),))


def rows(*verdicts: tuple[str, int | None, Verdict]) -> tuple[Checkpoint, ...]:
    quality = {Task.TRANSLATION: Quality(right=9, asked=10)}
    return tuple(checkpoint(arm, seed, given, quality) for arm, seed, given in verdicts)


def matrix() -> Drift:
    """Two seeds: one arm blocked under both, the mixed one passed under the first alone."""
    taken = found(0, Decision.PASS)
    return assemble(
        plan(),
        taken,
        rows(
            (BASE, None, taken),
            ("plain", 0, found(80, Decision.BLOCK)),
            ("plain", 1, found(60, Decision.BLOCK)),
            ("mixed", 0, found(0, Decision.PASS)),
            ("mixed", 1, found(30, Decision.BLOCK)),
        ),
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arms": []}, "must not be empty"),
        ({"seeds": []}, "must not be empty"),
        ({"seeds": [1, 1]}, "named twice"),
        ({"beside": ["native"]}, "beside"),
        ({"arms": [{**LEAST["arms"][0], "name": "base"}]}, "base's row"),
        ({"arms": [LEAST["arms"][0], {**LEAST["arms"][0], "name": "again"}]}, "same task with the same mix"),
        ({"itmes": 3}, "itmes"),
    ],
)
def test_a_plan_that_could_not_be_meant_is_refused(changes: dict[str, Any], said: str) -> None:
    """Empty, doubled and contradicting plans, and unknown keys, are errors that say so."""
    with pytest.raises(ValidationError, match=said):
        plan(**changes)


def test_a_missing_plan_says_where_to_start(tmp_path: Path) -> None:
    """No file: the error names one to start from; an unknown key is told the nearest known one."""
    with pytest.raises(UsageError, match="no plan"):
        load_plan(tmp_path / "none.yaml")
    path = tmp_path / "plan.yaml"
    path.write_text((ROOT / "testbed" / "drift.yaml").read_text().replace("items_beside:", "item_beside:"))
    with pytest.raises(UsageError) as error:
        load_plan(path)
    assert "items_beside" in error.value.found


def test_the_policy_reads_a_fixed_number_and_stops_nowhere() -> None:
    """The plan's numbers reach the policy: items gated under one template, fewer beside, limits and error."""
    policy = policy_of(plan(items=120, beside=["raw"], items_beside=30, alpha=0.02))
    assert policy.decision.method == "fixed"
    assert (policy.decision.items_per_cell, policy.evidence.min_items) == (120, 120)
    assert policy.gate.calibrations == (Calibration.NATIVE,)
    assert (policy.report.calibrations, policy.report.items_per_cell) == ((Calibration.RAW,), 30)
    assert policy.decision.alpha_block == policy.decision.alpha_pass == 0.02


def test_a_cell_is_the_mean_and_the_outermost_bounds() -> None:
    """Two seeds with 80 and 60 of 100: mean .7, the lower bound of the lower, the upper bound of the higher."""
    of = matrix().of("plain")
    cell = spread(of, Task.TRANSLATION, Calibration.NATIVE, Measure.ANSWERED)
    assert cell is not None
    assert cell.mean == pytest.approx(0.7)
    assert cell.rates == (0.8, 0.6)
    assert cell.lower == of[1].stats[0].lower < 0.6
    assert cell.upper == of[0].stats[0].upper > 0.8
    assert spread(of, Task.SUMMARIZATION, Calibration.NATIVE, Measure.ANSWERED) is None


def test_a_cell_that_could_mostly_not_be_judged_says_so() -> None:
    """90 of 100 invalid: the table names how many were judged, and the drawing shows no number."""
    taken = found(2, Decision.INCONCLUSIVE, invalid=90)
    drawn = assemble(
        plan(arms=[{**LEAST["arms"][0], "expect": None}], seeds=[0]), taken, rows((BASE, None, taken), ("plain", 0, taken))
    )
    assert "of 10/100 judged" in as_markdown(drawn)
    assert b">n/a<" in heat_map(drawn, "svg")


def test_expectations_hold_or_not_by_seed() -> None:
    """Both blocks hold; of the two passes the second does not, and so the matrix does not."""
    drift = matrix()
    assert [(claim.arm, claim.seed, claim.held) for claim in drift.claims] == [
        ("plain", 0, True),
        ("plain", 1, True),
        ("mixed", 0, True),
        ("mixed", 1, False),
    ]
    assert not drift.held
    assert "| mixed | 1 | pass | **NO** |" in as_markdown(drift)


def test_a_block_elsewhere_is_not_the_expected_one() -> None:
    """An arm that is blocked for another task than the one it was tuned on does not fulfil `block`."""
    other = stat(Task.SUMMARIZATION, Counts(hits=90, asked=100), calibration=Calibration.NATIVE)
    blocked = verdict(Decision.BLOCK, "Because.", (other,), (finding(other, "broken"),))
    one = plan(seeds=[0], arms=[LEAST["arms"][0]])
    assert [claim.held for claim in claims(one, rows(("plain", 0, blocked)))] == [False]


def test_the_matrix_round_trips_and_draws_the_same_bytes() -> None:
    """JSON holds all of it; the same matrix gives the same drawing, as SVG and as PNG."""
    drift = matrix()
    assert Drift.model_validate_json(drift.model_dump_json()) == drift
    assert heat_map(drift, "svg") == heat_map(drift, "svg")
    assert heat_map(drift, "png").startswith(b"\x89PNG")


def test_the_testbed_plan_covers_every_task_twice_under_three_seeds() -> None:
    """Alone and mixed, five tasks, three seeds, each with an expectation."""
    testbed = load_plan(ROOT / "testbed" / "drift.yaml")
    assert {(arm.tuned_on, arm.expect) for arm in testbed.arms} == {(task, e) for task in Task for e in ("block", "pass")}
    assert len(testbed.seeds) == 3
    assert testbed.items == 250
    assert testbed.items_beside == 60
