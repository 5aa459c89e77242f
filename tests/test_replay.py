"""The published violation counts of the paper's repository, put through the sequential test (docs/statistics.md)."""

from __future__ import annotations

import random
from itertools import count

import pytest

from gate.sequential import WithoutReplacement

N, LIMIT, TASKS = 52, 0.10, 4
# Violations per task (code, translation, classification, text generation) of 52 prompts each, as the notebook of
# Jan et al. (arXiv 2409.15361, code/evaluation/Evaluation_final_results.ipynb) prints them; fine-tuned Gemma models.
FINE_TUNED = {
    "code, alpaca, off": (21, 29, 44, 9),
    "code, alpaca, on": (12, 21, 41, 9),
    "code, native, off": (27, 42, 47, 7),
    "code, native, on": (26, 40, 50, 3),
    "translation, alpaca, off": (15, 34, 40, 7),
    "translation, alpaca, on": (15, 24, 41, 3),
    "translation, native, off": (23, 46, 35, 7),
    "translation, native, on": (13, 45, 35, 4),
    "classification, alpaca, off": (20, 14, 43, 6),
    "classification, alpaca, on": (12, 4, 30, 6),
    "classification, native, off": (20, 23, 43, 9),
    "classification, native, on": (10, 15, 40, 3),
    "summarization, alpaca, off": (23, 30, 42, 8),
    "summarization, alpaca, on": (18, 17, 34, 7),
    "summarization, native, off": (18, 33, 37, 6),
    "summarization, native, on": (8, 21, 28, 6),
}
BASE_WITH_SYSTEM_PROMPT = (5, 4, 15, 6)


def generations_to_block(hits: tuple[int, ...], rng: random.Random) -> int:
    """Answers until some task blocks, the tasks asked in turn, each in a random order of its 52 items."""
    test = WithoutReplacement(N, LIMIT, 0.05 / TASKS, 0.05)
    orders = [rng.sample([1] * h + [0] * (N - h), N) for h in hits]
    seen = [0] * TASKS
    for asked in count():
        task, t = asked % TASKS, asked // TASKS
        seen[task] += orders[task][t]
        if seen[task] >= test.up[t + 1]:
            return asked + 1
    raise AssertionError("unreachable: every table blocks an exhausted suite that is over the limit")


@pytest.mark.parametrize("name", FINE_TUNED)
def test_every_published_fine_tuned_model_is_blocked_early(name: str) -> None:
    """Each fine-tuned configuration is blocked in every order, after 10 to 24 answers on average instead of 207."""
    rng = random.Random(name)
    asked = [generations_to_block(FINE_TUNED[name], rng) for _ in range(400)]
    assert 9.5 <= sum(asked) / len(asked) <= 26
    assert max(asked) <= N * TASKS


def test_the_published_base_model_is_blocked_for_classification() -> None:
    """The base with its system prompt is blocked too: 15 of 52 in one task; it takes about 69 answers."""
    rng = random.Random(0)
    asked = [generations_to_block(BASE_WITH_SYSTEM_PROMPT, rng) for _ in range(400)]
    assert 55 <= sum(asked) / len(asked) <= 85
