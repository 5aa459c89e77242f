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
    return _windows(numbers, min(N, len(found)))


def gram_set(texts: Iterable[str]) -> Grams:
    """The different grams of texts, sorted; the long ones are gone through as one, for many texts take time otherwise."""
    found: list[Grams] = []
    long: list[int] = []
    last: list[int] = []
    for text in texts:
        own = words(text)
        if len(own) < N:
            found.append(grams(text))
        else:
            long += map(_number, own)
            last.append(len(long))
    if long:
        numbers = np.array(long, dtype=np.uint64)
        whole = np.ones(len(long), dtype=bool)
        for place in last:  # a window that would run on into the next text
            whole[place - N + 1 : place] = False
        found.append(_windows(numbers, N)[whole[: len(long) - N + 1]])
    return np.unique(np.concatenate(found)) if found else np.zeros(0, dtype=np.uint64)


def _windows(numbers: Grams, size: int) -> Grams:
    """One number for each window: Horner's scheme over all of them at once, modulo 2^64.

    The size comes first, which keeps a whole text of fewer words from being a part of another.
    """
    count = numbers.size - size + 1
    value = np.full(count, size, dtype=np.uint64)
    for place in range(size):
        value = value * np.uint64(_FACTOR) + numbers[place : place + count]
    return value


def among(found: Grams, known: Grams) -> npt.NDArray[np.bool_]:
    """Of each gram whether it is among sorted ones."""
    if not known.size:
        return np.zeros(found.size, dtype=np.bool_)
    at = np.minimum(np.searchsorted(known, found), known.size - 1)
    same: npt.NDArray[np.bool_] = known[at] == found
    return same


def shares(text: str, known: Grams) -> bool:
    """Whether any gram of a text is among sorted ones."""
    return bool(among(grams(text), known).any())
