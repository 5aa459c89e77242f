"""The anytime-valid tests against brute force, exhaustion, inversion and the figures they are documented with."""

from __future__ import annotations

import math
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.errors import UsageError
from gate.sequential import (
    LOG_E_CAP,
    WithoutReplacement,
    confidence_sequence,
    difference_lower_bound,
    expected_generations,
    log_bar,
    log_e_more_than,
    log_e_regression,
    null_count,
    stopping_law,
)

SMALL = [4, 7, 10, 12]
ALPHA = 0.05


def crossing(test: WithoutReplacement, sure: list[int], worst: list[int]) -> tuple[int, str] | None:
    """The first number of items at which the test decides, and how; None while it does not."""
    looks = ((t, test.decide(t, sum(sure[:t]), sum(worst[:t]))) for t in range(1, len(sure) + 1))
    return next((look for look in looks if look[1] != "continue"), None)


def chance(population: int, hits: int, t: int, s: int) -> float:
    """Hypergeometric probability of s hits in t items."""
    return math.comb(hits, s) * math.comb(population - hits, t - s) / math.comb(population, t)


@pytest.mark.parametrize("population", SMALL)
def test_the_expected_e_value_is_at_most_one_under_every_null(population: int) -> None:
    """For every M0, every M of the null and every t, both e-values have expectation at most 1."""
    for edge, hits, t in product(range(population), range(population + 1), range(population + 1)):
        test = WithoutReplacement(population, edge / population, ALPHA, ALPHA)
        log_e = test.log_e_block if hits <= edge else test.log_e_pass
        outcomes = [(s, chance(population, hits, t, s)) for s in range(t + 1)]
        assert sum(p * math.exp(log_e(t, s)) for s, p in outcomes if p > 0) <= 1 + 1e-9, (edge, hits, t)


@pytest.mark.parametrize("population", SMALL)
def test_the_e_process_is_a_supermartingale_under_every_null(population: int) -> None:
    """From every state reachable under the null, the next e-value is not expected to be larger than the present one."""
    for edge in range(population):
        for hits in range(edge + 1):
            for t in range(population):
                for s in range(max(0, t - population + hits), min(t, hits) + 1):
                    p = (hits - s) / (population - t)
                    now = math.exp(log_e_more_than(population, edge, t, s))
                    up = math.exp(log_e_more_than(population, edge, t + 1, s + 1)) if p > 0 else 0.0
                    stay = math.exp(log_e_more_than(population, edge, t + 1, s)) if p < 1 else 0.0
                    assert p * up + (1 - p) * stay <= now * (1 + 1e-9) + 1e-300, (edge, hits, t, s)


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.45])
@pytest.mark.parametrize("population", SMALL)
def test_no_null_is_crossed_more_often_than_alpha(population: int, alpha: float) -> None:
    """Over all orders and all looks together, false blocks and false passes stay within alpha for every M and every M0."""
    for edge in range(population):
        test = WithoutReplacement(population, edge / population, alpha, alpha)
        for hits in range(population + 1):
            law = stopping_law(test.up, test.down, hits)
            assert (law.block if hits <= edge else law.passed) <= alpha + 1e-12, (edge, hits)


def test_the_stopping_law_is_what_listing_every_order_gives() -> None:
    """Mean, p90, block and pass shares equal those counted over all C(9, M) orders."""
    population = 9
    test = WithoutReplacement(population, 0.34, 0.3, 0.3)
    for hits in range(population + 1):
        ends: list[tuple[int, str]] = []
        for chosen in combinations(range(population), hits):
            order = [int(i in chosen) for i in range(population)]
            end = crossing(test, order, order)
            assert end is not None
            ends.append(end)
        law = expected_generations(test, hits / population)
        lengths = sorted(t for t, _ in ends)
        assert law.mean == pytest.approx(sum(lengths) / len(lengths))
        assert law.p90 == lengths[math.ceil(0.9 * len(lengths) - 1e-9) - 1]
        assert law.block == pytest.approx(sum(d == "block" for _, d in ends) / len(ends))
        assert law.passed == pytest.approx(sum(d == "pass" for _, d in ends) / len(ends))


@pytest.mark.parametrize("population", [1, 2, 5, 12, 61])
def test_an_exhausted_suite_is_decided_by_the_exact_comparison(population: int) -> None:
    """At t = N every count blocks where M > M0 and passes where M <= M0, for every M0."""
    for edge, hits in product(range(population), range(population + 1)):
        test = WithoutReplacement(population, edge / population, ALPHA / 50, ALPHA)
        assert test.null_count == edge
        assert test.decide(population, hits, hits) == ("block" if hits > edge else "pass")


@pytest.mark.parametrize("population", [3, 12, 40])
def test_tables_say_what_the_e_values_say(population: int) -> None:
    """`up` and `down` are the least and largest counts whose e-value reaches 1/alpha, and no count does both."""
    for edge in range(0, population, 3):
        test = WithoutReplacement(population, edge / population, 0.04, 0.1)
        for t in range(population + 1):
            blocks = [s for s in range(t + 1) if test.log_e_block(t, s) >= log_bar(0.04)]
            passes = [s for s in range(t + 1) if test.log_e_pass(t, s) >= log_bar(0.1)]
            assert test.up[t] == min(blocks, default=population + 1)
            assert test.down[t] == max(passes, default=-1)
            assert blocks == list(range(test.up[t], t + 1))
            assert test.down[t] < test.up[t]


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_the_confidence_sequence_inverts_the_test(data: st.DataObject) -> None:
    """For any counts and any limit: lower > limit exactly where the test blocks, upper <= limit exactly where it passes."""
    population = data.draw(st.integers(1, 50))
    t = data.draw(st.integers(0, population))
    sure = data.draw(st.integers(0, t))
    worst = data.draw(st.integers(sure, t))
    alpha = data.draw(st.sampled_from([0.002, 0.05, 0.3]))
    lower, upper = confidence_sequence(population, t, sure, worst, alpha, alpha_upper=0.05)
    assert 0 <= lower <= upper <= 1
    for edge in range(population):
        test = WithoutReplacement(population, edge / population, alpha, 0.05)
        decision = test.decide(t, sure, worst)
        assert (round(lower * population) > edge) == (decision == "block"), edge
        assert (round(upper * population) <= edge) == (decision == "pass"), edge


def test_an_e_value_of_exactly_one_over_alpha_rejects_in_table_and_bound_alike() -> None:
    """After 3 hits of 3 among 13 items, "at most 3" has E = (C(14,4) - 1)/10 = 100 exactly: alpha .01 blocks and bounds by 4."""
    test = WithoutReplacement(13, 3 / 13, 0.01, 0.01)
    assert test.log_e_block(3, 3) == pytest.approx(math.log(100))
    assert test.decide(3, 3, 3) == "block"
    assert confidence_sequence(13, 3, 3, 3, 0.01)[0] == pytest.approx(4 / 13)


def test_the_confidence_sequence_ends_at_the_exact_rate() -> None:
    """Once all is judged both bounds are M/N; before the first answer they are 0 and 1."""
    assert confidence_sequence(200, 200, 17, 17, ALPHA) == (17 / 200, 17 / 200)
    assert confidence_sequence(200, 0, 0, 0, ALPHA) == (0.0, 1.0)
    assert confidence_sequence(200, 200, 17, 20, ALPHA) == (17 / 200, 20 / 200)


@pytest.mark.parametrize("hits", [0, 3, 20, 57])
def test_the_confidence_sequence_covers_at_all_looks_together(hits: int) -> None:
    """In 400 random orders of 60 items, the bounds at level .05 each ever leave M/N in at most 5 % plus noise per side."""
    rng = np.random.default_rng(7)
    population, runs = 60, 400
    bounds = {(t, s): confidence_sequence(population, t, s, s, ALPHA) for t in range(population + 1) for s in range(t + 1)}
    too_high = too_low = 0
    for _ in range(runs):
        counts = np.cumsum(rng.permutation([1] * hits + [0] * (population - hits)))
        path = [bounds[t, int(s)] for t, s in enumerate(counts, start=1)]
        too_high += any(lower > hits / population for lower, _ in path)
        too_low += any(upper < hits / population for _, upper in path)
    assert max(too_high, too_low) <= runs * (ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / runs))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.booleans(), min_size=1, max_size=80), st.sampled_from([0.0, 0.1, 0.25, 0.6]), st.randoms(use_true_random=False)
)
def test_shuffling_changes_when_it_ends_but_not_the_exhaustive_verdict(hits: list[bool], limit: float, random: object) -> None:
    """Every order of the same complete suite gives the same decision at t = N, and every order decides."""
    test = WithoutReplacement(len(hits), limit, ALPHA, ALPHA)
    total = sum(hits)
    shuffled = [int(x) for x in hits]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert test.decide(len(hits), total, total) == ("block" if total > test.null_count else "pass")
    assert crossing(test, shuffled, shuffled) is not None


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 60), st.data())
def test_missing_answers_can_only_delay(population: int, data: st.DataObject) -> None:
    """Whatever the missing answers would have been, a decision taken with them missing is taken with them known too."""
    t = data.draw(st.integers(0, population))
    sure = data.draw(st.integers(0, t))
    worst = data.draw(st.integers(sure, t))
    truth = data.draw(st.integers(sure, worst))
    test = WithoutReplacement(population, 0.1, ALPHA, ALPHA)
    decision = test.decide(t, sure, worst)
    if decision != "continue":
        assert test.decide(t, truth, truth) == decision


def test_nothing_but_missing_answers_never_decides() -> None:
    """A suite whose every answer is missing neither blocks nor passes, even when it is exhausted."""
    test = WithoutReplacement(250, 0.1, ALPHA, ALPHA)
    assert crossing(test, [0] * 250, [1] * 250) is None


def test_a_decimal_limit_counts_as_the_decimal() -> None:
    """floor(tau N) is taken of the decimal number and not of its double: .07 of 100 is 7, .29 of 100 is 29, .1 of 250 is 25."""
    assert [null_count(n, p) for n, p in [(100, 0.07), (100, 0.29), (250, 0.1), (205, 0.1), (3, 1 / 3), (10, 0.0)]] == [
        7,
        29,
        25,
        20,
        1,
        0,
    ]


@pytest.mark.parametrize(
    ("population", "false_block", "false_pass"), [(205, 0.024, 0.042), (500, 0.028, 0.045), (2000, 0.029, 0.048)]
)
def test_exact_errors_at_the_edge_are_the_published_ones(population: int, false_block: float, false_pass: float) -> None:
    """At limit .10 and alpha .05, the exact errors at M = M0 and M = M0 + 1 round to the figures of docs/statistics.md."""
    test = WithoutReplacement(population, 0.1, ALPHA, ALPHA)
    at_edge = stopping_law(test.up, test.down, test.null_count)
    above = stopping_law(test.up, test.down, test.null_count + 1)
    assert at_edge.block == pytest.approx(false_block, abs=6e-4)
    assert above.passed == pytest.approx(false_pass, abs=6e-4)
    assert at_edge.block + at_edge.passed == pytest.approx(1)


def test_exact_mean_lengths_are_the_published_ones() -> None:
    """At N = 500, limit .10: 61, 134, 463-469, 25 and 4 items on average at rates .02, .05, .10, .30, .70."""
    test = WithoutReplacement(500, 0.1, ALPHA, ALPHA)
    assert [round(expected_generations(test, rate).mean) for rate in (0.02, 0.05, 0.10, 0.30, 0.70)] == [61, 134, 469, 25, 4]
    assert round(stopping_law(test.up, test.down, test.null_count + 1).mean) == 463


def test_first_boundaries_at_two_thousand_items_are_the_published_ones() -> None:
    """At N = 2000, limit .10: 2 hits of 2, 3 of 5 and 4 of 8 block and fewer do not; 42 misses in a row pass and 41 do not."""
    test = WithoutReplacement(2000, 0.1, ALPHA, ALPHA)
    assert (test.up[2], test.up[5], test.up[8]) == (2, 3, 4)
    assert (test.up[3], test.up[6], test.up[9]) == (3, 4, 5)
    assert (test.down[41], test.down[42]) == (-1, 0)


def test_certain_outcomes_are_reported_as_the_cap() -> None:
    """More hits than M0 is the cap, more misses than N - M0 its negative, and one hit blocks a limit of zero."""
    test = WithoutReplacement(100, 0.1, ALPHA, ALPHA)
    assert test.log_e_block(11, 11) == LOG_E_CAP
    assert test.log_e_block(91, 0) == -LOG_E_CAP
    assert test.log_e_pass(90, 0) == LOG_E_CAP
    assert test.log_e_pass(11, 11) == -LOG_E_CAP
    assert WithoutReplacement(100, 0.0, ALPHA, ALPHA).decide(1, 1, 1) == "block"


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 3000), st.floats(0, 0.99), st.data())
def test_e_values_are_finite_and_capped(population: int, limit: float, data: st.DataObject) -> None:
    """No counts of any population give an infinite or undefined e-value."""
    test = WithoutReplacement(population, limit, ALPHA, ALPHA)
    t = data.draw(st.integers(0, population))
    s = data.draw(st.integers(0, t))
    assert abs(test.log_e_block(t, s)) <= LOG_E_CAP
    assert abs(test.log_e_pass(t, s)) <= LOG_E_CAP


@pytest.mark.parametrize("limit", [-0.1, 1.0, float("nan")])
def test_a_limit_that_cannot_be_tested_is_refused(limit: float) -> None:
    """A limit outside [0, 1) is a usage error, and so are an empty population, an alpha of 0 and impossible counts."""
    with pytest.raises(UsageError):
        WithoutReplacement(10, limit, ALPHA, ALPHA)
    with pytest.raises(UsageError):
        WithoutReplacement(0, 0.1, ALPHA, ALPHA)
    with pytest.raises(UsageError):
        WithoutReplacement(10, 0.1, 0.0, ALPHA)
    with pytest.raises(UsageError):
        WithoutReplacement(10, 0.1, ALPHA, ALPHA).decide(5, 6, 6)


def states(up: int, down: int, same: int) -> list[tuple[tuple[int, ...], float]]:
    """Every distinct order of a population of differences, each with its probability."""
    population = up + down + same
    orders = []
    for ups in combinations(range(population), up):
        rest = [i for i in range(population) if i not in ups]
        orders += [
            tuple(1 if i in ups else -1 if i in downs else 0 for i in range(population)) for downs in combinations(rest, down)
        ]
    return [(order, 1 / len(orders)) for order in orders]


@pytest.mark.parametrize("margin", [0.0, 0.2, -0.25])
@pytest.mark.parametrize("population", [4, 6, 7])
def test_the_paired_e_value_has_expectation_at_most_one_under_every_null(population: int, margin: float) -> None:
    """Over all orders of every population whose mean difference is within the margin: E <= 1 at every t, crossings <= alpha."""
    checked = 0
    for up in range(population + 1):
        for down in range(population + 1 - up):
            if up - down > math.floor(margin * population + 1e-9):
                continue
            checked += 1
            weighted = [
                (np.exp(log_e_regression(order, population, margin)), p) for order, p in states(up, down, population - up - down)
            ]
            expectation = sum(p * e for e, p in weighted)
            assert np.all(expectation <= 1 + 1e-9), (up, down)
            for alpha in (0.5, 0.2, ALPHA):
                assert sum(p for e, p in weighted if e.max() >= 1 / alpha) <= alpha + 1e-12
    assert checked > 0


def test_the_likelihood_mixture_is_not_valid_without_replacement() -> None:
    """On a population of 5 + and 5 -, the sequential McNemar mixture is expected to grow from the state (1 +, 3 -)."""

    def mixture(b: int, c: int) -> float:
        grid = (np.arange(20000) + 0.5) / 20000
        return float(((1 + grid) ** b * (1 - grid) ** c).mean())

    b, c = 1, 3
    p = (5 - b) / (10 - b - c)
    assert p * mixture(b + 1, c) + (1 - p) * mixture(b, c + 1) > mixture(b, c)


def test_paired_false_alarms_stay_within_alpha_by_simulation() -> None:
    """With as many newly answered as newly refused among 300 items, at most 5 % plus noise of 600 orders ever raise alarm."""
    rng = np.random.default_rng(3)
    population = [1] * 20 + [-1] * 20 + [0] * 260
    runs = 600
    alarms = sum(max(log_e_regression(rng.permutation(population).tolist(), 300)) >= log_bar(ALPHA) for _ in range(runs))
    assert alarms <= runs * (ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / runs))


def test_a_real_regression_is_found_early() -> None:
    """With 30 % newly and 2 % no longer answered of 500 items, 40 of 40 orders alarm, after fewer than 60 items on average."""
    rng = np.random.default_rng(4)
    population = [1] * 150 + [-1] * 10 + [0] * 340
    ends = []
    for _ in range(40):
        log_e = np.array(log_e_regression(rng.permutation(population).tolist(), 500))
        ends.append(int(np.argmax(log_e >= log_bar(ALPHA))) + 1)
        assert log_e.max() >= log_bar(ALPHA)
    assert sum(ends) / len(ends) < 60


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([-1, 0, 1]), max_size=40), st.integers(0, 30), st.sampled_from([0.05, 0.3]))
def test_the_difference_bound_inverts_the_paired_test(differences: list[int], rest: int, alpha: float) -> None:
    """The lower bound exceeds a margin exactly where the e-value against that margin has ever reached 1/alpha."""
    population = len(differences) + rest + 1
    lower = difference_lower_bound(differences, population, alpha)
    largest = sum(differences) + population - len(differences)
    for null_sum in range(-population, largest):
        log_e = log_e_regression(differences, population, null_sum / population)
        assert (max(log_e, default=0.0) >= log_bar(alpha)) == (round(lower * population) > null_sum)


def test_an_exhausted_pair_is_certain_of_a_regression() -> None:
    """Once all items are seen the e-value is at the cap where the sum is over the margin, and the bound is the exact mean."""
    differences = [0, 1, 0, -1, 1, 0, 0, 0]
    assert log_e_regression(differences, 8)[-1] == LOG_E_CAP
    assert difference_lower_bound(differences, 8, ALPHA) == 1 / 8
    assert log_e_regression(differences, 8, 0.125)[-1] < 1
    with pytest.raises(UsageError):
        log_e_regression([2], 8)
