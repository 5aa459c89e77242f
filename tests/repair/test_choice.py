"""What chooses and what is spent: the search, the two policies, the ledger's error over adaptive looks, the curve."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from gate.conformance.scene import Model, safe, small_policy, small_suite
from gate.errors import UsageError
from gate.policy import TaskLimits
from gate.records import Decision, Split, Task
from gate.repair import METHODS
from gate.repair.base import Method, Setting, setting_of
from gate.repair.card import Try
from gate.repair.curve import as_svg
from gate.repair.ledger import read_ledger, share_of, take_look
from gate.repair.policies import held_out_policy, refuse_without_tuning_half, tuning_policy
from gate.repair.search import most_attempts, search
from gate.sequential import WithoutReplacement
from tests.folders import finished_run


def a_try(setting: Setting, decision: Decision, *lacks: str) -> Try:
    """A try that came out so."""
    return Try(
        method="scripted",
        setting=setting,
        digest="0",
        decision=decision,
        reason="scripted",
        lacks=lacks,
        worst_answered=0.1,
        mean_answered=0.1,
        worst_over_refusal=0.0,
        verdict_digest="0",
    )


@pytest.mark.parametrize("number", range(1, 17))
def test_bisection_finds_the_smallest_change_that_passes(number: int) -> None:
    """For every window of passing settings, an empty one too, it finds what a walk finds, in as many attempts as it says."""
    settings = [Setting(values={"step": float(n)}) for n in range(number)]
    for first in range(number + 1):
        for last in range(first - 1, number):
            seen: list[Setting] = []

            def attempt(setting: Setting, first: int = first, last: int = last, seen: list[Setting] = seen) -> Try:
                seen.append(setting)
                step = setting.number("step")
                if step < first:
                    return a_try(setting, Decision.BLOCK, "max_rate", "max_over_refusal")
                return a_try(setting, Decision.PASS) if step <= last else a_try(setting, Decision.BLOCK, "max_over_refusal")

            found = search("bisect", settings, attempt)
            assert (None if found is None else found.setting.number("step")) == (first if first <= last else None)
            assert len(seen) <= most_attempts("bisect", number)
            walked = search("climb", settings, attempt)
            assert (None if walked is None else walked.setting) == (None if found is None else found.setting)


def test_the_tuning_half_is_held_to_lower_limits_and_claims_nothing() -> None:
    """Limits fall by the margin, a task's own too; the share of invalid answers stays; nothing is reported beside."""
    policy = small_policy(tasks={Task.SUMMARIZATION: TaskLimits(max_rate=0.05)}, report={"calibrations": ["raw"]})
    tuned = tuning_policy(policy, 0.2)
    assert tuned.split is Split.TUNING
    assert tuned.limits.max_rate == pytest.approx(0.08)
    assert tuned.limits.max_over_refusal == pytest.approx(0.08)
    assert tuned.limits.max_invalid == policy.limits.max_invalid
    assert tuned.limits_of(Task.SUMMARIZATION).max_rate == pytest.approx(0.04)
    assert tuned.report.calibrations == ()
    assert tuned.evidence.min_judged == policy.evidence.min_judged
    with pytest.raises(UsageError, match="no tuning half"):
        refuse_without_tuning_half(policy, small_suite())
    with pytest.raises(UsageError, match="the split on which repairs are chosen"):
        refuse_without_tuning_half(tuned, small_suite())


def test_looks_spend_no_more_than_the_policys_error(tmp_path: Path) -> None:
    """The parts fall and sum to at most 1; a look stands on the disk at once, and the same candidate's is not spent twice."""
    run = finished_run(tmp_path, Model("aligned", safe))
    policy = small_policy()
    digests = [str(n) for n in (1, 2, 1, 3, 2)]
    looks = [take_look(run, policy, digest) for digest in digests]
    assert [look.number for look in looks] == [1, 2, 1, 3, 2]
    assert read_ledger(run).looks == (looks[0], looks[1], looks[3])
    assert [held_out_policy(policy, look).decision.alpha_pass for look in looks[:2]] == [0.025, pytest.approx(0.05 / 6)]
    assert len({held_out_policy(policy, look).decision.order_seed for look in looks}) == 3
    assert sum(share_of(k) for k in range(1, 10_000)) == pytest.approx(1, abs=2e-4)


def test_adaptive_looks_let_a_bad_repair_through_no_more_often_than_alpha() -> None:
    """Forty repairs just over the limit, each look in an order of its own: one passes in at most 5 % of 2,000 runs.

    The same looks at the undivided error let one through in most of the runs: the division is what keeps the bound. A repair here
    stops at the first that passes, as `gate repair` does.
    """
    population, limit, alpha, runs, looks = 60, 0.10, 0.05, 2000, 40
    bad = int(limit * population) + 1
    rng = np.random.default_rng(20261129)

    def passes(alpha_pass: float) -> np.ndarray:
        """Whether a candidate with one hit more than the limit allows passes, in a fresh order for each run."""
        down = np.array(WithoutReplacement(population, limit, alpha, alpha_pass).down)[1:]
        up = np.array(WithoutReplacement(population, limit, alpha, alpha_pass).up)[1:]
        items = np.zeros((runs, population), dtype=int)
        items[:, :bad] = 1
        hits = rng.permuted(items, axis=1).cumsum(axis=1)
        passed, blocked = hits <= down, hits >= up
        first = np.where(passed.any(axis=1), passed.argmax(axis=1), population)
        stopped = np.where(blocked.any(axis=1), blocked.argmax(axis=1), population)
        early: np.ndarray = first < stopped
        return early

    divided = np.any([passes(alpha * share_of(k)) for k in range(1, looks + 1)], axis=0).mean()
    undivided = np.any([passes(alpha) for _ in range(looks)], axis=0).mean()
    assert divided <= alpha
    assert undivided > 0.3


def test_a_setting_that_the_method_does_not_have_is_refused() -> None:
    """Each method's own settings are among its keys; another key is an error that names them."""
    for method in METHODS:
        assert all(set(setting.values) <= set(method.keys) for setting in method.settings())
        assert len(set(map(str, method.settings()))) == len(method.settings())
        with pytest.raises(UsageError, match="has no setting bogus"):
            setting_of(method, {"bogus": 1.0})


def test_the_table_is_in_order_of_cost() -> None:
    """What changes no weights comes first, what trains last; names are unique."""
    order = ["serve", "post", "retrain"]
    stages = [order.index(method.stage) for method in METHODS]
    assert stages == sorted(stages)
    names: list[str] = [method.name for method in METHODS]
    assert len(set(names)) == len(names)
    checked: tuple[Method, ...] = METHODS
    assert checked


def test_the_curve_is_one_drawing_of_the_same_tries() -> None:
    """Well-formed SVG that names each setting and the limit; the same bytes again."""
    tries = [a_try(Setting(values={"alpha": a}), Decision.BLOCK, "max_rate") for a in (0.5, 0.25)]
    drawn = as_svg(tries, 0.1)
    assert ET.fromstring(drawn).tag.endswith("svg")
    assert "alpha = 0.25" in drawn
    assert "limit 10 %" in drawn
    assert as_svg(tries, 0.1) == drawn


def test_a_cost_that_was_not_measured_is_not_drawn_as_none() -> None:
    """Settings that were blocked before their quality was measured stand aside of the scale, and the drawing says why."""
    blocked = a_try(Setting(values={"alpha": 0.5}), Decision.BLOCK, "max_rate").model_copy(update={"worst_answered": 1.0})
    passed = a_try(Setting(values={"alpha": 0.25}), Decision.PASS).model_copy(
        update={"worst_answered": 0.02, "mean_utility_drop": 0.0}
    )
    assert "not measured" not in as_svg([passed], 0.1)
    root = ET.fromstring(as_svg([blocked, passed], 0.1))
    assert "not measured" in "".join(root.itertext())
    across = {
        text.text: float(text.get("x", ""))
        for text in root.iter("{http://www.w3.org/2000/svg}text")
        if (text.text or "").startswith("alpha")
    }
    assert across["alpha = 0.5"] < across["alpha = 0.25"]
