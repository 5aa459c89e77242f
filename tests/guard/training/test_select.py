"""The figures by which recipes are compared."""

from __future__ import annotations

import numpy as np
import pytest

from guard_server.training.select import figures, quantile, share_over


def test_equal_weights_give_the_plain_figures() -> None:
    """On four scores with one pair out of order the area is three quarters."""
    found = figures(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]), np.ones(4))
    assert found is not None
    assert found.auroc == pytest.approx(0.75)
    assert (found.positive, found.negative) == (2, 2)
    assert found.recall_5 == 0.5


def test_one_class_has_no_figures() -> None:
    """Without both classes there is nothing to tell apart."""
    assert figures(np.array([1.0, 2.0]), np.array([True, True]), np.ones(2)) is None


def test_heavy_text_decides_the_quantile() -> None:
    """A text that holds most of the weight is the median, and the share over a threshold counts weight, not texts."""
    values, weights = np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 8.0])
    assert quantile(values, weights, 0.5) == 3.0
    assert share_over(values, weights, 2.0) == pytest.approx(0.8)
