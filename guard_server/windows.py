"""Windows of a text: the text in, `Segment` records out. Nothing is truncated: every character that is not blank is in a window.

A text is cut by characters before it is tokenised: tokenising a long text only to throw most of it away is dear. Windows begin
every `characters - overlap` characters and the last one ends with the text, so that **every span of up to `overlap` characters
lies whole in some window**. A cut may fall inside a word or between a letter and its accent; being shorter than the overlap, both
lie whole in the neighbouring window, so no cut is moved.

A short request in a window of other text is diluted: its score sinks with what stands around it. So a text of several windows is
read a second time by its sentences and by its lines, where `Window.sentence` says so: a request that has sentences or a line to
itself is then read as it would be read alone, wherever it stands. Lines that were broken by hand within a sentence (`_wraps`) are
read joined: half a sentence means something else. Pure.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Final, TypeVar

from guard_server.bundle_spec import Window
from guard_server.records import Encoded, Segment

_BREAK: Final = re.compile(r"(?<=[.!?;])\s+|(?<=[。！？；])|[\n\r\u2028\u2029]+")
"""Where a sentence or line ends. Each alternative is linear in the text."""
_LINE: Final = re.compile(r"[\n\r\u2028\u2029]+")
SHORTEST: Final = 48
"""Characters: a shorter sentence or line is read together with the next ones, unless it has `WORDS` words."""
_WORD: Final = re.compile(r"(?<!\S)[\"'(¿¡]{0,3}[^\W\d_]+[\"').,:;!?…]{0,3}(?!\S)")
"""Letters between white space, with the marks of a sentence and no others: what code, logs and tables have few of."""
WORDS: Final = 4
"""So many words can ask for something: they are read by themselves however short they are."""
_ENDS: Final = tuple(".!?;:…。！？；：")
"""Ends of a sentence, or of what announces one: the next line doesn't go on. `_CLOSING` may stand behind them."""
_CLOSING: Final = "\"')]”’»"
_ONWARD: Final = re.compile(r"[ \t]*+(#++|//++|>++)?+[ \t]*+[\"'(\[“‘«]?(\w\S*)")
"""How a line begins that goes on in prose: the mark of a comment or quotation, and the first word."""
_ITEM: Final = re.compile(r"(?:\w|[ivx]{2,4})[.)]|.*:", re.DOTALL)
"""First words that begin an item of a list or say who speaks."""
_ONE_BREAK: Final = ("\n", "\r\n", "\r", "\u2028")
NEAR: Final = 4
"""So many lines before and after a line show how wide lines are there."""
RAGGED: Final = 16
"""Characters that a line may be wider than the others and still be one of them."""
V = TypeVar("V")


def windows(text: str, window: Window, view: str = "original", *, part: bool = False) -> list[Segment]:
    """Segments of a view of a text, in reading order; a blank text gives one segment without text, so that it is scored too.

    `part`: the text is itself a window of a longer one, and read by its sentences however short it is.
    """
    if not text.strip():
        return [Segment("", view, 0, len(text))]
    # Blank windows are not scored: that would cost time, and counting them would lift the thresholds.
    whole = [segment for segment in _cut(text, window, view) if segment.text.strip()]
    if not window.sentence or (len(whole) == 1 and not part):
        return whole
    # A long line at the beginning has the text's own windows. In reading order, so that any run is what a text so long has.
    read = {(segment.start, segment.end) for segment in whole}
    parts = dict.fromkeys(part for part in _parts(text, window, view) if (part.start, part.end) not in read)
    return sorted([*whole, *parts], key=lambda segment: segment.start)


def _cut(text: str, window: Window, view: str) -> list[Segment]:
    last = max(0, len(text) - window.characters)
    starts = [*range(0, last, window.characters - window.overlap), last]
    return [
        Segment(text[start : start + window.characters], view, start, min(start + window.characters, len(text)))
        for start in starts
    ]


def _parts(text: str, window: Window, view: str) -> Iterator[Segment]:
    """Sentences of at most `window.sentence` characters, and whole the lines that hold more than one; blank ones left out."""
    wraps = _wraps(text)
    joined = frozenset(wraps)
    sentences = list(_sentences(text, joined))
    size = Window(characters=window.sentence, overlap=window.sentence // 2)
    firsts = (first for first in _first_lines(sentences, wraps) if _asks(text, *first))
    yield from _pieces(text, [*sentences, *firsts], size, view)
    lines = list(_spans(text, _LINE, joined))
    starts = [start for start, _ in sentences]
    for start, end in (*lines, *_first_lines(lines, wraps)):
        if end - start > window.sentence or bisect_left(starts, end) > bisect_right(starts, start):
            yield from _pieces(text, [(start, end)], window, view)


def _pieces(text: str, spans: Iterable[tuple[int, int]], size: Window, view: str) -> Iterator[Segment]:
    for start, end in spans:
        for part in _cut(text[start:end], size, view):
            if part.text.strip():
                yield Segment(part.text, view, start + part.start, start + part.end, sentence=True)


def _spans(text: str, breaks: re.Pattern[str], wraps: Set[int] = frozenset()) -> Iterator[tuple[int, int]]:
    """The spans between breaks, each with the break that ends it; a break that ends in `wraps` is none."""
    start = 0
    for end in (*(found.end() for found in breaks.finditer(text)), len(text)):
        if end > start and end not in wraps:
            yield start, end
            start = end


def _wraps(text: str) -> list[int]:
    """Where lines begin that go on with what the line before began, in order.

    A line was broken where the next word had no place: the next line begins in lower case, and its first word would make this one
    wider than those around it (than the widest or the second: one long address makes no text wide). Where a line nearby was
    broken though the word had a place, lines are items of a list, and each is read by itself.
    """
    lines = [text[start:end] for start, end in _spans(text, _LINE)]
    bodies = [line.rstrip() for line in lines]
    words = [_goes_on(*pair) for pair in pairwise(zip(lines, bodies, strict=True))]
    full = [bool(word) and _is_full(bodies, at, word) for at, word in enumerate(words)]
    # A line nearby that goes on in lower case though the next word had a place: these are items, not wrapped text.
    ragged = [bool(word) and not whole for word, whole in zip(words, full, strict=True)]
    begins = accumulate(map(len, lines))
    return [end for at, end in zip(range(len(full)), begins, strict=False) if full[at] and not any(_near(ragged, at))]


def _near(values: Sequence[V], at: int) -> Sequence[V]:
    """Those of the lines around a line, its own left out."""
    return (*values[max(0, at - NEAR) : at], *values[at + 1 : at + 1 + NEAR])


def _is_full(bodies: Sequence[str], at: int, word: int) -> bool:
    """Whether a word of so many characters had no place on a line, among the lines around it."""
    width = len(bodies[at])
    return any(wide - word <= width <= wide + RAGGED for wide in sorted(map(len, _near(bodies, at)))[-2:])


def _goes_on(line: tuple[str, str], onward: tuple[str, str]) -> int:
    """The length of the next line's first word where it goes on with this one, else 0; lines with and without what ends them.

    It does where both are prose with the same mark before them, this one ends no sentence and the next begins in lower case, and
    with no item of a list.
    """
    (whole, body), (_, rest) = line, onward
    first, second = _ONWARD.match(body), _ONWARD.match(rest)
    mark = first and first[1]
    if not second or second[1] != mark or not second[2][0].islower() or _ITEM.fullmatch(second[2]):
        return 0
    one_break = whole[len(body) :].strip(" \t") in _ONE_BREAK
    ended = body.rstrip(_CLOSING).endswith(_ENDS)
    return len(second[2]) if one_break and not ended and _asks(body, 0, len(body)) else 0


def _first_lines(spans: Iterable[tuple[int, int]], wraps: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The first lines of sentences, or of joined lines, that hold several: a line put before others is found so."""
    for start, end in spans:
        at = bisect_right(wraps, start)
        if at < len(wraps) and wraps[at] < end:
            yield start, wraps[at]


def _asks(text: str, start: int, end: int) -> bool:
    return len(_WORD.findall(text, start, end)) >= WORDS


def _sentences(text: str, wraps: Set[int]) -> Iterator[tuple[int, int]]:
    """Sentences and lines, short ones in runs; what may ask for something never in a run with others."""
    begun = None
    for start, end in _spans(text, _BREAK, wraps):
        asks = _asks(text, start, end)
        if asks and begun is not None:
            yield begun, start
            begun = None
        begun = start if begun is None else begun
        if asks or end - begun >= SHORTEST:
            yield begun, end
            begun = None
    if begun is not None:
        yield begun, len(text)


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
    # A tenth less than the share that fits beside what is there whatever the text (an answer's prompt), because tokens are not
    # spread evenly; always less than before, so this ends.
    fixed = min(len(encode("")), max_tokens - 1)
    characters = max(1, min(length - 1, length * (max_tokens - fixed) * 9 // ((len(encoded) - fixed) * 10)))
    smaller = Window(characters=characters, overlap=min(overlap, characters * 3 // 4))
    for part in windows(segment.text, smaller, segment.view):
        moved = replace(part, start=segment.start + part.start, end=segment.start + part.end, sentence=segment.sentence)
        yield from fit(moved, overlap, encode, max_tokens)
