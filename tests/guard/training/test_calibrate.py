"""Calibration: what the simulation put in comes out."""

import numpy as np
import pytest
from scipy.special import expit

from guard_server.bundle_spec import Scale
from guard_server.labels import Direction, Task
from guard_server.training.calibrate import (
    calibrate,
    expected_calibration_error,
    fit_scale,
    fit_temperature,
    probabilities,
    reliability,
)
from tests.guard.training.scores import joined, scored


def test_a_known_temperature_and_bias_are_recovered() -> None:
    """Labels drawn from sigmoid(logit / 2.5 - 0.4) give that temperature and bias back, within sampling error."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 4, 40_000)
    positive = random.random(40_000) < expit(logits / 2.5 - 0.4)
    scale = fit_scale(logits, positive, np.ones(40_000))
    assert scale.temperature == pytest.approx(2.5, rel=0.04)
    assert scale.bias == pytest.approx(-0.4, abs=0.05)


def test_a_softmax_temperature_is_recovered() -> None:
    """Classes drawn from softmax(logits / 1.7) give 1.7 back."""
    random = np.random.default_rng(1)
    logits = random.normal(0, 3, (20_000, 6))
    noisy = logits / 1.7 + random.gumbel(size=logits.shape)
    assert fit_temperature(logits, noisy.argmax(axis=1).astype(np.int64), np.ones(20_000)) == pytest.approx(1.7, rel=0.04)


def test_separable_logits_give_a_finite_scale() -> None:
    """Logits that part the classes without error still give a scale with finite parts."""
    logits = np.array([-2.0, -1.0, 1.0, 2.0])
    scale = fit_scale(logits, logits > 0, np.ones(4))
    assert 0 < scale.temperature < 1


def test_scaling_is_what_the_server_does() -> None:
    """The vectorised probabilities equal `Scale.probability`, at the extremes too."""
    scale = Scale(temperature=0.7, bias=0.3)
    logits = np.array([-800.0, -3.0, 0.0, 2.0, 800.0])
    assert probabilities(logits, scale) == pytest.approx([scale.probability(x) for x in logits], abs=1e-12)


def test_the_calibration_error_is_the_gap() -> None:
    """Predictions of .9 that hold in half of the texts are off by .4; in nine of ten, by nothing."""
    predicted = np.full(1000, 0.9)
    half, most = np.arange(1000) % 2 == 0, np.arange(1000) % 10 != 0
    assert expected_calibration_error(reliability(predicted, half, np.ones(1000))) == pytest.approx(0.4)
    assert expected_calibration_error(reliability(predicted, most, np.ones(1000))) == pytest.approx(0.0, abs=1e-9)


def test_an_overconfident_model_is_corrected_and_thin_tasks_share_a_scale() -> None:
    """Logits four times too large get a lower error after scaling; a task without texts takes the pooled scale."""
    random = np.random.default_rng(2)
    truth = random.normal(0, 2, 8000)
    harmful = random.random(8000) < expit(truth)
    prompts = scored(truth * 4, harmful, task=Task.CODE_GENERATION)
    answers = scored(truth * 4, harmful, direction=Direction.RESPONSE)
    calibration, fits = calibrate(joined(prompts, answers))
    code = next(fit for fit in fits if fit.head == "harm:code_generation")
    assert code.error_before is not None
    assert code.error_after is not None
    assert code.error_after < 0.02 < code.error_before
    assert not code.pooled
    other = next(fit for fit in fits if fit.head == "harm:other")
    assert other.pooled
    assert other.error_after is None
    assert calibration.harm[Task.OTHER] == calibration.harm[Task.CODE_GENERATION]
    assert calibration.refusal.temperature == pytest.approx(4, rel=0.1)
