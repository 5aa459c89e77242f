"""Graphs whose weights are stored small and computed in fp32."""

from pathlib import Path

import numpy as np
import onnxruntime as ort

from guard_server.training.export import run_export
from guard_server.training.quantise import quantise
from tests.guard.training.guards import save_guard


def _logits(path: Path, ids: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    ones = np.ones_like(ids)
    given = {"input_ids": ids, "attention_mask": ones, "token_type_ids": np.zeros_like(ids)}
    return [np.asarray(found) for found in session.run(None, {i.name: given[i.name] for i in session.get_inputs()})]


def test_small_weights_give_nearly_the_same_logits_one_by_one_and_in_a_batch(tmp_path: Path) -> None:
    """The stored-small file is smaller, its logits differ from fp32's by rounding alone, and no text moves another's."""
    export = run_export(save_guard(tmp_path / "guard"), tmp_path / "full")
    small = tmp_path / "small.onnx"
    quantise(export.model, small, "stored-small")
    assert small.stat().st_size < 0.7 * export.model.stat().st_size
    ids = np.random.default_rng(0).integers(5, 40, size=(8, 12))
    full, found = _logits(export.model, ids), _logits(small, ids)
    alone = [np.concatenate(rows) for rows in zip(*(_logits(small, ids[i : i + 1]) for i in range(8)), strict=True)]
    for expected, batched, single in zip(full, found, alone, strict=True):
        assert not np.array_equal(expected, batched)
        np.testing.assert_allclose(batched, expected, atol=0.02)
        np.testing.assert_allclose(single, batched, atol=1e-5)
