"""Turns logits into probabilities: Platt scales per head, and how far off the probabilities are before and after.

In: logits of models that were not trained on the texts' sets, labels, weights. Out: `Scale`s, expected calibration errors,
reliability tables. Pure: numpy and scipy's optimiser, no I/O.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, log_expit, log_softmax
from sklearn.metrics import roc_auc_score

from guard_server.bundle_spec import Calibration, Scale
from guard_server.labels import TASKS, Direction, Task
from guard_server.training.scored import HARM, REFUSAL, Scored
from guard_server.training.weights import Flags, Floats, class_weights, set_weights

PRIOR: Final = 0.5
"""Declared share of positives that the probabilities assume: no true share is known, and thresholds don't depend on it."""
LEAST: Final = 50
"""Texts of either class that a task needs for a scale of its own; below it the scale comes from all tasks together."""
LEAST_AUROC: Final = 0.7
"""A task whose left-out scores rank worse takes scale and thresholds from all tasks together too: with its own sets left out, the
fold models did not know the task, so these scores say nothing of the model that ships, which has seen them all."""
BINS: Final = 15
_LOG_TEMPERATURE: Final = (-3.0, 3.0)


@dataclass(frozen=True, slots=True)
class Bin:
    """One line of a reliability table; shares are weighted."""

    low: float
    high: float
    share: float
    """Of all texts."""
    predicted: float
    observed: float


@dataclass(frozen=True, slots=True)
class Fit:
    """How one head's scale was fitted."""

    head: str
    positives: int
    negatives: int
    pooled: bool
    """Fitted on all tasks together, because this one has too few texts of a class or none that rank."""
    error_before: float | None
    """Expected calibration error of sigmoid(logit) on the same texts; None where they hold one class alone."""
    error_after: float | None
    table: tuple[Bin, ...]


def fit_scale(logits: Floats, positive: Flags, weights: Floats) -> Scale:
    """Temperature and bias that minimise the weighted log loss; raises `ValueError` where a class is missing."""
    if positive.all() or not positive.any():
        msg = "a scale needs texts of both classes"
        raise ValueError(msg)
    sign = np.where(positive, 1.0, -1.0)
    total = weights.sum()

    def loss(parameters: Floats) -> float:
        value = logits * np.exp(-parameters[0]) + parameters[1]
        return float(-(weights * log_expit(sign * value)).sum() / total)

    # Bounded: on separable logits the loss has no minimum.
    found = minimize(loss, np.zeros(2), method="L-BFGS-B", bounds=[_LOG_TEMPERATURE, (-10, 10)])
    return Scale(temperature=float(np.exp(found.x[0])), bias=float(found.x[1]))


def fit_temperature(logits: Floats, labels: NDArray[np.int64], weights: Floats) -> float:
    """Temperature of a softmax head: logits [n, classes], labels [n] in 0..classes-1."""

    def loss(log_temperature: float) -> float:
        likelihood = log_softmax(logits / np.exp(log_temperature), axis=1)[np.arange(len(labels)), labels]
        return float(-(weights * likelihood).sum() / weights.sum())

    found = minimize_scalar(loss, bounds=_LOG_TEMPERATURE, method="bounded")
    return float(np.exp(found.x))


def probabilities(logits: Floats, scale: Scale | None = None) -> Floats:
    """Calibrated probabilities [n], as `Scale.probability` gives them one by one; sigmoid where no scale is given."""
    return np.asarray(expit(logits if scale is None else logits / scale.temperature + scale.bias), dtype=np.float64)


def reliability(predicted: Floats, positive: Flags, weights: Floats) -> tuple[Bin, ...]:
    """The reliability table: bins of equal width, empty ones left out."""
    index = np.minimum((predicted * BINS).astype(np.int64), BINS - 1)
    table = []
    for number in np.unique(index):
        inside = index == number
        mass = weights[inside].sum()
        if mass > 0:
            table.append(
                Bin(
                    low=float(number / BINS),
                    high=float((number + 1) / BINS),
                    share=float(mass / weights.sum()),
                    predicted=float((predicted[inside] * weights[inside]).sum() / mass),
                    observed=float((positive[inside] * weights[inside]).sum() / mass),
                )
            )
    return tuple(table)


def expected_calibration_error(table: Sequence[Bin]) -> float:
    """The weighted mean distance between predicted and observed share."""
    return float(sum(row.share * abs(row.predicted - row.observed) for row in table))


def calibrate(scored: Scored, *, prior: float = PRIOR) -> tuple[Calibration, tuple[Fit, ...]]:
    """Scales of all heads from out-of-fold logits, and how they were fitted.

    A task with fewer than `LEAST` texts of a class, or whose left-out scores rank worse than `LEAST_AUROC`, takes its
    scale from all tasks' texts, read at its own column. Raises
    `ValueError` where a head has no texts of both classes at all.
    """
    prompts = scored.about_harm(Direction.PROMPT)
    harm: dict[Task, Scale] = {}
    fits: list[Fit] = []
    for task in TASKS:
        own = scored.about_harm(Direction.PROMPT, task)
        enough = min(int(own.harmful().sum()), int((~own.harmful()).sum())) >= LEAST
        pooled = not (enough and ranks(own, Direction.PROMPT, task))
        harm[task] = _task_scale(prompts if pooled else own, task, prior)
        risk = own.logits.risk(Direction.PROMPT, task)
        fits.append(_judge(f"harm:{task}", risk, own.harmful(), own.datasets(), harm[task], pooled))
    answers, refusals = scored.about_harm(Direction.RESPONSE), scored.about_refusal()
    heads = {
        "response_harm": (answers.logits.response[:, HARM], answers.harmful(), answers.datasets()),
        "refusal": (refusals.logits.response[:, REFUSAL], refusals.refused(), refusals.datasets()),
    }
    scales = {name: _scale(*head, prior) for name, head in heads.items()}
    fits.extend(_judge(name, *head, scales[name], False) for name, head in heads.items())
    calibration = Calibration(
        harm=harm,
        response_harm=scales["response_harm"],
        refusal=scales["refusal"],
        task_temperature=fit_temperature(
            prompts.logits.task,
            np.array([TASKS.index(text.task) for text in prompts.texts], dtype=np.int64),
            set_weights(prompts.datasets()),
        ),
    )
    return calibration, tuple(fits)


def ranks(own: Scored, direction: Direction, task: Task) -> bool:
    """Whether the left-out scores of a task tell harmful from harmless; sets weigh the same from 100 texts on."""
    harmful, risk = own.harmful(), own.logits.risk(direction, task)
    return float(roc_auc_score(harmful, risk, sample_weight=class_weights(own.datasets(), harmful, PRIOR))) >= LEAST_AUROC


def _task_scale(scored: Scored, task: Task, prior: float) -> Scale:
    return _scale(scored.logits.risk(Direction.PROMPT, task), scored.harmful(), scored.datasets(), prior)


def _scale(logits: Floats, positive: Flags, datasets: Sequence[str], prior: float) -> Scale:
    return fit_scale(logits, positive, class_weights(datasets, positive, prior))


def _judge(head: str, logits: Floats, positive: Flags, datasets: Sequence[str], scale: Scale, pooled: bool) -> Fit:
    counts = int(positive.sum()), int((~positive).sum())
    if not all(counts):
        return Fit(head, *counts, pooled, None, None, ())
    weights = class_weights(datasets, positive, PRIOR)
    after = reliability(probabilities(logits, scale), positive, weights)
    before = expected_calibration_error(reliability(probabilities(logits), positive, weights))
    return Fit(head, *counts, pooled, before, expected_calibration_error(after), after)
