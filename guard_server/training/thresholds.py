"""Thresholds per direction, task, target and number of segments, set so that harmless requests pass at the promised rate.

In: scores of harmless texts by models that were not trained on their sets, and of harmless long documents cut into windows.
Out: `Threshold`s. The rates are per request: the worst of many segments decides, so a long text's threshold is higher. Pure.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from guard_server.bundle_spec import Calibration, Scale, Threshold
from guard_server.labels import TASKS, Direction, Task
from guard_server.training.calibrate import probabilities, ranks
from guard_server.training.scored import Logits, Scored
from guard_server.training.weights import FULL_SET, Flags, Floats, effective, set_weights

TARGETS: Final = (0.01, 0.02, 0.05)
SEGMENTS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
LEAST_BENIGN: Final = 200
"""Harmless texts that a task needs for thresholds of its own; with fewer, all tasks' texts set them, read at its column."""
LEAST_SETS: Final = 3
"""Sets that these texts must come from: one set's style is not a task."""
LEAST_EFFECTIVE: Final = 1 / min(TARGETS)
"""Texts that they must count as (Kish's effective number): else one text weighs more than the least target allows to pass it."""
_NEVER: Final = math.inf


@dataclass(frozen=True, slots=True)
class Basis:
    """What the thresholds of a direction and task were set on."""

    direction: Direction
    task: Task
    benign: int
    sets: tuple[str, ...]
    pooled: bool
    documents: dict[int, int]
    """Harmless documents by number of segments."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """How thresholds do on a foreign set that had no part in them."""

    dataset: str
    direction: Direction
    task: Task
    target: float
    n: int
    rate: float
    """Share of the set's harmless texts that reach them."""


def upper_quantile(scores: Floats, target: float, weights: Floats | None = None) -> float:
    """The least threshold such that scores at or above it, and one text more, hold at most `target` of the weight.

    The one text more is the next request's: with n equal weights the expected rate on new texts of the same kind is at most
    `target` (split conformal prediction). Where n is too small for that, just above the greatest score.
    """
    if not len(scores):
        msg = "no harmless scores to set a threshold on"
        raise ValueError(msg)
    weights = np.ones(len(scores)) if weights is None else weights
    order = np.argsort(-scores, kind="stable")
    ranked, mass = scores[order], np.cumsum(weights[order])
    following = float((weights**2).sum() / weights.sum())
    allowed = (mass + following) / (weights.sum() + following) <= target + 1e-12
    # Just above the first score that may not reach the threshold; ties with it must not reach it either.
    first = int(allowed.argmin()) if not allowed.all() else len(scores) - 1
    return float(np.nextafter(ranked[first], _NEVER))


@dataclass(frozen=True, slots=True)
class Reading:
    """A harmless document's segments in reading order."""

    logits: Logits
    sentences: Flags
    """Which are sentences or lines, not windows."""


def block_maxima(documents: Sequence[Floats], segments: int) -> Floats:
    """The worst score of every block of `segments` consecutive segments: each is a document of that length. May be empty."""
    maxima = [
        document[: len(document) // segments * segments].reshape(-1, segments).max(axis=1)
        for document in documents
        if len(document) >= segments
    ]
    return np.concatenate(maxima) if maxima else np.empty(0)


def thresholds_by_segments(single: float, documents: Mapping[str, Sequence[Floats]], target: float) -> tuple[float, ...]:
    """One threshold for each of `SEGMENTS`, never falling: the greater of the single text's and the documents' of that length.

    `documents`: segments' scores in reading order, by kind; kinds weigh the same.
    """
    found = [single]
    for count in SEGMENTS[1:]:
        kinds = [maxima for blocks in documents.values() if len(maxima := block_maxima(blocks, count))]
        if kinds:
            weights = np.concatenate([np.full(len(maxima), 1 / len(maxima)) for maxima in kinds])
            found.append(max(found[-1], upper_quantile(np.concatenate(kinds), target, weights)))
        else:
            found.append(found[-1])
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Shipped:
    """The same harmless texts scored by the trained model at full precision and by the file that ships."""

    full: Scored
    file: Scored

    def shift(self, direction: Direction, task: Task, target: float) -> float:
        """How far the file moves the target's quantile up, in logits; 0 where it moves it down or no text tells."""
        chosen = _harmless(self.full, direction)
        if not chosen.any():
            return 0.0
        full, file = self.full.where(chosen), self.file.where(chosen)
        weights = set_weights(full.datasets())
        moved = [upper_quantile(part.logits.risk(direction, task), target, weights) for part in (file, full)]
        return max(0.0, moved[0] - moved[1])


def set_thresholds(
    out_of_fold: Scored,
    calibration: Calibration,
    documents: Mapping[Direction, Mapping[str, Sequence[Reading]]],
    shipped: Shipped | None = None,
    *,
    longest: int | None = None,
) -> tuple[tuple[Threshold, ...], tuple[Basis, ...]]:
    """Thresholds for both directions, all tasks and `TARGETS`, and what they stand on.

    `documents`: by direction and kind, harmless documents read by the file that ships.
    `shipped` adds how far the file's precision moves the quantile. `longest`: characters of one window; the thresholds of one
    segment are set on texts up to it, as longer ones are the worst of several. Raises `ValueError` where a direction has no
    harmless text.
    """
    thresholds: list[Threshold] = []
    bases: list[Basis] = []
    for direction in Direction:
        harmless = out_of_fold.where(_harmless(out_of_fold, direction, longest))
        for task in TASKS:
            about = out_of_fold.about_harm(direction, task)
            known = about.harmful().any() and not about.harmful().all()
            used, pooled = _basis(harmless, direction, task, ranked=not known or ranks(about, direction, task))
            read = documents.get(direction, {})
            for target in TARGETS:
                single = _single(used, calibration, direction, task, target, shipped)
                alone = Threshold(
                    direction=direction, task=task, target_fpr=target, segments=(1,), at=(single,), benign=len(used.texts)
                )
                thresholds.append(for_long_texts(alone, calibration, read))
            bases.append(Basis(direction, task, len(used.texts), tuple(sorted(set(used.datasets()))), pooled, lengths_of(read)))
    return tuple(thresholds), tuple(bases)


def for_long_texts(alone: Threshold, calibration: Calibration, documents: Mapping[str, Sequence[Reading]]) -> Threshold:
    """The threshold of one segment, and those of windows and of sentences for each of `SEGMENTS`.

    Windows and sentences are let reach theirs at half the target each: a document is flagged by either, so at most at the target.
    They are told apart because windows of harmless text, which say little, score higher than its sentences do: one threshold for
    both would be the windows', and a request that has a line to itself would be held to it.
    """

    def at(*, sentences: bool) -> tuple[float, ...]:
        read = {kind: [_risk_of(one, calibration, alone, sentences=sentences) for one in of] for kind, of in documents.items()}
        return thresholds_by_segments(alone.at[0], read, alone.target_fpr / 2)

    return alone.model_copy(
        update={"segments": SEGMENTS, "at": at(sentences=False), "sentences": at(sentences=True) if documents else ()}
    )


def lengths_of(documents: Mapping[str, Sequence[Reading]]) -> dict[int, int]:
    """How many harmless documents there are of each number of segments."""
    return {k: sum(len(one.sentences) // k for of in documents.values() for one in of) for k in SEGMENTS[1:]}


def _risk_of(one: Reading, calibration: Calibration, threshold: Threshold, *, sentences: bool) -> Floats:
    """Probabilities of the segments of one reading; the others count nothing, but count as segments."""
    scale = scale_of(calibration, threshold.direction, threshold.task)
    found = probabilities(one.logits.risk(threshold.direction, threshold.task), scale)
    return np.where(one.sentences == sentences, found, 0.0)


def left_out_rates(out_of_fold: Scored, calibration: Calibration) -> tuple[LeftOut, ...]:
    """For each foreign set with at least `FULL_SET` harmless texts of a task: thresholds set without it, and its rate at them."""
    found: list[LeftOut] = []
    for direction in Direction:
        harmless = out_of_fold.where(_harmless(out_of_fold, direction))
        names = np.array(harmless.datasets(), dtype=object)
        for dataset in sorted({text.dataset for text in harmless.texts if not text.own}):
            inside, others = harmless.where(names == dataset), harmless.where(names != dataset)
            for task in TASKS:
                of_task = inside.about_harm(direction, task)
                if len(of_task.texts) >= FULL_SET and others.texts:
                    found.extend(_left_out(of_task, _basis(others, direction, task)[0], calibration))
    return tuple(found)


def _left_out(inside: Scored, used: Scored, calibration: Calibration) -> Iterator[LeftOut]:
    first = inside.texts[0]
    scale = scale_of(calibration, first.direction, first.task)
    scores = probabilities(inside.logits.risk(first.direction, first.task), scale)
    for target in TARGETS:
        threshold = _single(used, calibration, first.direction, first.task, target, None)
        rate = float((scores >= threshold).mean())
        yield LeftOut(first.dataset, first.direction, first.task, target, len(inside.texts), rate)


def _basis(harmless: Scored, direction: Direction, task: Task, *, ranked: bool = True) -> tuple[Scored, bool]:
    """The harmless texts that set a task's thresholds, and whether they are all tasks'; `ranked`: `calibrate.ranks`."""
    own = harmless.about_harm(direction, task)
    enough = ranked and len(own.texts) >= LEAST_BENIGN and len(set(own.datasets())) >= LEAST_SETS
    enough = enough and effective(set_weights(own.datasets())) >= LEAST_EFFECTIVE
    return (own, False) if enough else (harmless, True)


def _single(
    harmless: Scored, calibration: Calibration, direction: Direction, task: Task, target: float, shipped: Shipped | None
) -> float:
    """The threshold for a text of one segment."""
    shift = 0.0 if shipped is None else shipped.shift(direction, task, target)
    logits = harmless.logits.risk(direction, task) + shift
    return upper_quantile(probabilities(logits, scale_of(calibration, direction, task)), target, set_weights(harmless.datasets()))


def scale_of(calibration: Calibration, direction: Direction, task: Task) -> Scale:
    """The scale of the logit that decides."""
    return calibration.harm[task] if direction is Direction.PROMPT else calibration.response_harm


def _harmless(scored: Scored, direction: Direction, longest: int | None = None) -> Flags:
    return np.array(
        [
            text.direction is direction and text.harmful is False and (longest is None or len(text.text) <= longest)
            for text in scored.texts
        ],
        dtype=np.bool_,
    )
