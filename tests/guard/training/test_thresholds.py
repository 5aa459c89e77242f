"""Thresholds: on fresh harmless texts and documents the promised rate holds."""

from dataclasses import replace

import numpy as np
import pytest

from guard_server.bundle_spec import Calibration, Scale, Threshold
from guard_server.labels import TASKS, Direction, Task
from guard_server.training.calibrate import probabilities
from guard_server.training.scored import Scored
from guard_server.training.thresholds import (
    SEGMENTS,
    TARGETS,
    Reading,
    Shipped,
    block_maxima,
    for_long_texts,
    left_out_rates,
    set_thresholds,
    thresholds_by_segments,
    upper_quantile,
)
from tests.guard.training.scores import joined, logits, scored

IDENTITY = Calibration(
    harm={task: Scale(temperature=1) for task in TASKS},
    response_harm=Scale(temperature=1),
    refusal=Scale(temperature=1),
    task_temperature=1,
)


@pytest.mark.parametrize("target", TARGETS)
def test_the_expected_rate_on_new_texts_keeps_the_target(target: float) -> None:
    """Over many draws of 300 texts, the mean rate of fresh texts at the threshold is at most the target, and near it."""
    random = np.random.default_rng(3)
    rates = []
    for _ in range(400):
        threshold = upper_quantile(random.random(300), target)
        rates.append(max(0.0, 1 - threshold))
    assert target * 0.6 < np.mean(rates) <= target * 1.03


def test_too_few_texts_give_a_threshold_above_them_all() -> None:
    """Twenty texts can't show 1 %: none of them may reach the threshold; no text is an error."""
    scores = np.linspace(0, 0.9, 20)
    assert scores.max() < upper_quantile(scores, 0.01) < 0.9001
    with pytest.raises(ValueError, match="no harmless scores"):
        upper_quantile(np.empty(0), 0.01)


def test_ties_stay_below() -> None:
    """Scores equal to the one that may not reach the threshold don't reach it either."""
    scores = np.array([0.5] * 50 + [0.1] * 50)
    assert upper_quantile(scores, 0.05) > 0.5
    assert 0.1 < upper_quantile(scores, 0.6) < 0.5


def test_weights_move_the_quantile() -> None:
    """A heavy set of high scores lifts the threshold above where equal weights put it."""
    scores = np.concatenate([np.linspace(0, 0.5, 1000), np.linspace(0.5, 1, 50)])
    weights = np.concatenate([np.full(1000, 0.1), np.full(50, 2.0)])
    assert upper_quantile(scores, 0.05) < 0.53
    assert upper_quantile(scores, 0.05, weights) > 0.9


def test_blocks_are_the_documents_of_a_length() -> None:
    """Seven windows hold three documents of two; a document shorter than the block gives none."""
    document = np.array([1.0, 5.0, 2.0, 3.0, 9.0, 0.0, 4.0])
    assert block_maxima([document, np.array([1.0])], 2).tolist() == [5.0, 3.0, 9.0]
    assert not len(block_maxima([np.array([1.0])], 2))


def test_requests_of_1_to_64_segments_keep_the_target() -> None:
    """Fresh documents of 1, 2 ... 64 windows, whose windows resemble each other, are flagged at most as often as promised."""
    random = np.random.default_rng(4)

    def documents(count: int, length: int) -> list[np.ndarray[tuple[int], np.dtype[np.float64]]]:
        return [random.normal(0, 0.7) + random.normal(0, 0.7, length) for _ in range(count)]

    single = upper_quantile(np.concatenate(documents(2000, 1)), 0.05)
    at = dict(zip(SEGMENTS, thresholds_by_segments(single, {"prose": documents(600, 256)}, 0.05), strict=True))
    for count in (1, 2, 4, 8, 16, 32, 64):
        flagged = np.mean([document.max() >= at[count] for document in documents(4000, count)])
        assert flagged <= 0.06, count
    assert flagged >= 0.02
    assert list(at.values()) == sorted(at.values())


def test_a_task_with_few_texts_uses_all_tasks() -> None:
    """Thirty harmless translations set no threshold: all prompts' do, and the basis says so; every task and target has one."""
    random = np.random.default_rng(5)
    code = scored(random.normal(-3, 1, 1000), np.zeros(1000, dtype=np.bool_), task=Task.CODE_GENERATION)
    few = scored(random.normal(-3, 1, 30), np.zeros(30, dtype=np.bool_), task=Task.TRANSLATION)
    answers = scored(random.normal(-3, 1, 300), np.zeros(300, dtype=np.bool_), direction=Direction.RESPONSE)
    thresholds, bases = set_thresholds(joined(code, few, answers), IDENTITY, {})
    assert len(thresholds) == 2 * len(TASKS) * len(TARGETS)
    basis = {(b.direction, b.task): b for b in bases}
    assert not basis[Direction.PROMPT, Task.CODE_GENERATION].pooled
    assert basis[Direction.PROMPT, Task.TRANSLATION].pooled
    assert basis[Direction.PROMPT, Task.TRANSLATION].benign == 1030
    assert all(t.at == (t.at[0],) * len(SEGMENTS) for t in thresholds)


def test_long_documents_raise_the_later_thresholds_alone() -> None:
    """Documents with one high window in twenty leave the threshold of one segment and lift that of 64."""
    random = np.random.default_rng(6)
    texts = scored(random.normal(-3, 1, 900), np.zeros(900, dtype=np.bool_), task=Task.OTHER)
    answers = scored(random.normal(-3, 1, 300), np.zeros(300, dtype=np.bool_), direction=Direction.RESPONSE)
    read = [Reading(logits(np.where(np.arange(256) % 20 == 7, 4.0, -5.0)), np.zeros(256, dtype=np.bool_)) for _ in range(10)]
    plain, _ = set_thresholds(joined(texts, answers), IDENTITY, {})
    longer, _ = set_thresholds(joined(texts, answers), IDENTITY, {Direction.PROMPT: {"prose": read}})
    assert [t.at[0] for t in plain] == [t.at[0] for t in longer]
    assert all(t.for_segments(64) > 0.95 for t in longer if t.direction is Direction.PROMPT)
    assert all(t.for_segments(64) < 0.95 for t in longer if t.direction is Direction.RESPONSE)
    assert all(t.for_segments(64, sentence=True) == t.at[0] for t in longer)


def test_windows_that_score_high_leave_the_sentences_their_threshold() -> None:
    """Documents are flagged by windows or sentences at most as often as promised, and each has a threshold of its own."""
    random = np.random.default_rng(11)

    def documents(count: int) -> list[Reading]:
        sentences = np.arange(256) % 4 > 0
        return [Reading(logits(random.normal(-3, 1, 256) - 2.0 * sentences), sentences) for _ in range(count)]

    one = Threshold(direction=Direction.PROMPT, task=Task.OTHER, target_fpr=0.05, segments=(1,), at=(0.05,), benign=100)
    found = for_long_texts(one, IDENTITY, {"prose": documents(600)})
    windows, sentences = (found.for_segments(256, sentence=kind) for kind in (False, True))
    assert sentences < windows - 0.2
    fresh = documents(2000)
    scores = [probabilities(one.logits.risk(Direction.PROMPT, Task.OTHER)) for one in fresh]
    flagged = [bool((p >= np.where(d.sentences, sentences, windows)).any()) for p, d in zip(scores, fresh, strict=True)]
    assert 0.02 <= np.mean(flagged) <= 0.065
    assert list(found.sentences) == sorted(found.sentences)


def test_a_file_that_scores_higher_gets_higher_thresholds() -> None:
    """Where the shipped file adds half a logit to harmless texts, so does the threshold; where it takes away, nothing changes."""
    random = np.random.default_rng(7)
    harm = random.normal(-3, 1, 900)
    texts = scored(harm, np.zeros(900, dtype=np.bool_))
    higher, lower = (scored(harm + by, np.zeros(900, dtype=np.bool_)) for by in (0.5, -0.5))
    assert Shipped(texts, higher).shift(Direction.PROMPT, Task.OTHER, 0.05) == pytest.approx(0.5)
    assert Shipped(texts, lower).shift(Direction.PROMPT, Task.OTHER, 0.05) == 0
    assert Shipped(texts, higher).shift(Direction.RESPONSE, Task.OTHER, 0.05) == 0


def test_a_set_left_out_says_when_it_is_unlike_the_others() -> None:
    """Sets drawn alike keep the target when left out; one that scores two logits higher shows a rate far above it."""
    random = np.random.default_rng(8)
    harm = random.normal(-3, 1, 4000)
    odd = np.arange(4000) % 4 == 3
    alike, unlike = (scored(harm + by * odd, np.zeros(4000, dtype=np.bool_)) for by in (0, 2))
    rates = [rate for rate in left_out_rates(alike, IDENTITY) if rate.target == 0.05]
    assert {rate.dataset for rate in rates} == {"set0", "set1", "set2", "set3"}
    assert all(0.02 < rate.rate < 0.09 for rate in rates)
    shown = {rate.dataset: rate.rate for rate in left_out_rates(unlike, IDENTITY) if rate.target == 0.05}
    assert shown["set3"] > 0.3


def test_a_task_whose_weight_lies_on_few_texts_uses_all_tasks() -> None:
    """A thousand texts of our own beside two foreign ones, which weigh as much as all of them, set no thresholds."""
    random = np.random.default_rng(9)
    own, foreign = (
        Scored(tuple(replace(text, dataset=f"{kind}{at % 2}") for at, text in enumerate(part.texts)), part.logits)
        for kind, part in (
            ("own_", scored(random.normal(-3, 1, 1000), np.zeros(1000, dtype=np.bool_), task=Task.TRANSLATION)),
            ("foreign", scored(np.array([4.0, 4.0]), np.zeros(2, dtype=np.bool_), task=Task.TRANSLATION)),
        )
    )
    answers = scored(random.normal(-3, 1, 300), np.zeros(300, dtype=np.bool_), direction=Direction.RESPONSE)
    code = scored(random.normal(-3, 1, 1000), np.zeros(1000, dtype=np.bool_), task=Task.CODE_GENERATION)
    _, bases = set_thresholds(joined(own, foreign, answers, code), IDENTITY, {})
    pooled = {b.task: b.pooled for b in bases if b.direction is Direction.PROMPT}
    assert pooled[Task.TRANSLATION]
    assert not pooled[Task.CODE_GENERATION]


def test_long_texts_do_not_set_the_threshold_of_one_segment() -> None:
    """Texts of several windows, which score as their worst, change nothing where they are told from the others."""
    random = np.random.default_rng(10)
    short = scored(random.normal(-3, 1, 900), np.zeros(900, dtype=np.bool_))
    high = scored(random.normal(2, 1, 300), np.zeros(300, dtype=np.bool_))
    long = Scored(tuple(replace(text, id=f"long {text.id}", text=text.text * 100) for text in high.texts), high.logits)
    answers = scored(random.normal(-3, 1, 300), np.zeros(300, dtype=np.bool_), direction=Direction.RESPONSE)
    alone, _ = set_thresholds(joined(short, answers), IDENTITY, {})
    beside, _ = set_thresholds(joined(short, long, answers), IDENTITY, {}, longest=480)
    mixed, _ = set_thresholds(joined(short, long, answers), IDENTITY, {})
    assert beside == alone
    assert mixed[0].at[0] > alone[0].at[0]
