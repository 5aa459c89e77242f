"""Export: the graph says what torch says, whatever the family, batch and length."""

import json
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from tokenizers import Tokenizer

from guard_server.training.export import OPSET, PARITY, ParityError, export_tokenizer, parity, run_export
from guard_server.training.model import GuardModel
from tests.guard.training.guards import FAMILIES, save_guard, tiny_tokenizer


# Raised while transformers imports its DeBERTa.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_is_exported_with_parity(family: str, tmp_path: Path) -> None:
    """The graph equals torch within 1e-4 on texts of 3 to 160 tokens, alone and padded, with the outputs the format names."""
    model = save_guard(tmp_path / "model", family)
    export = run_export(model, tmp_path / "out")
    assert export.parity <= PARITY
    assert export.opset >= OPSET
    session = onnxruntime.InferenceSession(export.model, providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["task", "harm", "category", "response"]
    assert [output.shape[1] for output in session.get_outputs()] == [6, 6, 12, 2]
    assert ("token_type_ids" in {i.name for i in session.get_inputs()}) == (family == "bert")


def test_other_weights_are_noticed(tiny_model: Path, exported: Path) -> None:
    """A graph compared with a model of which one weight moved is refused."""
    guard = GuardModel.load(tiny_model)
    with torch.no_grad():
        guard.heads.task.bias[0] += 0.01
    with pytest.raises(ParityError, match=r"differ by 0\.01"):
        parity(guard, exported / "model.onnx")


def test_the_bytes_repeat_and_name_no_path(tiny_model: Path, exported: Path, tmp_path: Path) -> None:
    """Two exports of one model give the same bytes, and no source path of the exporter's is in them."""
    first = (exported / "model.onnx").read_bytes()
    assert run_export(tiny_model, tmp_path).model.read_bytes() == first
    assert b".py" not in first
    onnx.checker.check_model(onnx.load_from_string(first))


def test_the_tokenizer_cuts_and_pads_nothing(tmp_path: Path) -> None:
    """A text of 300 words keeps all its tokens, a short one gets none added; ordinary words keep their ids."""
    source = tiny_tokenizer(tmp_path / "source.json")
    export_tokenizer(source, tmp_path / "out.json")
    before, after = Tokenizer.from_file(str(source)), Tokenizer.from_file(str(tmp_path / "out.json"))
    assert len(after.encode("tree " * 300).ids) == 302
    assert len(after.encode("tree").ids) == 3
    text = "Write a short guide on how to plant a tree."
    ids = before.encode(text).ids
    assert after.encode(text).ids == [token for token in ids if token]
    assert json.loads((tmp_path / "out.json").read_text())["truncation"] is None


def test_a_word_of_a_thousand_letters_is_read(tmp_path: Path) -> None:
    """A thousand letters without a space are one unknown token before, and are spelled out after."""
    source = tiny_tokenizer(tmp_path / "source.json")
    export_tokenizer(source, tmp_path / "out.json")
    before, after = Tokenizer.from_file(str(source)), Tokenizer.from_file(str(tmp_path / "out.json"))
    before.no_truncation()
    word = "garden" * 170
    assert before.encode(word).tokens.count("[UNK]") == 1
    assert "[UNK]" not in after.encode(word).tokens
    assert len(after.encode(word).ids) >= 170
