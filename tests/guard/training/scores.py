"""Simulated scores for the tests of what is fitted on scores: texts of chosen sets and labels with chosen harm logits."""

import numpy as np
from numpy.typing import NDArray

from guard_server.labels import CATEGORIES, TASKS, Direction, Task
from guard_server.training.scored import Logits, Scored, Text


def logits(harm: NDArray[np.float64], response: NDArray[np.float64] | None = None) -> Logits:
    """Logits whose harm columns all equal `harm` [n]; both columns of the response head equal `response`, or `harm`."""
    count = len(harm)
    answer = harm if response is None else response
    return Logits(
        task=np.tile(np.eye(len(TASKS))[0], (count, 1)),
        harm=np.tile(harm[:, None], (1, len(TASKS))),
        category=np.zeros((count, len(CATEGORIES))),
        response=np.tile(answer[:, None], (1, 2)),
    )


def scored(
    harm: NDArray[np.float64],
    harmful: NDArray[np.bool_],
    *,
    task: Task = Task.TEXT_GENERATION,
    direction: Direction = Direction.PROMPT,
    sets: int = 4,
) -> Scored:
    """Texts dealt to `sets` sets in turn; answers are labelled refused where they are labelled harmful."""
    answer = direction is Direction.RESPONSE
    texts = tuple(
        Text(
            id=str(number),
            dataset=f"set{number % sets}",
            direction=direction,
            text=f"text {number}",
            context="prompt" if answer else None,
            task=task,
            harmful=bool(label),
            refused=bool(label) if answer else None,
        )
        for number, label in enumerate(harmful)
    )
    return Scored(texts, logits(harm))


def joined(*parts: Scored) -> Scored:
    """All parts one after the other."""
    return Scored(tuple(text for part in parts for text in part.texts), Logits.joined(part.logits for part in parts))
