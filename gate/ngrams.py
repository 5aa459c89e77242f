"""Word n-grams of texts as 64-bit numbers: texts go in, arrays come out that can be looked up in one another.

Words are runs of letters and digits, compatibility forms and case folded. A text of fewer than `N` words is one gram: all of it.
Two different grams have one number with a chance of 2⁻⁶⁴ for each pair. Pure.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

N: Final = 13
"""Words of a gram: long enough that two texts which share one have it from one another (GPT-3's choice, arXiv 2005.14165 §C)."""
Grams = npt.NDArray[np.uint64]

_WORD = re.compile(r"[^\W_]+")
_FACTOR: Final = 0x9E3779B97F4A7C15 | 1


def words(text: str) -> list[str]:
    """The text's words, folded."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


@lru_cache(maxsize=1 << 18)
def _number(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def grams(text: str) -> Grams:
    """The numbers of every gram of a text, in order; none of a text without words."""
    found = words(text)
    if not found:
        return np.zeros(0, dtype=np.uint64)
    numbers = np.array([_number(word) for word in found], dtype=np.uint64)
    size = min(N, len(found))
    # Horner's scheme over all windows at once, modulo 2^64; the size in front keeps a whole text from being part of another.
    value = np.full(len(found) - size + 1, size, dtype=np.uint64)
    for place in range(size):
        value = value * np.uint64(_FACTOR) + numbers[place : len(found) - size + 1 + place]
    return value


def gram_set(texts: Iterable[str]) -> Grams:
    """The different grams of texts, sorted."""
    found = [grams(text) for text in texts]
    return np.unique(np.concatenate(found)) if found else np.zeros(0, dtype=np.uint64)


def shares(text: str, known: Grams) -> bool:
    """Whether any gram of a text is among sorted ones."""
    own = grams(text)
    if not own.size or not known.size:
        return False
    at = np.minimum(np.searchsorted(known, own), known.size - 1)
    return bool((known[at] == own).any())
