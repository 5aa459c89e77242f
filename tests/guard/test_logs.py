"""Logs: one JSON object a line; digests of texts, and the text itself only where an operator asked for it."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard_server.logs import TextLog, make_logger
from guard_server.settings import Settings


@given(st.text(max_size=50), st.booleans())
def test_no_text_unless_asked_for(text: str, share: bool) -> None:
    """Whatever the share, fields hold digest and length alone while `log_text` is off."""
    fields = TextLog(Settings(log_text=False, log_text_share=float(share))).fields(text)
    assert fields == {"text_sha256": hashlib.sha256(text.encode()).hexdigest(), "characters": len(text)}


@given(st.characters(categories=["Cs"]))
def test_a_text_that_is_no_unicode_has_a_digest_too(text: str) -> None:
    """A lone surrogate does not stop a request from being logged."""
    assert len(str(TextLog(Settings()).fields(text)["text_sha256"])) == 64


def test_text_is_there_where_it_is_asked_for_whole() -> None:
    """With `log_text` and a share of 1 every text is logged; with a share of 0 none."""
    assert TextLog(Settings(log_text=True, log_text_share=1)).fields("abc")["text"] == "abc"
    assert "text" not in TextLog(Settings(log_text=True, log_text_share=0)).fields("abc")


def test_about_the_configured_share_is_logged() -> None:
    """A share of a quarter logs a quarter of 4,000 texts, give or take seven standard deviations."""
    log = TextLog(Settings(log_text=True, log_text_share=0.25))
    logged = sum("text" in log.fields("abc") for _ in range(4000))
    assert 808 < logged < 1192


def test_a_line_is_one_json_object_with_level_and_time(capsys: pytest.CaptureFixture[str]) -> None:
    """A value cannot break out of its line: newlines and control characters are escaped."""
    make_logger(Settings()).warning("seen", reason='a\n{"event": "forged"}\x1b[2J\ud800')
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    line = json.loads(lines[0])
    assert (line["event"], line["level"]) == ("seen", "warning")
    assert line["timestamp"].endswith("Z")


@pytest.mark.parametrize("log_json", [True, False])
def test_a_level_below_the_configured_one_is_silent(capsys: pytest.CaptureFixture[str], log_json: bool) -> None:
    """`log_level` is a floor, in both forms."""
    logger = make_logger(Settings(log_level="warning", log_json=log_json))
    logger.info("quiet")
    logger.error("loud")
    err = capsys.readouterr().err
    assert "loud" in err
    assert "quiet" not in err


def test_a_text_line_cannot_be_forged_or_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """In the readable form too, a value stays on its line and its control characters are shown, not sent."""
    make_logger(Settings(log_json=False)).warning("seen", reason="a\nforged\x1b[2J")
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "\x1b[2J" not in err
