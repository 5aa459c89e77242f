"""Decoded views of a text: the text in, what a reader who decodes it would see out. Bounded in number, size and time; pure.

A decoder finds the places where a text hides another (a base64 run, words in letters that only look Latin) and yields them as
edits. A view is the text around the edits, edits applied: unchanged text further than `MARGIN` characters from any edit is left
out, since the original is screened anyway. An edit that a tokenizer undoes by itself (case, accents) is none, so ordinary text
has no view. To add a view: one function in `decoders`, and one line in `VIEWS`.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Final

from guard_server import decoders
from guard_server.decoders import Edit

MARGIN: Final = 80
"""Characters of unchanged text kept on each side of an edit: enough for the instruction that points at it."""

Decoder = Callable[[str], Iterable[Edit]]


@dataclass(frozen=True, slots=True)
class View:
    """What a decoding shows."""

    name: str
    """Of the decoder, or of both, joined by `+`, where one was found inside another."""
    text: str
    read: tuple[tuple[int, int], ...] = ()
    """Spans of what it was found in, characters, for which it shows plain ASCII."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A view that was found and not read, or not to its end."""

    view: str
    reason: str


@dataclass(frozen=True, slots=True)
class ViewSettings:
    """Which views are looked for, in order of preference, and their limits."""

    names: tuple[str, ...]
    max_views: int = 8
    max_bytes: int = 20_000
    """Of one view, as UTF-8."""
    max_total_bytes: int = 60_000
    depth: int = 2
    """How many decodings deep."""


@dataclass(frozen=True, slots=True)
class Views:
    """The views of one text, the original not among them."""

    found: tuple[View, ...]
    skipped: tuple[Skipped, ...]
    characters_read: int
    """By all decoders together: what looking for views cost."""


def views(text: str, settings: ViewSettings) -> Views:
    """Every view of a text within the limits, nested ones after those they lie in, and which ones the limits left out.

    Raises `KeyError` for a name that is not in `VIEWS`.
    """
    found: list[View] = []
    skipped: list[Skipped] = []
    seen: set[str] = set()
    total = read = 0
    level = [View("", text)]
    for _ in range(settings.depth):
        first_new = len(found)
        for source in level:
            for name in settings.names:
                read += len(source.text)
                edits = _real(source.text, VIEWS[name](source.text))
                first = next(edits, None)
                if first is None:
                    continue
                full_name = f"{source.name}+{name}" if source.name else name
                shown, whole, done = _excerpt(source.text, chain([first], edits), settings.max_bytes)
                seen = seen or {_plain(text)}
                if (key := _plain(shown)) in seen:
                    continue
                seen.add(key)
                size = len(shown.encode())
                if len(found) >= settings.max_views or total + size > settings.max_total_bytes:
                    skipped.append(
                        Skipped(full_name, f"over {settings.max_views} views or {settings.max_total_bytes} bytes in all")
                    )
                    continue
                if not whole:
                    skipped.append(Skipped(full_name, f"cut at {settings.max_bytes} bytes"))
                total += size
                found.append(View(full_name, shown, done))
        level = found[first_new:]
    return Views(tuple(found), tuple(skipped), read)


def _real(text: str, edits: Iterable[Edit]) -> Iterator[Edit]:
    """The edits that a tokenizer would notice."""
    return (edit for edit in edits if _plain(text[edit[0] : edit[1]]) != _plain(edit[2]))


def _excerpt(text: str, edits: Iterable[Edit], room: int) -> tuple[str, bool, tuple[tuple[int, int], ...]]:
    """The text around the edits, these applied, of at most `room` bytes; whether that is all; and spans made plain ASCII."""
    pieces: list[str] = []
    plain: list[tuple[int, int]] = []
    size = done = 0
    for start, end, new in edits:
        if start - done > 2 * MARGIN or not pieces:
            pieces += [text[done : min(done + MARGIN, start - MARGIN)] + "\n"] if pieces else []
            done = max(done, start - MARGIN)
        pieces += [text[done:start], new]
        if new.isascii():
            plain.append((start, end))
        size += sum(map(len, pieces[-2:]))
        done = end
        if size > room:
            break
    pieces.append(text[done : done + MARGIN])
    data = "".join(pieces).encode()
    return data[:room].decode(errors="ignore"), len(data) <= room, tuple(plain)


def _plain(text: str) -> str:
    """What is left of a text where a tokenizer drops case and accents.

    One character at a time: normalising a long run of accents at once would take quadratic time.
    """
    low = text.lower()
    return low if low.isascii() else _NON_ASCII.sub(lambda found: _without_accents(found.group()), low)


def _without_accents(character: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFD", character) if unicodedata.category(c) != "Mn")


_NON_ASCII: Final = re.compile(r"[^\x00-\x7f]")


VIEWS: Final[dict[str, Decoder]] = {
    "tags": decoders.tags,
    "selectors": decoders.selectors,
    "invisible": decoders.invisible,
    "separators": decoders.separators,
    "blanks": decoders.blanks,
    "compatibility": decoders.compatibility,
    "lookalikes": decoders.lookalikes,
    "base64": decoders.base64,
    "hex": decoders.hexadecimal,
    "percent": decoders.percent,
    "entities": decoders.entities,
    "escapes": decoders.escapes,
    "leetspeak": decoders.leetspeak,
    "spaced": decoders.spaced,
    "braille": decoders.braille,
    "rot13": decoders.rot13,
    "reversed": decoders.backwards,
    "base32": decoders.base32,
    "binary": decoders.binary,
}
"""Every view by name, in the order that the shipped policies prefer them in."""
