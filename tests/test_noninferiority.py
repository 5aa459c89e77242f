"""Bounds on paired losses: they hold as often as they say, at once exact and finite, and say how many items a limit needs."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import numpy.typing as npt
import pytest

from gate.errors import UsageError
from gate.noninferiority import (
    UNIT,
    fewest_items,
    mean_lower_bound,
    mean_upper_bound,
    set_lower_bound,
    set_upper_bound,
)
from gate.sequential import BETS, difference_lower_bound
from tests.conftest import ROOT

ALPHA = 0.05


def log_e(values: npt.NDArray[np.float64], mean: float) -> float:
    """The e-value that `mean_lower_bound` inverts, written from its docstring: equal weights."""
    capital = [math.prod(1 + float(bet) * (float(x) - mean) / (1 + mean) for x in values) for bet in BETS]
    return math.log(sum(capital) / len(capital))


def test_an_exhausted_set_is_its_exact_mean() -> None:
    """Once all of a set is in, both bounds are its mean, whatever the scores."""
    losses = [0.25, -0.5, 1 / 3, 0.0, 1.0, -1.0, 0.125]
    mean = round(sum(round(x * UNIT) for x in losses) / len(losses)) / UNIT
    assert set_lower_bound(losses, 7, ALPHA) == pytest.approx(mean, abs=1 / UNIT)
    assert set_upper_bound(losses, 7, ALPHA) == pytest.approx(mean, abs=1 / UNIT)


def test_whole_losses_give_the_bound_of_the_paired_test() -> None:
    """On losses of -1, 0 and 1 the bound in millionths is the regression test's own, to less than one of its steps."""
    losses = [1, 0, -1, 0, 0, 1, 1, 0, 0, 0]
    coarse = difference_lower_bound(losses, 30, ALPHA)
    fine = set_lower_bound([float(x) for x in losses], 30, ALPHA)
    assert coarse - 1 / 30 <= fine <= coarse


def test_the_bound_on_a_set_holds_over_all_its_orders() -> None:
    """Of all orders of a small set with partial scores, the share whose bound misses the set's mean is at most alpha."""
    losses = [0.5, -0.25, 1.0, 0.0, -1.0, 0.75]
    mean, alpha = sum(losses) / 6, 0.2
    for n in (2, 4, 5):
        missed = [set_upper_bound(order, 6, alpha) < mean - 1e-9 for order in itertools.permutations(losses, n)]
        assert sum(missed) / len(missed) <= alpha


def test_nothing_asked_bounds_nothing() -> None:
    """Without items, or without a set, the loss may be anything."""
    assert (set_lower_bound([], 0, ALPHA), set_upper_bound([], 0, ALPHA)) == (-1.0, 1.0)
    assert (set_lower_bound([], 9, ALPHA), set_upper_bound([], 9, ALPHA)) == (-1.0, 1.0)
    assert (mean_lower_bound([], [], ALPHA), mean_upper_bound([], [], ALPHA)) == (-1.0, 1.0)


def test_the_bound_of_the_population_inverts_its_e_value() -> None:
    """Just below the bound the e-value written out reaches 1/alpha, just above it does not."""
    values = np.array([0.0] * 30 + [1.0] * 6 + [-1.0, 0.5])
    lower = mean_lower_bound(values.tolist(), [1.0] * values.size, ALPHA)
    bar = math.log(1 / ALPHA)
    assert log_e(values, lower - 1e-6) >= bar > log_e(values, lower + 1e-6)


def test_no_loss_at_all_bounds_as_the_mixture_says() -> None:
    """Without a loss in n items the bound solves mean over bets of (1 + bet m/(1 - m))^n = 1/alpha; it is above alpha's root."""
    for n in (60, 250):
        upper = mean_upper_bound([0.0] * n, [1.0] * n, ALPHA)
        capital = float(np.mean((1 + BETS * upper / (1 - upper)) ** n))
        assert capital == pytest.approx(1 / ALPHA, rel=1e-6)
        assert upper > 1 - ALPHA ** (1 / n)


@pytest.mark.parametrize("worse", [0.02, 0.2])
def test_the_bounds_hold_in_samples(worse: float) -> None:
    """Over 300 samples of 60 losses, drawn in strata that differ, either bound misses the mean in at most 1 of 20."""
    rng = np.random.default_rng(11)
    strata = [(worse, 0.0), (2 * worse, worse)]
    mean = sum(up - down for up, down in strata) / 2
    missed = [0, 0]
    for _ in range(300):
        drawn = [rng.choice([1.0, -1.0, 0.0], size=30, p=[up, down, 1 - up - down]) for up, down in strata]
        values = np.concatenate(drawn).tolist()
        missed[0] += mean_lower_bound(values, [1.0] * 60, ALPHA) > mean
        missed[1] += mean_upper_bound(values, [1.0] * 60, ALPHA) < mean
    assert max(missed) <= 0.05 * 300


def test_expectation_of_the_e_value_is_at_most_one() -> None:
    """Exactly, over all outcomes of three independent losses whose chances and weights differ while their weighted mean is m."""
    chances, weights = (0.1, 0.5, 0.3), (1.0, 0.5, 0.25)
    mean = sum(w * p for w, p in zip(weights, chances, strict=True)) / sum(weights)
    expected = 0.0
    for outcome in itertools.product((0.0, 1.0), repeat=3):
        chance = math.prod(p if x else 1 - p for x, p in zip(outcome, chances, strict=True))
        capital = [
            math.prod(1 + float(bet) * w * (x - mean) / (1 + mean) for x, w in zip(outcome, weights, strict=True)) for bet in BETS
        ]
        expected += chance * sum(capital) / len(capital)
    assert expected <= 1


def test_weights_that_do_not_matter_do_not_matter() -> None:
    """The scale of the weights is free, and a value without weight says nothing."""
    values = [0.0, 1.0, 0.0, -0.5]
    assert mean_upper_bound(values, [1.0] * 4, ALPHA) == mean_upper_bound(values, [7.0] * 4, ALPHA)
    assert mean_upper_bound([*values, 1.0], [1.0] * 4 + [0.0], ALPHA) == mean_upper_bound(values, [1.0] * 4, ALPHA)


@pytest.mark.parametrize("values", [[1.5], [0.0, 0.0]])
def test_what_is_no_loss_is_refused(values: list[float]) -> None:
    """A loss beyond 1, or one without a weight, is a mistake of the caller."""
    with pytest.raises(UsageError):
        mean_lower_bound(values, [1.0], ALPHA)


def test_documented_item_counts_are_the_code_s() -> None:
    """The table of items that a limit needs in docs/statistics.md is computed by `fewest_items`."""
    text = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")
    table = text.partition("<!-- items-for-a-limit -->")[2].partition("<!-- /items-for-a-limit -->")[0]
    rows = re.findall(r"^\| (0\.\d+) \| (\d+) \| (\d+) \|", table, re.M)
    assert [limit for limit, _, _ in rows] == ["0.01", "0.02", "0.05", "0.10"]
    for limit, at_05, at_01 in rows:
        assert (fewest_items(float(limit), 0.05), fewest_items(float(limit), 0.01)) == (int(at_05), int(at_01))
