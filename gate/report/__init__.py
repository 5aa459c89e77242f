"""The reports: evidence in, one string per format out. A format is a module and a line in `FORMATS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from gate.report.evidence import LETTERS, Evidence, Example, Track
from gate.report.html import render_html
from gate.report.json_report import render_json
from gate.report.junit import render_junit
from gate.report.markdown import render_markdown
from gate.report.text import render_text

__all__ = [
    "FORMATS",
    "LETTERS",
    "Evidence",
    "Example",
    "Format",
    "Track",
    "render_html",
    "render_json",
    "render_junit",
    "render_markdown",
    "render_text",
]


class Format(NamedTuple):
    """A report format."""

    file: str
    """Its name in the run folder."""
    render: Callable[[Evidence], str]


FORMATS: dict[str, Format] = {
    "text": Format("report.txt", render_text),
    "markdown": Format("report.md", render_markdown),
    "html": Format("report.html", render_html),
    "json": Format("report.json", render_json),
    "junit": Format("junit.xml", render_junit),
}


def render_all(evidence: Evidence) -> dict[str, str]:
    """Every format: file name → text."""
    return {format_.file: format_.render(evidence) for format_ in FORMATS.values()}
