"""Words that the tokenizer does not know, from a text's segments: `Skipped` records out, so that what was not read shows.

A lone symbol (an emoji, a sign) is no word; a word that a view reads in plain letters is read. Pure.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from guard_server.records import Encoded, Segment
from guard_server.views import Skipped, View

FILLERS: Final = frozenset("\u115f\u1160\u3164\uffa0")
"""Letters by category and blank to the eye; views read a text without them."""


def unknown_words(text: str, parts: Iterable[tuple[Segment, Encoded]], found: Sequence[View]) -> Iterator[Skipped]:
    """One record for each view of a text that holds unknown words, with their number.

    `parts`: the segments of the original and of the views, encoded; `found`: the views. In a view only characters that are not
    in the original count: the others were judged there.
    """
    spans: dict[str, list[tuple[int, int]]] = {}
    known = frozenset(text)
    for segment, encoded in parts:
        for start, end in encoded.unknown:
            if _is_word(segment.text, start, end) and (
                segment.view == "original" or not known.issuperset(segment.text[start:end])
            ):
                spans.setdefault(segment.view, []).append((segment.start + start, segment.start + end))
    if "original" in spans:
        spans["original"] = list(_unread(text, spans["original"], found))
    for view, places in spans.items():
        if count := _apart(places):
            yield Skipped(view, f"unknown to the tokenizer: {count} word{'s' * (count > 1)}")


def _is_word(text: str, start: int, end: int) -> bool:
    """Two letters or more, or one in a word."""
    letters = sum(c.isalpha() and c not in FILLERS for c in text[start:end])
    return letters > 1 or (letters == 1 and (text[max(0, start - 1) : start].isalnum() or text[end : end + 1].isalnum()))


def _unread(text: str, spans: Iterable[tuple[int, int]], found: Sequence[View]) -> Iterator[tuple[int, int]]:
    """The spans with a letter that no view of the original shows in plain ASCII."""
    read = bytearray(len(text))
    for view in found:
        if "+" not in view.name:
            for start, end in view.read:
                read[start:end] = b"\x01" * (end - start)
    for start, end in spans:
        if any(text[i].isalpha() and not read[i] for i in range(start, end)):
            yield start, end


def _apart(spans: Iterable[tuple[int, int]]) -> int:
    """The number of spans, those that overlap (the same word in two windows) counted once."""
    count, done = 0, -1
    for start, end in sorted(spans):
        count += start >= done
        done = max(done, end)
    return count
