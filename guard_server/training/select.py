"""Figures by which recipes are compared: from out-of-fold scores to a short table. Pure.

All figures weigh sets, not texts: a set counts as at most 100 texts, our own material together at most half (`weights`).
"""

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from guard_server.labels import TASKS, Direction, Task
from guard_server.training.scored import HARM, REFUSAL, Scored
from guard_server.training.weights import Flags, Floats, set_weights


@dataclass(frozen=True, slots=True)
class Figures:
    """How well scores part two classes."""

    positive: int
    negative: int
    auroc: float
    precision: float
    """Average precision."""
    recall_1: float
    """Recall at 1 % false positives."""
    recall_5: float
    flagged: float
    """Share of the negatives at or over the threshold of 80 % recall."""

    def line(self) -> str:
        """One line of a table."""
        return (
            f"{self.positive:6d} {self.negative:6d}   {self.auroc:.3f}  {self.precision:.3f}"
            f"   {self.recall_1:.2f}   {self.recall_5:.2f}   {self.flagged:.2f}"
        )


def figures(scores: Floats, positive: Flags, weights: Floats) -> Figures | None:
    """Weighted figures; None where a class is empty."""
    if positive.all() or not positive.any():
        return None
    return Figures(
        int(positive.sum()),
        int((~positive).sum()),
        float(roc_auc_score(positive, scores, sample_weight=weights)),
        float(average_precision_score(positive, scores, sample_weight=weights)),
        share_over(scores[positive], weights[positive], quantile(scores[~positive], weights[~positive], 0.99)),
        share_over(scores[positive], weights[positive], quantile(scores[~positive], weights[~positive], 0.95)),
        share_over(scores[~positive], weights[~positive], quantile(scores[positive], weights[positive], 0.20)),
    )


def quantile(values: Floats, weights: Floats, share: float) -> float:
    """The least value under or at which at least `share` of the weight lies."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(values[order[min(int(np.searchsorted(reached, share)), len(values) - 1)]])


def share_over(values: Floats, weights: Floats, threshold: float) -> float:
    """The share of the weight that lies over a threshold."""
    return float(weights[values > threshold].sum() / weights.sum())


def harm_scores(scored: Scored) -> Floats:
    """Of each text: the logit of harm given its own task, or of harm in the answer, [n]."""
    return np.array(
        [
            scored.logits.harm[at, TASKS.index(text.task)]
            if text.direction is Direction.PROMPT
            else scored.logits.response[at, HARM]
            for at, text in enumerate(scored.texts)
        ]
    )


def table(scored: Scored) -> dict[str, Figures | None]:
    """Figures per task, over all prompts (foreign sets alone and with our own), of answers' harm and of refusal."""
    prompts = scored.about_harm(Direction.PROMPT)
    foreign = prompts.where(np.array([not text.own for text in prompts.texts], dtype=np.bool_))
    rows = {"prompts": _of(prompts), "prompts, foreign": _of(foreign)}
    rows |= {f"{task}": _of(prompts.about_harm(Direction.PROMPT, task)) for task in Task}
    rows |= {f"{task}, foreign": _of(foreign.about_harm(Direction.PROMPT, task)) for task in Task}
    refusal = scored.about_refusal()
    rows["answers: harm"] = _of(scored.about_harm(Direction.RESPONSE))
    rows["answers: refusal"] = figures(refusal.logits.response[:, REFUSAL], refusal.refused(), set_weights(refusal.datasets()))
    return rows


def _of(part: Scored) -> Figures | None:
    return figures(harm_scores(part), part.harmful(), set_weights(part.datasets())) if part.texts else None


def flagged_of(scored: Scored, dataset: str, recall: float = 0.8) -> float | None:
    """The share of a set's harmless prompts over the threshold that finds `recall` of all foreign harmful prompts."""
    prompts = scored.about_harm(Direction.PROMPT)
    values, harmful = harm_scores(prompts), prompts.harmful()
    foreign = np.array([not text.own for text in prompts.texts], dtype=np.bool_) & harmful
    member = np.array([text.dataset == dataset for text in prompts.texts], dtype=np.bool_) & ~harmful
    if not foreign.any() or not member.any():
        return None
    names = [text.dataset for text, inside in zip(prompts.texts, foreign, strict=True) if inside]
    return float((values[member] > quantile(values[foreign], set_weights(names), 1 - recall)).mean())
