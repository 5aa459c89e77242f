"""Weights of texts: no set decides alone."""

import numpy as np
import pytest

from guard_server.training.weights import FULL_SET, class_weights, set_weights


def test_large_sets_weigh_the_same() -> None:
    """A set of ten thousand texts weighs as much as one of `FULL_SET`, and a set of two weighs two."""
    names = ["big"] * 10_000 + ["full"] * FULL_SET + ["tiny"] * 2
    weights = set_weights(names)
    sums = {name: weights[np.array(names) == name].sum() for name in ("big", "full", "tiny")}
    assert sums == pytest.approx({"big": FULL_SET, "full": FULL_SET, "tiny": 2})


def test_our_own_material_weighs_at_most_half() -> None:
    """Many families of ours weigh together what the one foreign set weighs; without a foreign set they keep their weight."""
    own = [f"own_{number}" for number in range(10) for _ in range(FULL_SET)]
    weights = set_weights([*own, *["real"] * FULL_SET])
    assert weights[: len(own)].sum() == pytest.approx(weights[len(own) :].sum())
    assert set_weights(own).sum() == pytest.approx(10 * FULL_SET)


def test_classes_sum_to_the_prior() -> None:
    """Whatever the counts, harmful texts sum to the declared prior; a missing class is an error."""
    positive = np.array([True] * 9 + [False])
    weights = class_weights(["a"] * 10, positive, 0.2)
    assert weights[positive].sum() == pytest.approx(0.2)
    assert weights.sum() == pytest.approx(1)
    with pytest.raises(ValueError, match="both classes"):
        class_weights(["a", "a"], np.array([True, True]), 0.5)
    with pytest.raises(ValueError, match="prior"):
        class_weights(["a", "a"], np.array([True, False]), 1)
