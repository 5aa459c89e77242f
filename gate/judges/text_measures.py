"""Repetition and overlap of texts, counted in word n-grams. Text in; shares between 0 and 1 out. Linear in the text."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_TOKEN = re.compile(r"\w+|[^\w\s]")
_SPACE = re.compile(r"\s+")
_QUOTES = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "´": "'", "`": "'", "“": '"', "”": '"', "«": '"', "»": '"', "„": '"'})
_INVISIBLE = dict.fromkeys([0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF, 0x00AD])

HEAD_CHARS = 12_000
TAIL_CHARS = 8_000


def bounded(text: str) -> str:
    """The text itself up to 20,000 characters; of a longer one its first 12,000 and last 8,000."""
    return text if len(text) <= HEAD_CHARS + TAIL_CHARS else f"{text[:HEAD_CHARS]}\n{text[-TAIL_CHARS:]}"


def normalised(text: str) -> str:
    """NFKC, straight quotes, no invisible characters; case and line ends kept."""
    if text.isascii():  # of all that, ASCII text can hold one quote
        return text.replace("`", "'")
    return unicodedata.normalize("NFKC", text).translate(_INVISIBLE).translate(_QUOTES)


def squeezed(text: str) -> str:
    """Lower case with single spaces, for comparing."""
    return _SPACE.sub(" ", normalised(text).lower()).strip()


def tokens(text: str) -> list[str]:
    """Lower-case words and single symbols."""
    return _TOKEN.findall(normalised(text).lower())


def words(text: str) -> list[str]:
    """Lower-case words alone."""
    return list(_words(text))


@lru_cache(maxsize=64)
def _words(text: str) -> tuple[str, ...]:
    """An answer and its prompt are looked at from several sides, one after the other."""
    return tuple(t for t in tokens(text) if t[0].isalnum())


def ngrams(items: list[str], size: int) -> list[tuple[str, ...]]:
    """All runs of `size` items, in order; none when there are fewer items."""
    return list(zip(*(items[i:] for i in range(size)), strict=False))


def distinct_share(items: list[str], size: int) -> float:
    """Distinct n-grams ÷ n-grams; 1 when there are none."""
    grams = ngrams(items, size)
    return len(set(grams)) / len(grams) if grams else 1.0


def overlap(part: list[str], whole: list[str], size: int = 3) -> float:
    """Share of the n-grams of `part` that occur in `whole`; n shrinks for a part shorter than n; 0 for an empty part."""
    size = min(size, len(part))
    if not size:
        return 0.0
    known = set(ngrams(whole, size))
    grams = ngrams(part, size)
    return sum(gram in known for gram in grams) / len(grams)
