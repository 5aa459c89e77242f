"""Windows of a text: the text in, `Segment` records out. Nothing is truncated: every character lies in some window.

A text is cut by characters before it is tokenised: tokenising a long text only to throw most of it away is dear. Windows begin
every `characters - overlap` characters and the last one ends with the text, so that **every span of up to `overlap` characters
lies whole in some window**. A cut may fall inside a word or between a letter and its accent; being shorter than the overlap, both
lie whole in the neighbouring window, so no cut is moved. Pure.
"""

from collections.abc import Callable, Iterator

from guard_server.bundle_spec import Window
from guard_server.records import Encoded, Segment


def windows(text: str, window: Window, view: str = "original") -> list[Segment]:
    """Segments of a view of a text, in order; a blank text gives one segment without text, so that it is scored too."""
    if not text.strip():
        return [Segment("", view, 0, len(text))]
    last = max(0, len(text) - window.characters)
    starts = [*range(0, last, window.characters - window.overlap), last]
    return [
        Segment(text[start : start + window.characters], view, start, min(start + window.characters, len(text)))
        for start in starts
    ]


def fit(segment: Segment, overlap: int, encode: Callable[[str], Encoded], max_tokens: int) -> Iterator[tuple[Segment, Encoded]]:
    """The segment with its tokens, or, where these are more than `max_tokens`, smaller windows of it that fit.

    Smaller windows overlap as the first ones do, and by three quarters of their length where text is so dense (some scripts take
    several tokens a character) that this is less: more would score each character more than four times. A single character is
    never cut.
    """
    encoded = encode(segment.text)
    length = len(segment.text)
    if len(encoded) <= max_tokens or length < 2:
        yield segment, encoded
        return
    # A tenth less than the share that fits, because tokens are not spread evenly; always less than before, so this ends.
    characters = max(1, min(length - 1, length * max_tokens * 9 // (len(encoded) * 10)))
    smaller = Window(characters=characters, overlap=min(overlap, characters * 3 // 4))
    for part in windows(segment.text, smaller, segment.view):
        moved = Segment(part.text, part.view, segment.start + part.start, segment.start + part.end)
        yield from fit(moved, overlap, encode, max_tokens)
