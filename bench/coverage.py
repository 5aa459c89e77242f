"""How often the intervals hold what they say: `python bench/coverage.py` writes results/coverage.json and docs/statistics.md.

Simulated: Korn-Graubard against Wilson on clustered items; Lang-Reiczigel's judge correction alone and on clustered items.
Exact: how often the confidence sequence ever leaves the suite's rate, the worst over every number of hits.
Cells below FLOOR are listed, not hidden.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.results import ROOT, into_document, machine, stated, table, write
from gate.sequential import WithoutReplacement, stopping_law
from gate.stats import Audit, effective_size, judge_corrected, korn_graubard, wilson

SEED = 20260118
REPLICATES = 2000
FLOOR = 0.93
LEVEL = 0.975
DOCUMENT = ROOT / "docs" / "statistics.md"
Row = dict[str, float | int | str]
Counts = npt.NDArray[np.int64]


def draw(rng: np.random.Generator, rate: float, icc: float, clusters: int) -> npt.NDArray[np.float64]:
    """Rates of (replicates, clusters): beta with mean `rate` and intra-cluster correlation `icc`, one value repeated at 0."""
    shape = (REPLICATES, clusters)
    if icc == 0:
        return np.full(shape, rate)
    return rng.beta(rate * (1 / icc - 1), (1 - rate) * (1 / icc - 1), size=shape)


def score(bounds: Sequence[tuple[float, float]], truth: float) -> tuple[float, float, float, float]:
    """Two-sided coverage, mean width, and the one-sided coverage of the lower and of the upper bound."""
    lower, upper = np.array(bounds).T
    inside = (lower <= truth) & (truth <= upper)
    return float(inside.mean()), float((upper - lower).mean()), float((lower <= truth).mean()), float((truth <= upper).mean())


def clustered(rng: np.random.Generator) -> list[Row]:
    """Korn-Graubard by behaviour and Wilson on the items, over rate x ICC x behaviours x items each."""
    rows: list[Row] = []
    for rate, icc, clusters, size in product((0.02, 0.05, 0.10, 0.30), (0.0, 0.3, 0.6), (20, 50, 100), (4, 10)):
        hits = rng.binomial(size, draw(rng, rate, icc, clusters))
        graubard = score([korn_graubard(row, [size] * clusters, LEVEL) for row in hits.tolist()], rate)
        plain = score([wilson(int(row.sum()), clusters * size, LEVEL) for row in hits], rate)
        one_sided = score([korn_graubard(row, [size] * clusters, 0.95) for row in hits.tolist()], rate)
        rows.append(
            {
                "rate": rate,
                "icc": icc,
                "behaviours": clusters,
                "items": size,
                "coverage": graubard[0],
                "width": graubard[1],
                "lower_side_95": one_sided[2],
                "upper_side_95": one_sided[3],
                "wilson_coverage": plain[0],
                "wilson_width": plain[1],
            }
        )
    return rows


def corrected(
    rng: np.random.Generator, hits: Counts, sizes: npt.NDArray[np.float64], truth: float, judge: tuple[float, float], audited: int
) -> tuple[float, float, float, float]:
    """Score of the judge correction on verdict counts, each replicate with an audit of its own."""
    right = rng.binomial(audited, judge, size=(hits.size, 2))
    bounds = []
    for k, n, (x1, x0) in zip(hits.tolist(), sizes.tolist(), right.tolist(), strict=True):
        found = judge_corrected(k, n, Audit(x1, audited), Audit(x0, audited), LEVEL)
        bounds.append((found.lower, found.upper))
    return score(bounds, truth)


def judged(rng: np.random.Generator) -> list[Row]:
    """Lang-Reiczigel on independent items, over judges, rates, sample sizes and audit sizes."""
    rows: list[Row] = []
    for (se, sp), rate, n, audited in product(((0.9, 0.95), (0.8, 0.9), (0.95, 0.74)), (0.02, 0.1, 0.3), (205, 2000), (100, 400)):
        seen = rng.binomial(n, rate * se + (1 - rate) * (1 - sp), size=REPLICATES)
        found = corrected(rng, seen, np.full(REPLICATES, float(n)), rate, (se, sp), audited)
        plain = score([wilson(int(k), n, LEVEL) for k in seen], rate)
        rows.append(
            {
                "sensitivity": se,
                "specificity": sp,
                "rate": rate,
                "n": n,
                "audited_per_class": audited,
                "coverage": found[0],
                "width": found[1],
                "lower_side": found[2],
                "upper_side": found[3],
                "uncorrected_coverage": plain[0],
            }
        )
    return rows


def judged_clusters(rng: np.random.Generator) -> list[Row]:
    """The same on clustered items, with the effective sample size in place of the items (judge .90/.95, audits of 100)."""
    rows: list[Row] = []
    for (clusters, size), rate, icc in product(((50, 4), (50, 10), (200, 10)), (0.05, 0.1, 0.3), (0.0, 0.3)):
        true = rng.binomial(size, draw(rng, rate, icc, clusters))
        seen = rng.binomial(true, 0.9) + rng.binomial(size - true, 0.05)
        n_eff = np.array([effective_size(row, np.full(clusters, size)) for row in seen])
        hits = seen.sum(axis=1) / (clusters * size) * n_eff
        found = corrected(rng, hits, n_eff, rate, (0.9, 0.95), 100)
        rows.append(
            {
                "behaviours": clusters,
                "items": size,
                "rate": rate,
                "icc": icc,
                "coverage": found[0],
                "width": found[1],
                "lower_side": found[2],
                "upper_side": found[3],
            }
        )
    return rows


def sequential() -> list[Row]:
    """Exact: the largest probability, over every number of hits M, that a bound of the confidence sequence ever excludes M/N."""
    rows: list[Row] = []
    for population, alpha in product((205, 250, 500), (0.05, 0.005)):
        worst, where = 0.0, 0
        for hits in range(population):
            test = WithoutReplacement(population, hits / population, alpha, alpha)
            wrong = stopping_law(test.up, [-1] * (population + 1), hits).block
            worst, where = max((worst, where), (wrong, hits))
        rows.append({"population": population, "alpha": alpha, "worst": worst, "at_hits": where})
    return rows


def show(value: float) -> str:
    """A share as in the tables, marked where it is below the floor."""
    return f"{value:.3f}" if value >= FLOOR else f"**{value:.3f}**"


def markdown(found: dict[str, list[Row]], foot: str) -> str:
    """The tables of docs/statistics.md."""
    cells = [row for row in found["clustered"] if row["items"] == 10]
    first = [
        {"rate": r["rate"], "ICC": r["icc"], "behaviours × items": f"{r['behaviours']} × {r['items']}"}
        | {"Wilson on items (width)": f"{float(r['wilson_coverage']):.3f} ({float(r['wilson_width']):.3f})"}
        | {"Korn–Graubard (width)": f"{show(float(r['coverage']))} ({float(r['width']):.3f})"}
        | {"lower / upper bound at 95 %": f"{float(r['lower_side_95']):.3f} / {float(r['upper_side_95']):.3f}"}
        for r in cells
    ]
    second = []
    for r in found["judged"]:
        row = {"Se / Sp": f"{r['sensitivity']} / {r['specificity']}", "rate": r["rate"], "n": r["n"]}
        row |= {"audited per class": r["audited_per_class"], "uncorrected Wilson": f"{float(r['uncorrected_coverage']):.3f}"}
        second.append(row | {"Lang–Reiczigel (width)": f"{show(float(r['coverage']))} ({float(r['width']):.3f})"})
    third = [
        {"behaviours × items": f"{r['behaviours']} × {r['items']}", "rate": r["rate"], "ICC": r["icc"]}
        | {"Lang–Reiczigel on n_eff (width)": f"{show(float(r['coverage']))} ({float(r['width']):.3f})"}
        for r in found["judged_clusters"]
    ]
    fourth = [
        {"N": r["population"], "α per side": r["alpha"], "worst exact error": f"{float(r['worst']):.4f}", "at M": r["at_hits"]}
        for r in found["sequential"]
    ]
    low = sum(float(r["coverage"]) < FLOOR for part in ("clustered", "judged", "judged_clusters") for r in found[part])
    total = sum(len(found[part]) for part in ("clustered", "judged", "judged_clusters"))
    return "\n\n".join(
        [
            f"{foot} {REPLICATES} replicates per cell, two-sided 95 %. {low} of {total} cells are below {FLOOR} "
            "(bold where shown; all cells, also those with 4 items per behaviour, in bench/results/coverage.json).",
            "Clustered items, rate of the population of behaviours; last column: each one-sided 95 % bound by itself:",
            table(first),
            "Judge correction, independent items:",
            table(second),
            "Judge correction (Se .90, Sp .95, 100 audited per class), clustered items:",
            table(third),
            "Confidence sequence: largest exact probability, over all M, that a bound ever excludes the suite's rate:",
            table(fourth),
        ]
    )


def main(document: Path = DOCUMENT) -> None:
    """Measure, write, and name the cells below the floor."""
    began = time.perf_counter()
    rng = np.random.default_rng(SEED)
    found = {
        "clustered": clustered(rng),
        "judged": judged(rng),
        "judged_clusters": judged_clusters(rng),
        "sequential": sequential(),
    }
    where = machine("numpy", "scipy")
    low = [
        {"part": part, **row}
        for part in ("clustered", "judged", "judged_clusters")
        for row in found[part]
        if float(row["coverage"]) < FLOOR
    ]
    seconds = round(time.perf_counter() - began, 1)
    head = {"machine": where, "seed": SEED, "replicates": REPLICATES, "level_per_side": LEVEL, "floor": FLOOR, "seconds": seconds}
    write("coverage", head | {"below_floor": low} | found)
    into_document(document, "coverage", markdown(found, stated(where)))
    for row in low:
        print("below the floor:", row)
    print(f"{len(low)} cells below {FLOOR}; {seconds} s")


if __name__ == "__main__":
    main()
