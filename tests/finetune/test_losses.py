"""The multitask losses against plain loops over tokens, whole and cut into micro-batches; their gradients too."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from gate.finetune.losses import IGNORED, Loss, batch_loss, counts, row_coefficients, token_losses, trained_tokens

VOCABULARY, WIDTH, TASKS = 7, 6, 3
LOSSES: tuple[Loss, ...] = ("token_mean", "sample_mean", "task_mean")


def batch(seed: int, rows: int = 5, cells: tuple[int, ...] | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random logits; labels whose trained tokens differ in number by row; cells."""
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, WIDTH, VOCABULARY, generator=draw, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(VOCABULARY, (rows, WIDTH), generator=draw)
    for row in range(rows):
        labels[row, : 1 + row % (WIDTH - 1)] = IGNORED
    own = torch.tensor(cells) if cells else torch.randint(TASKS, (rows,), generator=draw)
    return logits, labels, own


def by_loops(loss: Loss, logits: torch.Tensor, labels: torch.Tensor, cells: torch.Tensor, weights: list[float]) -> float:
    """The same loss, written as its formula."""
    logits = logits.detach()
    per_row: list[tuple[int, list[float]]] = []
    for row, cell in enumerate(cells.tolist()):
        own = [
            -float(torch.log_softmax(logits[row, place - 1], -1)[labels[row, place]])
            for place in range(1, labels.shape[1])
            if labels[row, place] != IGNORED
        ]
        per_row.append((cell, own))
    if loss == "token_mean":
        return sum(sum(own) for _, own in per_row) / sum(len(own) for _, own in per_row)
    if loss == "sample_mean":
        return sum(sum(own) / len(own) for _, own in per_row) / len(per_row)
    total = 0.0
    present = sorted(set(cells.tolist()))
    for task in present:
        mine = [own for cell, own in per_row if cell == task]
        total += weights[task] * sum(map(sum, mine)) / sum(map(len, mine))
    return float(total / sum(weights[task] for task in present))


def in_parts(
    loss: Loss, logits: torch.Tensor, labels: torch.Tensor, cells: torch.Tensor, weights: list[float], size: int
) -> torch.Tensor:
    """The loss as a run computes it: counts of the whole, then part by part."""
    parts = [slice(start, start + size) for start in range(0, len(cells), size)]
    whole = sum((counts(labels[part], cells[part], TASKS) for part in parts), torch.zeros(2, TASKS, dtype=torch.float64))
    balance = torch.tensor(weights, dtype=torch.float64)
    found = torch.zeros((), dtype=torch.float64)
    for part in parts:
        losses, rows = token_losses(logits[part], labels[part])
        coefficients = row_coefficients(loss, whole, balance, cells[part], trained_tokens(labels[part]))
        found = found + batch_loss(losses, rows, coefficients)
    return found


@pytest.mark.parametrize(("loss", "seed", "size"), list(itertools.product(LOSSES, range(4), (1, 2, 5))))
def test_a_loss_is_its_formula_however_the_batch_is_cut(loss: Loss, seed: int, size: int) -> None:
    """Whole or in micro-batches of one or two rows, the value is the one of the loops, with unequal weights too."""
    logits, labels, cells = batch(seed)
    weights = [1.0, 0.5, 2.0]
    found = in_parts(loss, logits, labels, cells, weights, size).item()
    assert math.isclose(found, by_loops(loss, logits, labels, cells, weights), rel_tol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_does_not_depend_on_the_cut(loss: Loss) -> None:
    """The gradients of the parts add up to the whole's."""
    gradients = []
    for size in (5, 2):
        logits, labels, cells = batch(9)
        in_parts(loss, logits, labels, cells, [1.0, 1.0, 1.0], size).backward()  # type: ignore[no-untyped-call]
        assert logits.grad is not None
        gradients.append(logits.grad)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-8)


def test_a_tasks_say_does_not_grow_with_its_tokens() -> None:
    """Under the task mean a task repeated ten times weighs as before; under the token mean it does not."""
    logits, labels, cells = batch(3, rows=2, cells=(0, 1))
    many = [0] * 10 + [1]
    repeated = (logits[many], labels[many], cells[many])
    even = [1.0] * TASKS
    assert math.isclose(
        by_loops("task_mean", *repeated, even), in_parts("task_mean", logits, labels, cells, even, 2).item(), rel_tol=1e-6
    )
    assert not math.isclose(
        by_loops("token_mean", *repeated, even), in_parts("token_mean", logits, labels, cells, even, 2).item(), rel_tol=1e-3
    )


def test_token_weights_multiply_the_tokens_losses() -> None:
    """Weights of nought leave nothing, weights of two double the loss."""
    logits, labels, cells = batch(5)
    losses, rows = token_losses(logits, labels)
    whole = counts(labels, cells, TASKS)
    coefficients = row_coefficients("token_mean", whole, torch.ones(TASKS), cells, trained_tokens(labels))
    plain = batch_loss(losses, rows, coefficients).item()
    assert batch_loss(losses, rows, coefficients, torch.zeros_like(losses)).item() == 0
    assert math.isclose(batch_loss(losses, rows, coefficients, torch.full_like(losses, 2.0)).item(), 2 * plain, rel_tol=1e-6)
