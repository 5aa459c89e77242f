"""The day on which chat templates are rendered, and whether a template does more with the day than print it. Pure.

In: a way to render with a given `strftime_now`. Out: whether every text is the same but for the dates in it. A template that
takes another branch on another day could show the gate a prompt that production never sees, since the gate's day is known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from jinja2 import TemplateError

GATE_DAY: Final = datetime(2025, 1, 1)
"""The gate renders on one fixed day, so that a prompt is the same tomorrow. Without a zone, as in transformers: %Z is empty."""

DAYS: Final = tuple(GATE_DAY + i * timedelta(days=11, hours=7, minutes=13, seconds=17, microseconds=1009) for i in range(220))
"""The gate's day first, then steps of a little over 11 days until October 2031: every weekday, month, hour and day of month."""

FEW_DAYS: Final = (GATE_DAY, DAYS[60], DAYS[101])
"""For a check at every prompt: the gate's day and two others."""

TEMPLATE_ERRORS: Final = (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError)
"""What a sandboxed chat template can raise: Jinja's own errors (`raise_exception` among them) and those of its expressions."""

Clock = Callable[[str], str]
"""strftime_now: a format → the date, written so."""
Render = Callable[[Clock], str | None]
"""Renders with that clock; None where the template raises."""

_MARK = re.compile("\ue000([0-9]+)\ue001")


def clock_of(day: datetime) -> Clock:
    """`strftime_now` as transformers defines it, for a given day."""

    def strftime_now(format: str) -> str:  # noqa: A002 - as in transformers, whose templates may name it
        return day.strftime(format)

    return strftime_now


GATE_CLOCK: Final = clock_of(GATE_DAY)


def only_prints_the_day(render: Render, days: Sequence[datetime] = DAYS) -> bool:
    """Whether the text of each of `days` is one and the same text with that day's dates put in (or none on all of them).

    Where the dates stand is found by rendering with marks in their place, not by searching for them: "01" may stand anywhere.
    """
    formats: list[str] = []

    def mark(format: str) -> str:  # noqa: A002 - as in transformers, whose templates may name it
        GATE_DAY.strftime(format)  # raises for what a real clock would raise for
        formats.append(format)
        return f"\ue000{len(formats) - 1}\ue001"

    marked = render(mark)
    return all(render(clock_of(day)) == _filled(marked, formats, day) for day in days)


def _filled(marked: str | None, formats: Sequence[str], day: datetime) -> str | None:
    """The marked text with the dates of `day`; a mark that is none of ours is left."""
    if marked is None:
        return None
    return _MARK.sub(lambda m: day.strftime(formats[int(m[1])]) if int(m[1]) < len(formats) else m[0], marked)
