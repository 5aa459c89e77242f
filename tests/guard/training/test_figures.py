"""Figures of an evaluation against counting by hand."""

import numpy as np
import pytest

from guard_server.labels import Category, Direction, Task
from guard_server.training.figures import Judged, ranking, rate, recall_at, score_at_recall, summarise
from guard_server.training.scored import Text
from guard_server.training.weights import Floats


def _judged(
    risk: float,
    harmful: bool | None,
    *,
    dataset: str = "set",
    task: Task = Task.OTHER,
    refused: bool | None = None,
    refusal: float = 0,
) -> Judged:
    answer = harmful is None
    return Judged(
        text=Text(
            id="1",
            dataset=dataset,
            direction=Direction.RESPONSE if answer else Direction.PROMPT,
            text="text",
            context="prompt" if answer else None,
            task=task,
            harmful=harmful,
            refused=refused,
            partial=answer and refused is None,
        ),
        risk=risk,
        thresholds={0.01: 0.8, 0.05: 0.5},
        segments=1,
        task=Task.OTHER,
        category=Category.CYBER,
        refusal=refusal,
    )


def test_ranking_equals_counting_pairs() -> None:
    """AUROC is the share of pairs in the right order, ties counting half."""
    random = np.random.default_rng(0)
    scores: Floats = random.integers(0, 20, 200).astype(np.float64) / 20
    positive = random.random(200) < scores
    pairs = [(p > n) + (p == n) / 2 for p in scores[positive] for n in scores[~positive]]
    found = ranking(positive, scores)
    assert found is not None
    assert found[0] == pytest.approx(np.mean(pairs))
    assert ranking(np.ones(5, dtype=np.bool_), np.linspace(0, 1, 5)) is None


def test_recall_at_a_rate_equals_trying_every_threshold() -> None:
    """The greatest recall over all thresholds whose false-positive rate keeps the target."""
    random = np.random.default_rng(1)
    scores: Floats = np.round(random.normal(0, 1, 400), 1)
    positive = random.random(400) < 0.4
    scores[positive] += 1
    tried = [(scores[positive] >= t).mean() for t in [*scores, np.inf] if (scores[~positive] >= t).mean() <= 0.05]
    assert recall_at(positive, scores, 0.05) == pytest.approx(max(tried))
    assert recall_at(~np.zeros(3, dtype=np.bool_), np.linspace(0, 1, 3), 0.05) is None


def test_the_score_at_a_recall_finds_that_share() -> None:
    """At least four fifths reach it, and no greater score is reached by as many."""
    scores = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    limit = score_at_recall(scores, 0.8)
    assert limit == 0.2
    assert (scores >= limit).mean() >= 0.8 > (scores >= 0.3).mean()


def test_an_interval_holds_its_share() -> None:
    """3 of 10 lies inside its interval, which is Wilson's; nothing of nothing has no rate."""
    found = rate(3, 10)
    assert found is not None
    assert found.low == pytest.approx(0.1078, abs=1e-4)
    assert found.high == pytest.approx(0.6032, abs=1e-4)
    assert rate(0, 0) is None


def test_rates_at_the_bundle_s_thresholds() -> None:
    """Two of three harmful and one of two harmless texts reach .5, one and none .8; tasks are told apart."""
    judged = [_judged(0.9, True), _judged(0.6, True), _judged(0.1, True), _judged(0.7, False), _judged(0.2, False)]
    judged.append(_judged(0.3, False, task=Task.TRANSLATION, dataset="calm"))
    found = summarise(judged, bundle="b", digest="d")
    other = next(group for group in found.groups if group.name == Task.OTHER)
    strict, loose = other.at
    assert strict.recall is not None
    assert strict.fpr is not None
    assert [strict.recall.share, strict.fpr.share] == pytest.approx([1 / 3, 0])
    assert loose.recall is not None
    assert loose.fpr is not None
    assert [loose.recall.share, loose.fpr.share] == pytest.approx([2 / 3, 0.5])
    translation = next(group for group in found.groups if group.name == Task.TRANSLATION)
    assert (translation.positives, translation.negatives, translation.auroc) == (0, 1, None)
    calm = next(row for row in found.over_refusal if row.dataset == "calm")
    assert calm.at_recall is not None
    assert calm.at_recall.share == 1  # 80 % of three texts are all three: the least scores .1.
    assert found.heads.task is not None
    assert found.heads.task.share == pytest.approx(5 / 6)


def test_partial_answers_stand_apart() -> None:
    """Refused and complied answers make the refusal figures; partial ones are counted and averaged alone."""
    judged = [
        _judged(0, None, refused=True, refusal=0.9),
        _judged(0, None, refused=False, refusal=0.2),
        _judged(0, None, refused=False, refusal=0.6),
        _judged(0, None, refusal=0.4),
    ]
    found = summarise(judged, bundle="b", digest="d")
    (refusal,) = (group for group in found.groups if group.name == "all")
    assert (refusal.head, refusal.positives, refusal.negatives, refusal.auroc) == ("refusal", 1, 2, 1.0)
    assert all(at.recall is None and at.fpr is None for at in refusal.at)
    assert found.heads.refusal is not None
    assert found.heads.refusal.share == pytest.approx(2 / 3)
    assert found.heads.partial == 1
    assert found.heads.partial_refusal == pytest.approx(0.4)
