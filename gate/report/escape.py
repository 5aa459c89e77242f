"""How text that others wrote enters a report: any string of a model, suite, policy or path in, one that only shows out.

Nothing here deletes: a character that could act or hide (terminal escapes, bidirectional and zero-width controls, tag characters,
lone surrogates) is written as its Python escape, and what is cut is counted. Every renderer takes its escaping from this module.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from gate.records import Record, sha256_hex

INVISIBLE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# Letters, marks and symbols that draw nothing: grapheme joiner, Hangul fillers, Khmer vowels, braille blank, variation selectors.
INVISIBLE_OTHERS = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\ufe00-\ufe0f\U000e0100-\U000e01ef]")
# An underscore between letters (`text_generation`) marks nothing in GitHub Markdown, so it may stay readable.
MARKDOWN_PUNCTUATION = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")
MASK_WORDS = 6
MASK_CHARACTERS = 48


class Excerpt(Record):
    """A prompt or an answer as a report shows it: its beginning, and what tells the whole apart."""

    text: str
    """The beginning; all of it when `shown` equals `characters`."""
    shown: int
    characters: int
    """Length of the whole text in Unicode code points."""
    sha256: str
    """Of the whole text in UTF-8 (lone surrogates passed through)."""
    masked: bool


@lru_cache(maxsize=4096)
def _shown(character: str) -> str:
    """The character itself, or its Python escape if it could act or hide."""
    if unicodedata.category(character) in INVISIBLE_CATEGORIES or INVISIBLE_OTHERS.match(character):
        return character.encode("unicode_escape").decode("ascii")
    return character


def visible(text: str, *, keep_newlines: bool = False) -> str:
    r"""`text` with every control, format, unassigned or invisible character written as `\n`, `\x1b`, `\u202e` and the like."""
    return "".join(c if keep_newlines and c == "\n" else _shown(c) for c in text)


def cut(text: str, limit: int) -> str:
    """The first `limit` characters, and how many more there were."""
    return text if len(text) <= limit else f"{text[:limit]}… [{len(text) - limit} more characters]"


def excerpt(text: str, *, unmasked: bool, limit: int) -> Excerpt:
    """The first few words of `text` (never more than half of it), or its first `limit` characters where `unmasked`."""
    head = text[:limit] if unmasked else _first_words(text)
    digest = sha256_hex(text.encode("utf-8", "surrogatepass"))
    return Excerpt(text=head, shown=len(head), characters=len(text), sha256=digest, masked=not unmasked)


def _first_words(text: str) -> str:
    head = text[: min(MASK_CHARACTERS, len(text) // 2)]
    words = list(re.finditer(r"\S+", head))
    # The last word may be cut in two; show it only where it is the only one (scripts without spaces, one huge token).
    keep = words[: min(MASK_WORDS, max(1, len(words) - 1))]
    return head[: keep[-1].end()] if keep else ""


def terminal_text(text: str, limit: int = 500) -> str:
    """One line that is safe to print in a terminal."""
    return visible(cut(text, limit))


def xml_text(text: str, limit: int = 2000) -> str:
    """Lines that any XML 1.0 parser accepts; the serialiser escapes the markup."""
    return visible(cut(text, limit), keep_newlines=True)


def html_text(value: object) -> object:
    """One line for a page whose template escapes markup by itself; what is markup already, or no text, is left as it is.

    A template applies it to whatever it prints, so that nothing can be forgotten.
    """
    return value if not isinstance(value, str) or hasattr(value, "__html__") else visible(cut(value, 1500))


def markdown_text(text: str, limit: int = 500) -> str:
    """One line of prose or one table cell in GitHub Markdown: no markup, HTML, link, mention or issue reference comes of it.

    GitHub looks for mentions, e-mail addresses and references after rendering, where an entity is a plain character again, so
    `@`, `#`, `://`, `www.` and `GH-` are shown by their look-alikes (＠ ＃ ：// www． GH‑).
    """
    line = visible(cut(text, limit))
    for sign, shown in (("@", "＠"), ("#", "＃"), ("://", "：//")):
        line = line.replace(sign, shown)
    line = re.sub(r"(?i)(www)\.", r"\1．", line)
    line = re.sub(r"(?i)(gh)-", "\\1\u2011", line)
    line = MARKDOWN_PUNCTUATION.sub(lambda found: "\\" + found[0], line.replace("&", "&amp;"))
    line = line.replace("<", "&lt;").replace(">", "&gt;")
    # A list, heading or rule can only begin a line: the first character is enough.
    return re.sub(r"^([-+=](?=[-+=\s]|$)|\d(?=\d*[.)](?:\s|$)))", lambda m: f"&#{ord(m[0])};", line.strip()) or "(blank)"


def markdown_code(text: str, limit: int = 200) -> str:
    r"""One line as a code span, in which nothing acts; a backtick or pipe in it is shown as `\x60` or `\x7c`."""
    line = visible(cut(text, limit)).replace("`", "\\x60").replace("|", "\\x7c")
    return f"`{line}`" if line.strip() else "(blank)" if line else "(empty)"


def markdown_block(text: str, limit: int = 2000) -> str:
    """Lines as a fenced code block, whose fence is longer than any run of backticks in it."""
    shown = visible(cut(text, limit), keep_newlines=True)
    longest = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{shown}\n{fence}"
