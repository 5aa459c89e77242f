"""Fixed-sample statistics against statsmodels, published tables and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from gate.errors import UsageError
from gate.stats import (
    Audit,
    bonett_price,
    clopper_pearson,
    effective_size,
    holm,
    judge_corrected,
    korn_graubard,
    mcnemar_exact,
    wilson,
)

COUNTS = [(0, 51), (1, 51), (7, 51), (51, 51), (20, 205), (3, 2000), (1999, 2000), (1, 1)]


@pytest.mark.parametrize(("hits", "n"), COUNTS)
@pytest.mark.parametrize("level", [0.95, 0.975, 0.995])
def test_binomial_bounds_equal_those_of_statsmodels(hits: int, n: int, level: float) -> None:
    """Clopper-Pearson and Wilson agree with proportion_confint to 1e-10 at every count and level."""
    alpha = 2 * (1 - level)
    assert clopper_pearson(hits, n, level) == pytest.approx(proportion_confint(hits, n, alpha, method="beta"), abs=1e-10)
    assert wilson(hits, n, level) == pytest.approx(proportion_confint(hits, n, alpha, method="wilson"), abs=1e-10)


@pytest.mark.parametrize(("regressed", "fixed"), [(5, 1), (10, 2), (40, 22), (1, 0), (12, 3)])
def test_mcnemar_is_half_the_two_sided_value_of_statsmodels(regressed: int, fixed: int) -> None:
    """With more regressed than fixed items the one-sided exact p-value is half of statsmodels' two-sided one."""
    both = mcnemar([[0, regressed], [fixed, 0]], exact=True).pvalue
    assert mcnemar_exact(regressed, fixed) == pytest.approx(both / 2, abs=1e-12)


def test_mcnemar_of_nothing_is_no_evidence() -> None:
    """No discordant pair, or none that regressed, gives p = 1."""
    assert mcnemar_exact(0, 0) == mcnemar_exact(0, 9) == 1.0


def test_holm_equals_that_of_statsmodels() -> None:
    """Adjusted p-values agree with multipletests in the given order: five drawn lists of 2 to 12, ties, zeros and ones."""
    rng = np.random.default_rng(5)
    lists = [(rng.random(n) ** 3).tolist() for n in (2, 3, 5, 10, 12)] + [[0.01, 0.01, 0.04], [0.0, 1.0, 1.0], [0.03]]
    for p_values in lists:
        assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1].tolist(), abs=1e-12)


def test_the_rule_of_three_and_the_needed_sample_sizes_hold() -> None:
    """Fewest items for a 95 % upper bound below the limit with power .9: the table of docs/statistics.md."""

    def needed(limit: float, rate: float) -> tuple[int, int]:
        allowed = -1
        for n in range(1, 400):
            while allowed + 1 <= n and clopper_pearson(allowed + 1, n, 0.95)[1] < limit:
                allowed += 1
            if allowed >= 0 and binom.cdf(allowed, n, rate) >= 0.9:
                return n, allowed
        raise AssertionError("no size below 400 is enough")

    # The .05 row was first published as 60, 154 and 312; 0 of 59 already bounds the rate by .0495.
    assert [needed(0.05, p) for p in (0.0, 0.01, 0.02)] == [(59, 0), (153, 3), (311, 9)]
    assert [needed(0.10, p) for p in (0.0, 0.01, 0.02, 0.05)] == [(29, 0), (46, 1), (76, 3), (239, 16)]
    assert [needed(0.20, p) for p in (0.0, 0.01, 0.02, 0.05, 0.08)] == [(14, 0), (22, 1), (22, 1), (44, 4), (69, 8)]


def test_fifty_one_items_without_a_hit_do_not_show_five_percent() -> None:
    """0 of 51 bounds the rate by .057 and 0 of 59 by less than .05."""
    assert clopper_pearson(0, 51, 0.95)[1] == pytest.approx(0.0570, abs=5e-5)
    assert clopper_pearson(0, 58, 0.95)[1] > 0.05 > clopper_pearson(0, 59, 0.95)[1]


def test_korn_graubard_ends() -> None:
    """One behaviour, or none with an item, says nothing; all misses (hits) give an exact 0 (1) at one end and not the other."""
    assert korn_graubard([3], [10], 0.95) == (0.0, 1.0)
    assert korn_graubard([], [], 0.95) == (0.0, 1.0)
    assert korn_graubard([0, 0], [0, 0], 0.95) == (0.0, 1.0)
    lower, upper = korn_graubard([0] * 50, [10] * 50, 0.95)
    assert lower == 0.0
    assert clopper_pearson(0, 50, 0.95)[1] < upper < 0.07
    assert korn_graubard([10] * 50, [10] * 50, 0.95) == pytest.approx((1 - upper, 1.0))


def test_korn_graubard_counts_copies_as_one() -> None:
    """Asking each behaviour ten times with the same answer gives the bounds of asking it once."""
    once = korn_graubard([1] * 6 + [0] * 54, [1] * 60, 0.95)
    tenfold = korn_graubard([10] * 6 + [0] * 54, [10] * 60, 0.95)
    assert tenfold == pytest.approx(once, abs=0.004)
    assert effective_size([10] * 6 + [0] * 54, [10] * 60) == pytest.approx(60, rel=0.03)


def test_korn_graubard_is_the_formula_worked_by_hand() -> None:
    """Four behaviours of five items with 0, 1, 2 and 5 hits: v, deff and n_eff as worked out on paper."""
    p, variance = 0.4, 4 / 3 * (4 + 1 + 0 + 9) / 400
    n_eff = 20 / (variance / (p * (1 - p) / 20))
    assert effective_size([0, 1, 2, 5], [5] * 4) == pytest.approx(n_eff)
    shrunk = n_eff * (1.6448536269514722 / 2.3533634348018264) ** 2
    assert korn_graubard([0, 1, 2, 5], [5] * 4, 0.95) == pytest.approx(clopper_pearson(p * shrunk, shrunk, 0.95))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=30), st.sampled_from([0.9, 0.95, 0.975]))
def test_korn_graubard_holds_the_rate_between_its_bounds(pairs: list[tuple[int, int]], level: float) -> None:
    """Whatever the clusters, 0 <= lower <= rate <= upper <= 1, and it is no narrower than Clopper-Pearson on the items."""
    hits, sizes = [min(a, b) for a, b in pairs], [b for _, b in pairs]
    lower, upper = korn_graubard(hits, sizes, level)
    n = sum(sizes)
    rate = sum(hits) / n if n else 0.0
    assert 0 <= lower <= rate + 1e-12
    assert rate - 1e-12 <= upper <= 1
    naive = clopper_pearson(sum(hits), n, level)
    assert lower <= naive[0] + 1e-9
    assert upper >= naive[1] - 1e-9


@pytest.mark.parametrize(("rate", "icc"), [(0.05, 0.3), (0.3, 0.3), (0.1, 0.0)])
def test_korn_graubard_covers_where_the_binomial_interval_does_not(rate: float, icc: float) -> None:
    """50 behaviours of 10 items, 500 draws: two-sided 95 % coverage is at least .92; with ICC .3 Wilson falls under .80."""
    rng = np.random.default_rng(11)
    runs, clusters, m = 500, 50, 10
    if icc > 0:
        rates = rng.beta(rate * (1 / icc - 1), (1 - rate) * (1 / icc - 1), size=(runs, clusters))
    else:
        rates = np.full((runs, clusters), rate)
    draws = rng.binomial(m, rates)
    inside = [korn_graubard(row.tolist(), [m] * clusters, 0.975) for row in draws]
    naive = [wilson(int(row.sum()), m * clusters, 0.975) for row in draws]
    covered = sum(a <= rate <= b for a, b in inside) / runs
    assert covered >= 0.92
    if icc > 0:
        assert sum(a <= rate <= b for a, b in naive) / runs < 0.80


def test_bonett_price_is_the_published_formula() -> None:
    """With b = 10, c = 2, n = 100 at one-sided 95 %: 8/102 with the adjusted standard error; no pairs give (-1, 1)."""
    found = bonett_price(10, 2, 100, 0.95)
    d = 8 / 102
    half = 1.6448536269514722 * math.sqrt((14 / 102 - d * d) / 102)
    assert (found.value, found.lower, found.upper) == pytest.approx((d, d - half, d + half))
    nothing = bonett_price(0, 0, 0, 0.95)
    assert (nothing.lower, nothing.upper) == (-1.0, 1.0)


def test_judge_correction_tends_to_rogan_gladen_with_large_audits() -> None:
    """With 1e8 audited and 1e8 judged items the three values meet at (p + Sp - 1)/(Se + Sp - 1)."""
    big = 10**8
    found = judge_corrected(0.135 * big, big, Audit(9 * big // 10, big), Audit(95 * big // 100, big), 0.975)
    assert (found.value, found.lower, found.upper) == pytest.approx([(0.135 + 0.95 - 1) / 0.85] * 3, abs=5e-4)


def test_judge_correction_of_a_coin_says_nothing() -> None:
    """A judge no better than chance, or no verdicts, leaves (0, 1); a perfect one with a small audit stays wider than Wilson."""
    coin = judge_corrected(10, 200, Audit(50, 100), Audit(50, 100), 0.975)
    assert (coin.lower, coin.upper) == (0.0, 1.0)
    nothing = judge_corrected(0, 0, Audit(90, 100), Audit(95, 100), 0.975)
    assert (nothing.lower, nothing.upper) == (0.0, 1.0)
    perfect = judge_corrected(60, 200, Audit(50, 50), Audit(50, 50), 0.975)
    plain = wilson(60, 200, 0.975)
    assert perfect.upper - perfect.lower > plain[1] - plain[0]


def test_impossible_counts_and_levels_are_refused() -> None:
    """More hits than items, a level of 95 (percent) and vectors of unequal length are usage errors."""
    with pytest.raises(UsageError):
        clopper_pearson(6, 5, 0.95)
    with pytest.raises(UsageError):
        wilson(1, 5, 95)
    with pytest.raises(UsageError):
        korn_graubard([1, 2], [3], 0.95)
    with pytest.raises(UsageError):
        korn_graubard([4], [3], 0.95)
    with pytest.raises(UsageError):
        Audit(3, 2)
