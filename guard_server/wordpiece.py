"""What a WordPiece tokenizer would not read, made readable: a tokenizer.json in, the same one without its two blind spots out.

WordPiece makes one unknown token of a whole word for a single character that is not in its vocabulary, and of every word over a
length. One emoji glued to a word would hide it. So unknown characters are split off before words are looked up, and the length is
raised. Text without such characters keeps its ids. Other kinds of tokenizer have no such spots and are left as they are. Pure.
"""

import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Final

LONGEST_WORD: Final = 2_000
"""Characters. WordPiece makes one unknown token of a longer word, and a text without spaces would be invisible; windows are far
shorter, also after normalisation. No more than that, because its time grows with the cube of a word's length."""


def readable(data: bytes) -> bytes:
    """A tokenizer.json that reads each word around what it does not know; the same again for its own output.

    Raises `ValueError` for what is not JSON.
    """
    content = json.loads(data)
    model = content.get("model", {}) if isinstance(content, dict) else {}
    if model.get("type") != "WordPiece" or not isinstance(model.get("vocab"), dict):
        return data
    model["max_input_chars_per_word"] = LONGEST_WORD
    split = {
        "type": "Split",
        "pattern": {"Regex": _unknown(model["vocab"], model.get("continuing_subword_prefix", "##"))},
        "behavior": "Isolated",
        "invert": False,
    }
    before = content.get("pre_tokenizer")
    steps = before["pretokenizers"] if before and before.get("type") == "Sequence" else [before] if before else []
    if split not in steps:
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*steps, split]}
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def _unknown(vocabulary: Iterable[str], prefix: str) -> str:
    """A pattern for what stands in no word: each character that is a piece by itself alone, and each run of those in no piece."""
    pieces = set(vocabulary)
    inside = {c for piece in pieces if len(piece) > 1 for c in piece.removeprefix(prefix)} | set(prefix)
    alone = {piece for piece in pieces if len(piece) == 1} - inside
    runs = f"[^{_ranges(inside | alone)}]+"
    return f"[{_ranges(alone)}]|{runs}" if alone else runs


def _ranges(characters: set[str]) -> str:
    """The inside of a character class, in the notation of tokenizers' expressions."""
    codes = sorted(map(ord, characters))
    breaks = [(a, b) for a, b in pairwise(codes) if b != a + 1]
    starts, ends = [codes[0], *(b for _, b in breaks)], [*(a for a, _ in breaks), codes[-1]]
    return "".join(f"\\x{{{start:x}}}-\\x{{{end:x}}}" for start, end in zip(starts, ends, strict=True))
