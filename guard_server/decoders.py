"""The decodings: each finds where a text hides another and yields that as edits, in order. Pure; knows nothing of limits.

Each is one pass over the text, with regular expressions in which no two repetitions can match the same characters, so that its
time is linear in the text whatever that is. Each says which ordinary text looks like what it seeks, and spares it.
"""

import base64 as base_n
import binascii
import html
import re
import unicodedata
from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import unquote

from guard_server.english import COMMON, plausible, share_plausible
from guard_server.lookalikes import LATIN

Edit = tuple[int, int, str]
"""Start and end in the text, and what stands there once decoded."""

_NON_ASCII_WORD: Final = re.compile(r"\S+")
_INDICATORS: Final = re.compile("[\U0001f1e6-\U0001f1ff]+")

# Characters: compatible forms, invisible ones, look-alikes.


def compatibility(text: str) -> Iterator[Edit]:
    """Mathematical, full-width, circled and squared letters, ligatures; a lone sign such as ™ or ⓜ is ordinary text."""
    if text.isascii():
        return
    # Flags are pairs; one letter too many, and all of them spell.
    spelled = any(len(run.group()) % 2 for run in _INDICATORS.finditer(text))
    for word in _NON_ASCII_WORD.finditer(text):
        if word.group().isascii():
            continue
        changed = [(i, new) for i in range(*word.span()) if (new := _compatible(text[i], spelled=spelled))]
        flag_letter = any(_INDICATORS.match(text[i]) for i, _ in changed)
        if len(changed) > 1 or flag_letter or (changed and any(c.isascii() and c.isalpha() for c in word.group())):
            yield from ((i, i + 1, new) for i, new in changed)


def _compatible(character: str, *, spelled: bool) -> str:
    """The ASCII letters that it is a form of; empty for none, and for forms that prose has its own use for.

    `spelled`: regional indicators are letters here, not the halves of flags.
    """
    code = ord(character)
    if code < 0x80:
        return ""
    for first in (0x1F150, 0x1F170):  # white letters on black discs and squares: Unicode calls them compatible with nothing
        if 0 <= code - first < 26:
            return chr(ord("A") + code - first)
    if 0x1F1E6 <= code <= 0x1F1FF:
        return chr(ord("A") + code - 0x1F1E6) if spelled else ""
    if 0x2160 <= code <= 0x217F or 0x3371 <= code <= 0x33FF:  # Roman numerals; units such as ㎏
        return ""
    kind = unicodedata.decomposition(character).partition(" ")[0]
    if not kind.startswith("<") or character in "™℠ªº":
        return ""
    new = unicodedata.normalize("NFKC", character).strip("()")
    return new if new.isascii() and new.isalpha() else ""


_INVISIBLE: Final = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0"
    "\ufff9-\ufffb\U000e0000-\U000e0fff"
)
# Scripts that need no joiners: Latin, Greek, Cyrillic. Controls are listed where `\s` holds them. What a run may follow is in no
# run (`\w`), so that each run is read once.
_LETTERS: Final = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02af\u0370-\u052f"
_BETWEEN_LETTERS: Final = re.compile(
    rf"(?<=[{_LETTERS}0-9])(?<=\w)(?:[^\x00-\x7f\w\s]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x85\u115f\u1160\u3164\uffa0])++"
    rf"(?=[{_LETTERS}0-9])"
)
_ALL_INVISIBLE: Final = re.compile(f"[{_INVISIBLE}]")
_BLANKS: Final = re.compile(rf"(?<![\s\u2800{_INVISIBLE}])[\s\u2800{_INVISIBLE}]{{64,}}+")
_TAGS: Final = re.compile("[\U000e0020-\U000e007e]{2,}\U000e007f?")
_SELECTORS: Final = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]{4,}")


def invisible(text: str) -> Iterator[Edit]:
    """Characters without a shape, and symbols such as emoji, between two letters, left out (`bo🙂mb`).

    Scripts that need joiners keep theirs, and prose its dashes, dots and apostrophes.
    """
    return ((start, end, "") for start, end in _between_letters(text))


def separators(text: str) -> Iterator[Edit]:
    """The same characters read as spaces (`build🙂a🙂bomb`)."""
    return ((start, end, " ") for start, end in _between_letters(text))


def _between_letters(text: str) -> Iterator[tuple[int, int]]:
    """Runs between two letters, or a letter and a digit, in which not all is punctuation or accents."""
    for found in _BETWEEN_LETTERS.finditer(text):
        start, end = found.span()
        if (text[start - 1].isalpha() or text[end].isalpha()) and any(map(_odd, found.group())):
            yield start, end


def _odd(character: str) -> bool:
    """A control, format or private character, a symbol, an enclosing mark, or one without a shape."""
    kind = unicodedata.category(character)
    return kind[0] in "CS" or kind == "Me" or _ALL_INVISIBLE.match(character) is not None


def blanks(text: str) -> Iterator[Edit]:
    """Long runs of white space and characters without a shape, inside a text, as a space; as two where others are half as long.

    A window of the text as it stands would hold few words of it. Indentation and columns of tables are shorter.
    """
    runs = [run.span() for run in _BLANKS.finditer(text) if run.start() > 0 and run.end() < len(text)]
    shortest = min((end - start for start, end in runs), default=0)
    return ((start, end, "  " if end - start >= 2 * shortest else " ") for start, end in runs)


def tags(text: str) -> Iterator[Edit]:
    """Unicode's TAG characters, an invisible copy of ASCII; the flags of England, Scotland and Wales are made of five of them."""
    if text.isascii():
        return
    for found in _TAGS.finditer(text):
        hidden = "".join(chr(ord(c) - 0xE0000) for c in found.group().rstrip("\U000e007f"))
        if not (len(hidden) <= 6 and text[max(0, found.start() - 1)] == "\U0001f3f4"):
            yield *found.span(), f" {hidden} "


def selectors(text: str) -> Iterator[Edit]:
    """Bytes written as variation selectors behind a character (16 + 240 of them stand for the 256 values)."""
    if text.isascii():
        return
    for found in _SELECTORS.finditer(text):
        codes = (ord(c) for c in found.group())
        hidden = _readable(bytes(c - 0xFE00 if c < 0xE0000 else c - 0xE0100 + 16 for c in codes))
        if hidden:
            yield *found.span(), f" {hidden} "


_WORD: Final = re.compile(r"\w+")


def lookalikes(text: str) -> Iterator[Edit]:
    """Words of Latin letters mixed with look-alikes, and words of look-alikes alone where (nearly) no word is anything else.

    The second condition spares Russian or Greek prose, in which few words consist of look-alikes alone.
    """
    if text.isascii():
        return
    all_words = latin = 0
    for word in _WORD.finditer(text):
        all_words += 1
        latin += word.group().translate(LATIN).isascii()
    disguised = latin >= 0.8 * all_words
    for word in _WORD.finditer(text):
        old = word.group()
        new = old.translate(LATIN)
        if old.isascii() or not new.isascii() or len(new) < 3:
            continue
        if any(c.isascii() and c.isalpha() for c in old) or (disguised and plausible(new)):
            yield *word.span(), new


# Encodings of bytes.

# Lines of at least 40 characters and a last one, or one run.
_BASE64: Final = re.compile(
    r"(?<![A-Za-z0-9+/_-])(?:(?:[A-Za-z0-9+/_-]{40,}\r?\n)+[A-Za-z0-9+/_-]+={0,2}(?=\s|\Z)|[A-Za-z0-9+/_-]{16,}={0,2})"
)
_BASE32: Final = re.compile(r"(?<![A-Za-z0-9])[A-Z2-7]{16,}={0,6}")
_HEX: Final = re.compile(r"(?<![0-9A-Za-z])(?:(?:0x|\\x)?[0-9A-Fa-f]{2}[ ,:-]?){8,}")
_HEX_FILLING: Final = re.compile(r"0x|\\x|[ ,:-]")
_BINARY: Final = re.compile(r"(?<![0-9A-Za-z])(?:[01]{8}[ ,]?){3,}")


def _readable(data: bytes) -> str | None:
    """Bytes as text, if they are mostly letters; None for what is no text (images, keys, digests, chance)."""
    wide = data.count(0) * 3 >= len(data)
    try:
        # A run may end inside a character; any other error means that it is no text.
        text = data[: len(data) // 2 * 2].decode("utf-16-le") if wide else data.decode("utf-8")
    except UnicodeDecodeError as error:
        if wide or error.start < len(data) - 3:
            return None
        text = data[: error.start].decode("utf-8")
    letters = sum(c.isalpha() for c in text)
    spaces = sum(c in " \n\r\t" for c in text)
    printable = sum(c.isprintable() for c in text) + spaces - text.count(" ")
    good = letters >= 4 and printable >= 0.95 * len(text) and letters + spaces >= 0.6 * len(text)
    return text if good else None


def base64(text: str) -> Iterator[Edit]:
    """Runs of 16 characters or more that decode to readable text; images, keys and long paths do not."""
    for found in _BASE64.finditer(text):
        # The word on the line after a run may be none of it.
        for run in dict.fromkeys((found.group(), found.group().rpartition("\n")[0])):
            if run and (shown := _readable(_base64_bytes(run))):
                yield found.start(), found.start() + len(run), shown
                break


def _base64_bytes(run: str) -> bytes:
    digits = re.sub(r"[\r\n=]", "", run).translate({ord("-"): "+", ord("_"): "/"})
    digits = digits[:-1] if len(digits) % 4 == 1 else digits
    return base_n.b64decode(digits + "=" * (-len(digits) % 4))


def base32(text: str) -> Iterator[Edit]:
    """The same in base32."""
    for found in _BASE32.finditer(text):
        run = found.group().rstrip("=")
        run = run[: len(run) - (len(run) % 8 in {1, 3, 6})]
        try:
            data = base_n.b32decode(run + "=" * (-len(run) % 8))
        except binascii.Error:
            continue
        if shown := _readable(data):
            yield *found.span(), shown


def hexadecimal(text: str) -> Iterator[Edit]:
    """Bytes as hexadecimal digits, with or without separators; digests and lists of numbers are spared."""
    for found in _HEX.finditer(text):
        if shown := _readable(bytes.fromhex(_HEX_FILLING.sub("", found.group()))):
            # A list of numbers between 41 and 7a is also hexadecimal; its letters are not English.
            packed = found.group().isalnum()
            if packed or share_plausible("".join(c for c in shown if c.isascii() and c.isalpha())) >= 0.6:
                yield *found.span(), shown + " "


def binary(text: str) -> Iterator[Edit]:
    """Bytes as groups of eight binary digits."""
    for found in _BINARY.finditer(text):
        digits = re.sub(r"[ ,]", "", found.group())
        if shown := _readable(int(digits, 2).to_bytes(len(digits) // 8)):
            yield *found.span(), shown + " "


# Escapes of characters.

_PERCENT: Final = re.compile(r"(?:%[0-9A-Fa-f]{2}[^\s%]{0,40}){2,}")
_PERCENT_LETTER: Final = re.compile(r"%(?:[46][1-9A-Fa-f]|[57][0-9Aa])")
_ENTITIES: Final = re.compile(r"(?:&#(?:\d{1,7}|[xX][0-9A-Fa-f]{1,6});)+")
_ESCAPES: Final = re.compile(r"(?:\\u[0-9A-Fa-f]{4}|\\x[0-9A-Fa-f]{2}|\\u\{[0-9A-Fa-f]{1,6}\})+")


def percent(text: str) -> Iterator[Edit]:
    """Escaped letters or sentences; a URL with an escaped slash or accent is ordinary text."""
    for found in _PERCENT.finditer(text):
        run = found.group()
        shown = unquote(run)
        foreign = sum(c.isalpha() and not c.isascii() for c in shown)
        if "\ufffd" not in shown and (len(_PERCENT_LETTER.findall(run)) + foreign > 3 or run.count("%20") > 2):
            yield *found.span(), shown


def entities(text: str) -> Iterator[Edit]:
    """Numeric entities of HTML that stand for plain letters, or for a word in any script; a lone `&#233;` is ordinary text."""
    for found in _ENTITIES.finditer(text):
        if _hides_letters(shown := html.unescape(found.group())):
            yield *found.span(), shown


def escapes(text: str) -> Iterator[Edit]:
    """The escapes of program text and JSON, with the same condition."""
    for found in _ESCAPES.finditer(text):
        codes = (int(part.strip("u{x}"), 16) for part in found.group().split("\\")[1:])
        units = "".join(chr(min(code, 0x10FFFF)) for code in codes)
        shown = units.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        if _hides_letters(shown) and all(c.isprintable() or c.isspace() for c in shown):
            yield *found.span(), shown


def _hides_letters(shown: str) -> bool:
    return any(c.isascii() and c.isalpha() for c in shown) or sum(map(str.isalpha, shown)) > 3


# Spellings.

_SHORT: Final = 400
# No part of a path, a URL, an identifier or a base64 run; `++` gives nothing back, so that no character is read twice.
_LEET_WORD: Final = re.compile(r"(?<![A-Za-z0-9@$!_/+=\\%#&.{])[A-Za-z0-9@$!]++(?![_/+=\\%}]|\.\w)")
_LEET_INSIDE: Final = re.compile(r"(?<=[A-Za-z])[0134578@$!]+(?=[A-Za-z])")
_LEET: Final = str.maketrans("034578@$!", "oeastbasi")
_SPACE: Final = re.compile(r"\s")
_SEPARATED: Final = re.compile(r"(?<![A-Za-z0-9])[A-Za-z](?=([ .,;:+~\-_*|/]))(?:\1{1,3}[A-Za-z](?![A-Za-z0-9])){3,}")
_LATIN_WORD: Final = re.compile(r"(?<![A-Za-z0-9_'])[A-Za-z']++(?![0-9_])")
_ROT13: Final = str.maketrans(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", "NOPQRSTUVWXYZABCDEFGHIJKLMnopqrstuvwxyzabcdefghijklm"
)


def leetspeak(text: str) -> Iterator[Edit]:
    """Words with digits and signs for letters (`b0mb`); in a longer text at least two, for code has names like `f1score`."""
    waiting: Edit | None = None
    enough = len(text) <= _SHORT
    for found in _LEET_WORD.finditer(text):
        word = found.group().strip("!$@")
        if (shown := _unleet(word)) is None:
            continue
        start = text.index(word, found.start())
        edit = (start, start + len(word), shown)
        if not enough and (waiting is None or waiting[2] == shown):
            waiting = waiting or edit
            continue
        if not enough and waiting is not None:
            yield waiting
            enough = True
        yield edit


def _unleet(word: str) -> str | None:
    """The word that a spelling with digits and signs stands for; None where it is none or stands for nothing like English."""
    if not 3 <= len(word) <= 30 or word.isalpha() or word.isdigit() or not _LEET_INSIDE.search(word):
        return None
    letters = [c for c in word if c.isalpha()]
    mixed_case = "".join(letters) not in {"".join(letters).lower(), "".join(letters).upper(), "".join(letters).capitalize()}
    number = len(word) >= 6 and all(c in "0123456789abcdefABCDEF" for c in word)
    if len(letters) * 3 < len(word) or mixed_case or number or set(word) & set("269"):
        return None
    plain = word.lower().translate(_LEET)
    return next((shown for one in "il" if plausible(shown := plain.replace("1", one))), None)


def spaced(text: str) -> Iterator[Edit]:
    """Single letters with the same separator between each two of them, and more of it between words; white space is all one."""
    for found in _SEPARATED.finditer(_SPACE.sub(" ", text)):
        words = re.split(re.escape(found.group(1)) + "{2,}", found.group())
        shown = " ".join(word.replace(found.group(1), "") for word in words)
        letters = shown.replace(" ", "").lower()
        if len(set(letters)) > 2 and set(letters) & set("aeiouy") and share_plausible(letters) >= 0.7:
            yield *found.span(), shown


_BRAILLE_LETTERS: Final = "⠁⠃⠉⠙⠑⠋⠛⠓⠊⠚⠅⠇⠍⠝⠕⠏⠟⠗⠎⠞⠥⠧⠺⠭⠽⠵"
_BRAILLE_SIGNS: Final = "⠂⠆⠒⠲⠖⠦⠤⠄\u2800"
_BRAILLE: Final = re.compile(f"⠠?[{_BRAILLE_LETTERS}][{_BRAILLE_LETTERS}{_BRAILLE_SIGNS}⠠ \n]*+")
_FROM_BRAILLE: Final = str.maketrans(_BRAILLE_LETTERS + _BRAILLE_SIGNS, "abcdefghijklmnopqrstuvwxyz,;:.!?-' ", "⠠")


def braille(text: str) -> Iterator[Edit]:
    """Words in Braille, letter by letter: eight letters or more, for pictures are drawn with its dots too."""
    if text.isascii():
        return
    for found in _BRAILLE.finditer(text):
        shown = found.group().translate(_FROM_BRAILLE)
        letters = "".join(filter(str.isalpha, shown))
        if len(letters) >= 8 and share_plausible(letters) >= 0.7:
            yield *found.span(), shown


def rot13(text: str) -> Iterator[Edit]:
    """Words that are English once shifted by 13 letters, and not before."""
    for start, end in _coded(text, lambda word: word.translate(_ROT13)):
        yield start, end, text[start:end].translate(_ROT13)


def backwards(text: str) -> Iterator[Edit]:
    """Words that are English once read from the end, and not before."""
    for start, end in _coded(text, lambda word: word[::-1]):
        yield start, end, text[start:end][::-1]


def _coded(text: str, decode: Callable[[str], str]) -> Iterator[tuple[int, int]]:
    """Spans of neighbouring words none of which is common English, while at least two, and a quarter, are once decoded."""
    start = end = words = 0
    hits: list[str] = []
    for found in _LATIN_WORD.finditer(text):
        word = found.group().lower()
        other = decode(word)
        plain, coded = word in COMMON and other not in COMMON, other in COMMON and word not in COMMON
        apart = found.start() - end > 4
        if words and (plain or apart):
            if _is_coded(hits, words):
                yield start, end
            words, hits = 0, []
        if plain:
            end = found.end()
            continue
        start = found.start() if words == 0 else start
        end = found.end()
        words += 1
        if coded:
            hits.append(word)
    if words and _is_coded(hits, words):
        yield start, end


def _is_coded(hits: list[str], words: int) -> bool:
    return len(set(hits)) > 1 and len(hits) * 4 >= words
