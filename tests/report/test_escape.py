"""What every text goes through before it stands in a report."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from gate.report.escape import cut, excerpt, markdown_block, markdown_code, markdown_text, terminal_text, visible, xml_text
from tests.report.hostile import HOSTILE

ANY_TEXT = st.text(st.characters(codec=None), max_size=80)


def inline_types(line: str) -> set[str]:
    """The kinds of inline things that a paragraph of Markdown holds."""
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(f"x {line} x")
    return {child.type for token in tokens for child in token.children or ()}


@given(ANY_TEXT)
def test_visible_leaves_no_control(text: str) -> None:
    """No character that acts or hides is left, whatever the text."""
    assert not [c for c in visible(text) if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")]


def test_visible_shows_what_it_replaces() -> None:
    """A terminal escape, an override and a lone surrogate can still be read."""
    assert visible("\x1b[2J\u202e\ud800\n") == "\\x1b[2J\\u202e\\ud800\\n"


def test_visible_keeps_ordinary_scripts() -> None:
    """Letters, accents and symbols of any script pass unchanged."""
    assert visible("été 日本 مرحبا नमस्ते €☃") == "été 日本 مرحبا नमस्ते €☃"


@given(ANY_TEXT, st.integers(0, 40))
def test_cut_counts_what_it_leaves_out(text: str, limit: int) -> None:
    """Shown and counted characters add up to all of them."""
    counted = re.search(r"… \[(\d+) more characters\]$", cut(text, limit)) if len(text) > limit else None
    assert (limit + int(counted[1]) if counted else len(cut(text, limit))) == len(text)


def test_a_line_of_a_million_characters_stays_short() -> None:
    """A megabyte without a break is cut with its count in every form."""
    line = "a" * 1_000_000
    for shown in (terminal_text(line), xml_text(line), markdown_text(line), markdown_code(line), markdown_block(line)):
        assert len(shown) < 2_100
        assert re.search(r"99\d{4} more characters", shown)


@given(ANY_TEXT)
def test_a_mask_shows_at_most_half(text: str) -> None:
    """A masked excerpt never holds more than half of the text, nor more than six words."""
    part = excerpt(text, unmasked=False, limit=10)
    assert len(part.text) * 2 <= len(text)
    assert len(part.text.split()) <= 6
    assert text.startswith(part.text)


def test_texts_that_differ_at_the_end_differ_by_digest() -> None:
    """Two answers with the same first words can be told apart."""
    one, other = (excerpt(f"the same first words and then {end}", unmasked=False, limit=10) for end in "ab")
    assert one.text == other.text
    assert one.sha256 != other.sha256


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_text_is_only_text(text: str) -> None:
    """No hostile text becomes anything but text inside a line."""
    assert inline_types(markdown_text(text)) <= {"text", "text_special"}


@given(ANY_TEXT)
def test_markdown_text_never_acts(text: str) -> None:
    """No text at all becomes markup, a mention, an autolink, an issue reference or a further line."""
    shown = markdown_text(text)
    assert inline_types(shown) <= {"text", "text_special"}
    assert "\n" not in shown
    assert not re.search(r"(?i)@|(?<!&)#|://|www\.|gh-\d", shown)


@given(ANY_TEXT)
def test_markdown_code_is_one_code_span(text: str) -> None:
    """A code span holds the whole text and nothing after it."""
    shown = markdown_code(text)
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(shown)
    children = [child for token in tokens for child in token.children or ()]
    assert [child.type for child in children] == ["code_inline" if visible(text).strip() else "text"]
    assert "|" not in shown


@given(ANY_TEXT)
def test_markdown_block_is_one_fence(text: str) -> None:
    """Whatever backticks a text holds, its block ends where we end it."""
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(markdown_block(text))
    assert [token.type for token in tokens] == ["fence"]


def test_words_with_underscores_stay_readable() -> None:
    """A task's name is not littered with backslashes."""
    assert markdown_text("code_generation (native+system): 1.6 % of _x_") == "code_generation (native+system): 1.6 % of \\_x\\_"
