"""Which rows go through the model, and in what order: examples' cells, sources and lengths come in, row numbers go out. Pure.

The order of a whole run is laid down before its first step, from the recipe's seed alone; a resumed run goes on in it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gate.finetune.recipe import Evaluation, Recipe

BUCKET = 20
"""Steps whose rows are sorted by length together."""


class Rows(NamedTuple):
    """The examples' numbers, parted."""

    train: tuple[int, ...]
    held_out: tuple[int, ...]


class Plan(NamedTuple):
    """A run, laid down."""

    order: tuple[int, ...]
    """Row numbers, one per row that goes through the model."""
    steps: int
    epoch_rows: int
    """Rows of one time through the data."""


def hold_out(cells: Sequence[str], evaluation: Evaluation | None, seed: int) -> Rows:
    """Part off the evaluation's share of every cell: at least one row of a cell that has two, at most `rows_per_cell`."""
    if evaluation is None:
        return Rows(tuple(range(len(cells))), ())
    held: set[int] = set()
    for cell in sorted(set(cells)):
        rows = [i for i, own in enumerate(cells) if own == cell]
        wanted = min(max(1, round(evaluation.share * len(rows))), evaluation.rows_per_cell, len(rows) - 1)
        held.update(random.Random(f"{seed}:held-out:{cell}").sample(rows, wanted))
    return Rows(tuple(i for i in range(len(cells)) if i not in held), tuple(sorted(held)))


def lay_down(
    recipe: Recipe, cells: Sequence[str], sources: Sequence[int], lengths: Sequence[int], train: Sequence[int], processes: int
) -> Plan:
    """The whole run's rows. `cells`, `sources` and `lengths` are by row number; `train` are those to use."""
    per_step = recipe.batch * recipe.accumulation * processes
    safe = [i for i in train if sources[i] >= len(recipe.data)]
    useful = [i for i in train if sources[i] < len(recipe.data)]
    utility = _streams(recipe, sources, useful)
    mixed = sum(count for _, count in utility)
    share = recipe.safety.share if recipe.safety is not None and safe else 0.0
    refusals = max(1, round(mixed * share / (1 - share))) if share else 0
    streams = [_endless(rows, f"{recipe.seed}:{cell}") for cell, rows in _by_cell(cells, safe)]
    epoch_rows = mixed + refusals
    steps = recipe.max_steps or max(1, math.ceil((recipe.epochs or 1.0) * epoch_rows / per_step))
    order: list[int] = []
    turn = 0
    while len(order) < steps * per_step:
        epoch = [next(stream) for stream, count in utility for _ in range(count)]
        for _ in range(refusals):
            epoch.append(next(streams[turn % len(streams)]))
            turn += 1
        random.Random(f"{recipe.seed}:epoch:{len(order)}").shuffle(epoch)
        order += epoch
    order = order[: steps * per_step]
    if recipe.group_by_length:
        order = grouped(order, lengths, per_step, recipe.seed)
    return Plan(tuple(order), steps, epoch_rows)


def grouped(order: Sequence[int], lengths: Sequence[int], per_step: int, seed: int) -> list[int]:
    """The same rows so that those of a step are alike in length; the steps of a bucket come in an order drawn by the seed."""
    out: list[int] = []
    for start in range(0, len(order), BUCKET * per_step):
        rows = sorted(order[start : start + BUCKET * per_step], key=lambda i: lengths[i])
        steps = [rows[i : i + per_step] for i in range(0, len(rows), per_step)]
        random.Random(f"{seed}:bucket:{start}").shuffle(steps)
        out += [row for step in steps for row in step]
    return out


def _streams(recipe: Recipe, sources: Sequence[int], useful: Sequence[int]) -> list[tuple[Iterator[int], int]]:
    """For every source an endless stream of its rows, and how many of them an epoch takes.

    Without shares all of them; with shares as many as none has to be repeated for.
    """
    rows = [[i for i in useful if sources[i] == place] for place in range(len(recipe.data))]
    shares = [source.share or 0.0 for source in recipe.data]
    counts = [len(own) for own in rows]
    if any(shares):
        whole = min(len(own) / share for own, share in zip(rows, shares, strict=True))
        counts = [max(1, round(whole * share)) if own else 0 for own, share in zip(rows, shares, strict=True)]
    return [
        (_endless(own, f"{recipe.seed}:source:{place}"), count)
        for place, (own, count) in enumerate(zip(rows, counts, strict=True))
        if count
    ]


def _by_cell(cells: Sequence[str], rows: Sequence[int]) -> list[tuple[str, list[int]]]:
    return [(cell, [i for i in rows if cells[i] == cell]) for cell in sorted({cells[i] for i in rows})]


def _endless(rows: Sequence[int], seed: str) -> Iterator[int]:
    """The rows again and again, each time in another order."""
    draw = random.Random(seed)
    while True:
        yield from draw.sample(rows, len(rows))
