"""CoBa's weights against a reference written with loops and explicit least squares, and the properties they are for."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from gate.finetune.coba import coba_weights


def naive(history: list[list[float]], warm_up: int, window: int, tau: float) -> list[float]:
    """The formulas, one task and one step at a time."""
    tasks = len(history[0])
    if len(history) < warm_up:
        return [1 / tasks] * tasks
    slopes: list[list[float]] = []
    for end in range(warm_up, len(history) + 1):
        part = history[max(0, end - window) : end]
        line = []
        for task in range(tasks):
            design = np.array([[step, 1.0] for step in range(len(part))])
            ratios = np.array([row[task] / history[0][task] for row in part])
            line.append(float(np.linalg.lstsq(design, ratios, rcond=None)[0][0]))
        slopes.append(line)
    slopes = slopes[-window:]
    n, now = len(slopes), slopes[-1]

    def softmax(values: list[float]) -> list[float]:
        raised = [math.exp(value - max(values)) for value in values]
        return [value / sum(raised) for value in raised]

    relative = softmax([tasks * a / sum(abs(b) for b in now) for a in now])
    absolute = softmax([-n * now[i] / sum(abs(line[i]) for line in slopes) for i in range(tasks)])
    worst = [max(line) for line in slopes]
    share = min(1.0, n * softmax([-tau * n * a / sum(abs(b) for b in worst) for a in worst])[-1])
    mixed = softmax([tasks * (share * r + (1 - share) * a) for r, a in zip(relative, absolute, strict=True)])
    floored = [max(weight, 1 / (10 * tasks)) for weight in mixed]
    return [weight / sum(floored) for weight in floored]


@pytest.mark.parametrize("length", [3, 5, 9, 24, 40])
@pytest.mark.parametrize("tasks", [2, 3, 5])
def test_the_weights_are_those_of_the_formulas(length: int, tasks: int) -> None:
    """Random falling losses, before, at and long after the warm-up, with a window shorter than the history."""
    draw = random.Random(f"{length}:{tasks}")
    history = [[math.exp(-0.02 * step * (task + 1)) + draw.uniform(0, 0.1) for task in range(tasks)] for step in range(length)]
    found = coba_weights(history, warm_up=5, window=12, tau=5.0)
    assert found == pytest.approx(naive(history, 5, 12, 5.0), rel=1e-9)
    assert sum(found) == pytest.approx(1.0)


def test_before_the_warm_up_every_task_weighs_the_same() -> None:
    """Four measurements of a warm-up of five leave the weights equal."""
    assert coba_weights([[1.0, 2.0]] * 4, warm_up=5, window=9, tau=5) == [0.5, 0.5]


def test_the_slower_of_two_falling_tasks_weighs_more() -> None:
    """While all losses fall, weight goes to the task that falls least."""
    history = [[1 - 0.02 * step, 1 - 0.002 * step] for step in range(30)]
    fast, slow = coba_weights(history, warm_up=10, window=20, tau=5)
    assert slow > fast


def test_a_diverging_task_loses_weight() -> None:
    """A task whose held-out loss begins to rise is held back."""
    falling = [[1 - 0.01 * step, 1 - 0.01 * step] for step in range(30)]
    rising = falling + [[0.7 - 0.01 * step, 0.7 + 0.05 * step] for step in range(1, 20)]
    steady, diverging = coba_weights(rising, warm_up=10, window=20, tau=5)
    assert diverging < steady


def test_flat_losses_divide_by_nothing() -> None:
    """No slope at all gives finite, equal weights."""
    assert coba_weights([[1.0, 2.0, 3.0]] * 12, warm_up=5, window=9, tau=5) == pytest.approx([1 / 3] * 3)
