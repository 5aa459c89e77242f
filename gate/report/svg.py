"""Drawings for the HTML report: shapes in, SVG out, serialised by the standard library, so that no text in them can be markup.

Colours and fonts are the page's: a shape carries a class. Coordinates are in units that are about a pixel wide at any width of
the page.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element, tostring

from gate.report.escape import terminal_text

WIDTH = 360.0
"""Of every drawing: what a telephone shows unscaled."""


def shape(tag: str, *inside: Element, **attributes: str | float) -> Element:
    """An element. `class_` is the attribute `class`, `text_anchor` is `text-anchor`; numbers have at most two decimals."""
    made = Element(tag, {name.rstrip("_").replace("_", "-"): _shown(value) for name, value in attributes.items()})
    made.extend(inside)
    return made


def words(text: str, x: float, y: float, **attributes: str | float) -> Element:
    """A line of text."""
    made = shape("text", x=x, y=y, **attributes)
    made.text = terminal_text(text, 80)
    return made


def drawing(label: str, height: float, *inside: Element) -> str:
    """The whole drawing; `label` is what it says to who can't see it."""
    box = f"0 0 {_shown(WIDTH)} {_shown(height)}"
    return tostring(shape("svg", *inside, viewBox=box, role="img", aria_label=terminal_text(label, 600)), encoding="unicode")


def _shown(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
