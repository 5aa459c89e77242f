"""The laid-down order: shares are met, refusals are dealt evenly, nothing held out is trained on, and a seed is a seed."""

from __future__ import annotations

from collections import Counter

import pytest

from gate.finetune.mixing import grouped, hold_out, lay_down
from gate.finetune.recipe import Evaluation, Recipe
from tests.finetune.recipes import LEAST


def recipe(**changes: object) -> Recipe:
    """A recipe of two sources and refusals."""
    told = {**LEAST, "data": [{"path": "a"}, {"path": "b"}], "batch": 5, **changes}
    return Recipe.model_validate(told)


MIX = {"data": [{"path": "s"}], "share": 0.2}
SOURCES = [0] * 60 + [1] * 20 + [2] * 30
CELLS = ["a/task"] * 60 + ["b/task"] * 20 + ["a/safety"] * 25 + ["b/safety"] * 5
LENGTHS = [10 + i % 7 for i in range(110)]


def order_of(told: Recipe, processes: int = 1) -> tuple[int, ...]:
    """The rows of a run."""
    return lay_down(told, CELLS, SOURCES, LENGTHS, range(110), processes).order


def test_one_epoch_has_every_row_once_and_the_share_of_refusals() -> None:
    """80 rows and a share of .2 make 100; the scarcer cell's refusals are repeated, so both tasks have ten."""
    plan = lay_down(recipe(safety=MIX), CELLS, SOURCES, LENGTHS, range(110), 1)
    seen = Counter(plan.order)
    assert (plan.epoch_rows, plan.steps) == (100, 20)
    assert [seen[i] for i in range(80)] == [1] * 80
    assert Counter(CELLS[i] for i in plan.order if i >= 80) == {"a/safety": 10, "b/safety": 10}


def test_shares_of_sources_are_met_without_repeating_a_row() -> None:
    """With equal shares the larger source gives as many rows as the smaller one has."""
    shares = [{"path": "a", "share": 0.5}, {"path": "b", "share": 0.5}]
    seen = Counter(order_of(recipe(data=shares)))
    assert sum(count for row, count in seen.items() if row < 60) == 20
    assert sum(count for row, count in seen.items() if 60 <= row < 80) == 20
    assert max(seen.values()) == 1


def test_steps_are_counted_over_batch_accumulation_and_processes() -> None:
    """The same epoch takes a quarter of the steps where four times as many rows make one."""
    assert lay_down(recipe(), CELLS, SOURCES, LENGTHS, range(80), 1).steps == 16
    assert lay_down(recipe(accumulation=2), CELLS, SOURCES, LENGTHS, range(80), 2).steps == 4
    assert len(order_of(recipe(max_steps=7), processes=2)) == 70


def test_the_order_is_the_seeds_and_each_epoch_has_its_own() -> None:
    """Equal seeds give equal orders, other seeds others; the second time through differs from the first."""
    twice = order_of(recipe(epochs=2))
    assert twice == order_of(recipe(epochs=2))
    assert twice != order_of(recipe(epochs=2, seed=1))
    assert twice[:80] != twice[80:160]


def test_grouping_by_length_keeps_every_row_and_makes_steps_alike() -> None:
    """The rows are the same; within a step lengths differ less than before."""
    order = order_of(recipe(epochs=1))
    alike = grouped(order, LENGTHS, 5, 0)
    assert sorted(alike) == sorted(order)

    def spread(rows: list[int]) -> int:
        steps = [[LENGTHS[i] for i in rows[k : k + 5]] for k in range(0, len(rows), 5)]
        return sum(max(step) - min(step) for step in steps)

    assert spread(alike) < spread(list(order)) / 2


@pytest.mark.parametrize(("share", "most", "wanted"), [(0.1, 100, [8, 2]), (0.001, 100, [1, 1]), (0.5, 3, [3, 3])])
def test_every_cell_gives_its_share_to_the_held_out_rows(share: float, most: int, wanted: list[int]) -> None:
    """At least one of each cell, at most the limit, and no row on both sides."""
    cells = ["a"] * 80 + ["b"] * 20
    rows = hold_out(cells, Evaluation(share=share, rows_per_cell=most), 0)
    held = Counter(cells[i] for i in rows.held_out)
    assert [held["a"], held["b"]] == wanted
    assert sorted(rows.train + rows.held_out) == list(range(100))


def test_a_cell_of_one_row_is_trained_on() -> None:
    """Nothing is held out of a cell that would be emptied by it."""
    assert hold_out(["a", "b", "b"], Evaluation(share=0.9), 0).train[0] == 0
