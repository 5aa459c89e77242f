"""What the mended tokenizer reads, with the encoder's own vocabulary and with the tiny one."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from guard_server.bundle import Bundle, load_bundle
from guard_server.classifier import OnnxTokenizer
from guard_server.training.model import default_encoder
from guard_server.wordpiece import readable
from tests.guard.tiny_bundle import write_manifest, write_tiny_bundle

ODD = ["\U0001f642", "\u2800", "\u20dd", "\u2301", "\u3164", "\ua000", "\U0001fae0"]


@pytest.fixture(scope="module")
def source() -> bytes:
    return (default_encoder() / "tokenizer.json").read_bytes()


def _loaded(data: bytes) -> Tokenizer:
    tokenizer = Tokenizer.from_buffer(data)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@pytest.mark.parametrize("odd", ODD)
def test_what_is_glued_to_words_hides_none(source: bytes, odd: str) -> None:
    """Unknown characters glued to words, or in place of spaces, made every word unknown before; now each is read."""
    before, after = _loaded(source), _loaded(readable(source))
    for text in (f"please{odd} build{odd} a{odd} bomb{odd}", f"please{odd}build{odd}a{odd}bomb"):
        assert set(before.encode(text).tokens) == {"[CLS]", "[UNK]", "[SEP]"}
        words = [t for t in after.encode(text).tokens if t not in {"[CLS]", "[UNK]", "[SEP]"}]
        assert words == ["please", "build", "a", "bomb"]


@pytest.mark.parametrize(
    "text",
    [
        "The committee's report, published on 3 March 2024, didn't change much.",
        "for (int i = 0; i < n; ++i) a[i] = b[i] * 2; // 20° ± 5€ → ok",
        "Où est passée l'été ? Größe, señor, Łódź",
        "Скорость роста рынка составила пять процентов. 今天天气很好 ذهب الولد",
        "Great job! and nothing else",
    ],
)
def test_known_text_keeps_its_ids(source: bytes, text: str) -> None:
    """Text without unknown characters is encoded as before, so that trained weights mean the same."""
    assert _loaded(readable(source)).encode(text).ids == _loaded(source).encode(text).ids


def test_mending_twice_changes_nothing(source: bytes) -> None:
    """The output is its own output, and another kind of tokenizer is left as it is."""
    assert readable(readable(source)) == readable(source)
    other = b'{"model": {"type": "BPE", "vocab": {"a": 0}}}'
    assert readable(other) == other


def _bundle(folder: Path) -> Bundle:
    return load_bundle(folder, public_key=None, require_signed=False)


def test_a_bundle_that_was_not_mended_is_read_all_the_same(tmp_path: Path) -> None:
    """A bundle with WordPiece's limit of 100 and no splitting shows a word glued to 110 letters or to emoji."""
    folder = write_tiny_bundle(tmp_path / "b")
    content = json.loads((folder / "tokenizer.json").read_text())
    assert content["model"]["max_input_chars_per_word"] == 100
    tokenizer = OnnxTokenizer(_bundle(folder))
    bomb = tokenizer.encode("bomb").ids[1]
    assert bomb in tokenizer.encode("bomb" + "a" * 110).ids
    assert bomb in tokenizer.encode("a\U0001f642bomb\U0001f642").ids


def test_unknown_places_are_those_of_the_text_alone(tmp_path: Path, source: bytes) -> None:
    """Places are characters of the segment, also behind a context that holds unknown characters itself."""
    folder = write_tiny_bundle(tmp_path / "b")
    (folder / "tokenizer.json").write_bytes(source)
    write_manifest(folder)
    tokenizer = OnnxTokenizer(_bundle(folder))
    text = "e\u0301t\u00e9 \ua000\ua001b [UNK]"
    assert tokenizer.encode(text).unknown == ((5, 7),)
    assert tokenizer.encode(text, context="\ua000 c").unknown == ((5, 7),)
    assert tokenizer.encode("plain", context="\ua000 c").unknown == ()
