"""The network on five families of encoders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from guard_server.labels import CATEGORIES, TASKS
from guard_server.training.batches import Window, encode, padded
from guard_server.training.model import GuardModel, Shape
from tests.guard.training.guards import FAMILIES, tiny_guard, tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

SHAPE = Shape(layers=(-1, -2), pools=("mean", "max"), hidden=16)
INPUTS = [Window("plant a tree", None), Window("sort values", "write a function"), Window("water it slowly in the garden", None)]


def build_encoder(family: str, folder: Path) -> Path:
    """A random encoder as a Hugging Face folder with its tokenizer."""
    tiny_guard(family).encoder.save_pretrained(folder)
    tiny_tokenizer(folder / "tokenizer.json")
    return folder


def logits(model: GuardModel, folder: Path, inputs: list[Window]) -> list[torch.Tensor]:
    """All four outputs for the inputs in one batch."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with torch.no_grad():
        return list(model(*padded(encode(tokenizer, inputs, 64), 0)))


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_loaded_model_gives_the_same_logits(family: str, tmp_path: Path) -> None:
    """A model that was saved and loaded gives bit-equal logits of the contract's shapes."""
    folder = build_encoder(family, tmp_path / "encoder")
    model = GuardModel.on_encoder(folder, SHAPE)
    before = logits(model, folder, INPUTS)
    model.save(tmp_path / "guard", folder / "tokenizer.json")
    after = logits(GuardModel.load(tmp_path / "guard"), tmp_path / "guard", INPUTS)
    assert [tuple(value.shape) for value in before] == [(3, len(TASKS)), (3, len(TASKS)), (3, len(CATEGORIES)), (3, 2)]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_does_not_reach_the_logits(family: str, tmp_path: Path) -> None:
    """A text's logits in fp32 are the same alone as padded beside a longer one, to rounding."""
    folder = build_encoder(family, tmp_path)
    model = GuardModel.on_encoder(folder, SHAPE)
    together, alone = logits(model, folder, INPUTS), logits(model, folder, INPUTS[:1])
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one[:1], other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_answer_pool_reads_the_answer_alone(family: str, tmp_path: Path) -> None:
    """The answer's pool covers the second text's tokens of a pair and every token of a single text."""
    folder = build_encoder(family, tmp_path)
    model = GuardModel.on_encoder(folder, SHAPE)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids, mask, types = padded(encode(tokenizer, INPUTS, 64), 0)
    covered = model.answer_mask(ids, mask, types)
    words = [[tokenizer.id_to_token(int(ids[row, at])) for at in covered[row].nonzero().flatten()] for row in range(2)]
    assert words[0][0] == "[CLS]"
    assert "".join(str(token).removeprefix("##") for token in words[1] if token != "[SEP]") == "sortvalues"


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    """An encoder folder whose weights are not safetensors is refused before anything is read."""
    folder = build_encoder("bert", tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="safetensors"):
        GuardModel.on_encoder(folder, SHAPE)
