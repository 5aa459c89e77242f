"""How many answers a verdict takes: `python bench/generations_to_verdict.py` writes results/ and docs/statistics.md.

The default test against asking the whole suite, the same with a stop once its end is certain, and against looking at a
fixed-sample bound after every item. Everything but the paired test is exact, by walking the hypergeometric tree.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
from scipy.special import bdtr

from bench.results import ROOT, into_document, machine, stated, table, write
from gate.sequential import WithoutReplacement, expected_generations, log_bar, log_e_regression, stopping_law
from gate.stats import clopper_pearson

SEED = 20260118
ALPHA = 0.05
LIMIT = 0.10
POPULATIONS = (205, 250, 500, 2000)
RATES = (0.0, 0.02, 0.05, 0.08, 0.10, 0.12, 0.15, 0.30, 0.70)
ORDERS = 400
DOCUMENT = ROOT / "docs" / "statistics.md"
Row = dict[str, float | int | str]


def fixed_boundaries(population: int, limit: float) -> tuple[list[int], list[int]]:
    """For t = 0..N the least count whose 95 % lower bound is over the limit and the largest whose upper bound is below it."""
    up, down = [population + 1], [-1]
    least, largest = 0, -1
    for t in range(1, population + 1):
        while least <= t and clopper_pearson(least, t, 1 - ALPHA)[0] <= limit:
            least += 1
        while largest + 1 <= t and clopper_pearson(largest + 1, t, 1 - ALPHA)[1] < limit:
            largest += 1
        up.append(least if least <= t else population + 1)
        down.append(largest)
    return up, down


def curtailed(population: int, hits: int, passes: int, blocks: int) -> tuple[float, float]:
    """Mean items until a fixed-n run's end (<= `passes`, >= `blocks`, or between) is certain; probability of between."""
    counts = np.arange(hits + 1)
    alive = np.zeros(hits + 1)
    alive[0] = 1.0
    mean = between = 0.0
    for t in range(population + 1):
        if t > 0:
            step = np.clip((hits - counts) / (population - t + 1), 0.0, 1.0)
            alive, came = alive * (1 - step), alive * step
            alive[1:] += came[:-1]
        most = counts + population - t
        undecided = (counts > passes) & (most < blocks)
        between += float(alive[undecided].sum())
        alive = np.where((counts >= blocks) | (most <= passes) | undecided, 0.0, alive)
        mean += float(alive.sum())
    return mean, between


def against_fixed(population: int) -> list[Row]:
    """One row per true rate: the whole suite, curtailed runs, the default test."""
    test = WithoutReplacement(population, LIMIT, ALPHA, ALPHA)
    ten = WithoutReplacement(population, LIMIT, ALPHA / 10, ALPHA)
    up, down = fixed_boundaries(population, LIMIT)
    rows: list[Row] = []
    for rate in RATES:
        hits = round(rate * population)
        law, shared = expected_generations(test, rate), expected_generations(ten, rate)
        bound = curtailed(population, hits, down[-1], up[-1])
        census = curtailed(population, hits, test.null_count, test.null_count + 1)
        rows.append(
            {
                "population": population,
                "rate": rate,
                "hits": hits,
                "fixed": population,
                "curtailed_bound": bound[0],
                "curtailed_bound_undecided": bound[1],
                "curtailed_count": census[0],
                "mean": law.mean,
                "p90": law.p90,
                "block": law.block,
                "pass": law.passed,
                "mean_ten_cells": shared.mean,
                "p90_ten_cells": shared.p90,
            }
        )
    return rows


def peeking(population: int) -> list[Row]:
    """Errors of a suite at the edge of the limit when a fixed-sample 95 % bound is looked at while the run goes on."""
    test = WithoutReplacement(population, LIMIT, ALPHA, ALPHA)
    up, down = fixed_boundaries(population, LIMIT)
    none_up, none_down = [population + 1] * (population + 1), [-1] * (population + 1)
    rows: list[Row] = []
    for every in (1, 10):
        looks = [t > 0 and t % every == 0 for t in range(population + 1)]
        up_seen = [x if look else population + 1 for x, look in zip(up, looks, strict=True)]
        down_seen = [x if look else -1 for x, look in zip(down, looks, strict=True)]
        rows.append(
            {
                "population": population,
                "look": every,
                "false_block": stopping_law(up_seen, none_down, test.null_count).block,
                "false_pass": stopping_law(none_up, down_seen, test.null_count + 1).passed,
                "default_false_block": stopping_law(test.up, none_down, test.null_count).block,
                "default_false_pass": stopping_law(none_up, test.down, test.null_count + 1).passed,
            }
        )
    return rows


def fixed_sizes() -> list[Row]:
    """Fewest independent items at which "95 % upper bound below the limit" passes with power .9, and the hits it allows."""
    rows: list[Row] = []
    for limit, rate in product((0.05, 0.10, 0.20), (0.0, 0.01, 0.02, 0.05, 0.08)):
        if rate >= limit:
            continue
        allowed, n = -1, 0
        while allowed < 0 or float(bdtr(allowed, n, rate)) < 0.9:
            n += 1
            while allowed < n and clopper_pearson(allowed + 1, n, 1 - ALPHA)[1] < limit:
                allowed += 1
        rows.append({"limit": limit, "rate": rate, "items": n, "allowed": allowed})
    return rows


def limits() -> list[Row]:
    """What each limit asks of a suite: misses in a row that pass, hits in a row that block, mean items at small rates."""
    rows: list[Row] = []
    for limit in (0.02, 0.05, 0.10, 0.20):
        for population in (250, 500, 2000):
            test = WithoutReplacement(population, limit, ALPHA / 10, ALPHA)
            row: Row = {"limit": limit, "population": population, "allowed": test.null_count}
            row["misses_to_pass"] = next(t for t, s in enumerate(test.down) if s >= 0)
            row["hits_to_block"] = next(t for t, s in enumerate(test.up) if s <= t)
            for share in (0.0, 0.2, 0.5, 0.8):
                row[f"mean_at_{share}"] = expected_generations(test, share * limit).mean
            rows.append(row)
    return rows


def paired(rng: np.random.Generator) -> list[Row]:
    """Pairs until the regression test alarms, over random orders of suites with given shares of regressed and fixed items."""
    rows: list[Row] = []
    for population, regressed, fixed in (
        (250, 0.10, 0.02), (500, 0.07, 0.02), (500, 0.10, 0.02), (500, 0.10, 0.05), (500, 0.30, 0.02), (2000, 0.10, 0.02),
        (500, 0.05, 0.05), (2000, 0.05, 0.05), (500, 0.02, 0.02),
    ):  # fmt: skip
        b, c = round(regressed * population), round(fixed * population)
        items = np.array([1] * b + [-1] * c + [0] * (population - b - c))
        ends: list[int] = []
        for _ in range(ORDERS):
            log_e = np.array(log_e_regression(rng.permutation(items).tolist(), population))
            crossed = np.flatnonzero(log_e >= log_bar(ALPHA))
            ends.append(int(crossed[0]) + 1 if crossed.size else population + 1)
        alarmed = [end for end in ends if end <= population]
        rows.append(
            {
                "population": population,
                "regressed": b / population,
                "fixed": c / population,
                "orders": ORDERS,
                "alarm": len(alarmed) / ORDERS,
                "mean_pairs": float(np.minimum(ends, population).mean()),
            }
        )
    return rows


def saving(mean: float, population: float) -> str:
    """A mean with what it saves of the whole suite."""
    return f"{mean:.1f} ({100 * (1 - mean / population):.0f} %)"


def main_table(rows: Sequence[Row]) -> str:
    """Means until the decision, with savings."""
    shown = []
    for r in rows:
        n = int(r["population"])
        shown.append(
            {"rate": f"{r['rate']:.2f}", "whole suite (N)": n}
            | {"fixed-n bound, curtailed": saving(float(r["curtailed_bound"]), n)}
            | {"of it undecided": f"{100 * float(r['curtailed_bound_undecided']):.0f} %"}
            | {"count, curtailed": saving(float(r["curtailed_count"]), n)}
            | {"default test, α .05 / .05": saving(float(r["mean"]), n), "p90": r["p90"]}
            | {"blocks": f"{float(r['block']):.3f}", "block at .005": saving(float(r["mean_ten_cells"]), n)}
        )
    return table(shown)


def other_tables(found: dict[str, list[Row]]) -> list[str]:
    """Peeking, sizes, limits and the paired test."""
    looks = [
        {"N": r["population"], "look after every": r["look"], "bound: false block": f"{float(r['false_block']):.3f}"}
        | {"bound: false pass": f"{float(r['false_pass']):.3f}"}
        | {"default (every item): false block": f"{float(r['default_false_block']):.3f}"}
        | {"default: false pass": f"{float(r['default_false_pass']):.3f}"}
        for r in found["peeking"]
    ]
    needs = [
        {"limit": r["limit"], "N": r["population"], "allowed M0": r["allowed"], "misses in a row that pass": r["misses_to_pass"]}
        | {"hits in a row that block": r["hits_to_block"]}
        | {f"mean at {label}": f"{float(r[f'mean_at_{share}']):.0f}" for share, label in NEEDS}
        for r in found["limits"]
    ]
    pairs = [
        {"N": r["population"], "regressed": f"{float(r['regressed']):.2f}", "fixed": f"{float(r['fixed']):.2f}"}
        | {"alarm": f"{float(r['alarm']):.3f}", "mean pairs read": f"{float(r['mean_pairs']):.0f}"}
        for r in found["paired"]
    ]
    sizes = [
        {"limit": r["limit"], "true rate": r["rate"], "items": r["items"], "hits allowed": r["allowed"]}
        for r in found["fixed_sizes"]
    ]
    return [
        "Errors at the edge of the limit when a bound is looked at while the run goes on (exact):",
        table(looks),
        "Fewest independent items for a fixed-n pass with power .9 (95 % upper bound below the limit; exact):",
        table(sizes),
        "What each limit asks (block at .005, pass at .05; exact; last four columns: mean items, rate as a share of the limit):",
        table(needs),
        f"The paired regression test, α .05, margin 0 ({ORDERS} random orders each; with equal shares an alarm is false):",
        table(pairs),
    ]


NEEDS = ((0.0, "rate 0"), (0.2, "0.2 of it"), (0.5, "0.5 of it"), (0.8, "0.8 of it"))


def main(document: Path = DOCUMENT) -> None:
    """Measure, write, and print the default test's means."""
    began = time.perf_counter()
    found: dict[str, list[Row]] = {
        "against_fixed": [row for population in POPULATIONS for row in against_fixed(population)],
        "peeking": [row for population in (205, 250, 2000) for row in peeking(population)],
        "fixed_sizes": fixed_sizes(),
        "limits": limits(),
        "paired": paired(np.random.default_rng(SEED)),
    }
    where = machine("numpy", "scipy")
    seconds = round(time.perf_counter() - began, 1)
    head = {"machine": where, "seed": SEED, "alpha": ALPHA, "limit": LIMIT, "seconds": seconds}
    write("generations_to_verdict", head | found)
    parts = [f"{stated(where)} Limit {LIMIT}, α = {ALPHA} per side."]
    parts += [
        f"Mean items until the decision (saving), limit {LIMIT}; exact over all orders:",
        main_table(found["against_fixed"]),
    ]
    into_document(document, "generations_to_verdict", "\n\n".join(parts + other_tables(found)))
    for row in found["against_fixed"]:
        print(f"N {row['population']:>4}  rate {row['rate']:.2f}  mean {float(row['mean']):.1f}  p90 {row['p90']}")
    print(f"{seconds} s")


if __name__ == "__main__":
    main()
