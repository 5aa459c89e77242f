"""The rates of cells as intervals on one scale, against limit and baseline: statistics and verdict in, SVG out. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from gate.records import TaskStats, Verdict
from gate.report.escape import visible
from gate.report.svg import WIDTH, drawing, shape, words
from gate.report.tables import bound_of, percent, place_of, status_of, trimmed

ROW, LINE = 38.0, 14.0
LONG, MOST = 34, 46
"""Characters of a name beside which its count has no room, and of a name that is cut."""
TOP = 4.0
LEFT, RIGHT = 10.0, WIDTH - 10.0
SIGNS = {"broken": "✕", "undecided": "?", "waived": "≈", "met": "✓", "no rule": "·"}
"""What tells the statuses apart beside their colour."""


def interval_plot(title: str, stats: Sequence[TaskStats], verdict: Verdict) -> str:
    """One row per statistic: its name and count, the interval, the rate, limit and baseline."""
    lines = 2 if any(len(_name(s, verdict)) > LONG for s in stats) else 1
    row = ROW + LINE * (lines - 1)
    bottom = TOP + row * len(stats)
    shapes: list[Element] = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = _x(share)
        anchor = "start" if share == 0 else "end" if share == 1 else "middle"
        shapes.append(shape("line", x1=x, x2=x, y1=TOP, y2=bottom + 4, class_="grid"))
        edge = LEFT if share == 0 else RIGHT if share == 1 else x
        shapes.append(words(trimmed(share), edge, bottom + 17, text_anchor=anchor, class_="tick"))
    for place, stat in enumerate(stats):
        shapes += _row(stat, verdict, TOP + row * place, lines)
    said = "; ".join(f"{s.task} ({place_of(s, verdict)}) {bound_of(s)}, {word_of(s, verdict)}" for s in stats)
    return drawing(f"{title}, as intervals: {said}", bottom + 22, *shapes)


def word_of(stat: TaskStats, verdict: Verdict) -> str:
    """The status alone, without the rules that gave it."""
    return status_of(stat, verdict).split(":")[0]


def baseline_share(stat: TaskStats) -> float | None:
    """The baseline's rate on the same items, an unusable answer counted as a hit; null where nothing was compared."""
    return None if stat.difference is None or not stat.asked else stat.hits / stat.asked - stat.difference


def _x(share: float) -> float:
    return LEFT + (RIGHT - LEFT) * min(1.0, max(0.0, share))


def _name(stat: TaskStats, verdict: Verdict) -> str:
    text = visible(f"{SIGNS[word_of(stat, verdict)]} {stat.task} ({place_of(stat, verdict)})")
    return text if len(text) <= MOST else f"{text[: MOST - 1]}…"


def _row(stat: TaskStats, verdict: Verdict, y: float, lines: int) -> list[Element]:
    word = word_of(stat, verdict)
    middle = y + 25 + LINE * (lines - 1)
    low, high = _x(stat.lower), _x(stat.upper)
    found = f"{stat.hits} of {stat.judged}" + ("" if stat.rate is None else f", {percent(stat.rate)}")
    shapes = [
        words(_name(stat, verdict), LEFT, y + 14, class_=f"name {_class(word)}"),
        words(found, RIGHT, y + LINE * lines, text_anchor="end", class_="tick"),
        shape("line", x1=LEFT, x2=RIGHT, y1=middle, y2=middle, class_="axis"),
        shape("rect", x=low, y=middle - 4, width=max(2.0, high - low), height=8, rx=2, class_=f"interval {_class(word)}"),
    ]
    if stat.limit is not None:
        x = _x(stat.limit)
        limit = shape("line", x1=x, x2=x, y1=middle - 8, y2=middle + 8, class_="limit")
        limit.append(_title(f"limit {trimmed(stat.limit)}"))
        shapes.append(limit)
    before = baseline_share(stat)
    if before is not None:
        x = _x(before)
        diamond = shape("path", d=f"M{x:.1f} {middle - 6:.1f}l5 6-5 6-5-6z", class_="baseline")
        diamond.append(_title(f"baseline {percent(before)}"))
        shapes.append(diamond)
    if stat.rate is not None:
        shapes.append(shape("circle", cx=_x(stat.rate), cy=middle, r=4, class_="rate"))
    return shapes


def _title(text: str) -> Element:
    made = shape("title")
    made.text = text
    return made


def _class(word: str) -> str:
    return word.replace(" ", "-")
