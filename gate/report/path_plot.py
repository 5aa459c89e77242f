"""How a cell's test went: its items as they were read in, SVG and a table out: hits against items, and where it blocks or passes.

The boundaries are the test's own tables. Where the items are gone (a purged run), the boundaries and the last point are drawn.
Pure; however many items there are, a drawing has at most `POINTS` points a line and its table `ROWS` rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from gate.records import TaskStats
from gate.report.evidence import Evidence, Track
from gate.report.flip import rate_test
from gate.report.svg import WIDTH, drawing, shape, words
from gate.report.tables import MEASURE_WORDS, Table, is_attack, name_of
from gate.sequential import WithoutReplacement

POINTS = 300
ROWS = 24
LEAST, MOST_BEYOND = 20, 80
"""Items that a drawing shows at least; and at most, past those read, to reach the first place where a pass is possible."""
LEFT, RIGHT, TOP, BOTTOM = 40.0, WIDTH - 14.0, 8.0, 178.0
HEIGHT = 214.0


@dataclass(frozen=True)
class PathPlot:
    """A cell's path: what it is about, the drawing, and the same as a table."""

    name: str
    caption: str
    svg: str
    table: Table


@dataclass(frozen=True)
class _Frame:
    """The part of the plane that is drawn, and what lies in it."""

    items: int
    hits: int
    sure: tuple[tuple[int, int], ...]
    """(items read, hits); the last one alone where the items are gone."""
    possible: tuple[tuple[int, int], ...]
    """The same with every unusable answer counted as a hit."""

    def x(self, t: float) -> float:
        return LEFT + (RIGHT - LEFT) * t / self.items

    def y(self, s: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * min(s, self.hits) / self.hits


def path_plot(stat: TaskStats, evidence: Evidence) -> PathPlot | None:
    """The path of a cell that was tested sequentially; null for another one."""
    test = rate_test(stat)
    if test is None:
        return None
    track = track_of(stat, evidence.tracks)
    sure, possible = _walked(stat, track)
    frame = _frame(stat, test, sure, possible)
    caption = _caption(stat, test, whole=track is not None)
    name = name_of(stat) + ("" if is_attack(stat) else ", harmless twins")
    label = f"{name}: hits against items read, with the boundaries of the test. {caption}"
    shapes = [*_regions(frame, test), *_axes(frame), *_lines(frame)]
    return PathPlot(name, caption, drawing(label, HEIGHT, *shapes), _table(stat, test, frame))


def track_of(stat: TaskStats, tracks: Sequence[Track]) -> Track | None:
    """The statistic's items as they were read, if they are there."""
    key = (stat.task, stat.calibration, stat.decoding, is_attack(stat))
    found = (t for t in tracks if (t.task, t.calibration, t.decoding, t.attacks) == key and len(t.states) == stat.asked)
    return next(found, None) if stat.gated else None


def _walked(stat: TaskStats, track: Track | None) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]]:
    if track is None:
        unusable = stat.missing + stat.invalid
        return ((stat.asked, stat.hits),), ((stat.asked, stat.hits + unusable),)
    sure, possible = [(0, 0)], [(0, 0)]
    for t, letter in enumerate(track.states, 1):
        sure.append((t, sure[-1][1] + (letter == "h")))
        possible.append((t, possible[-1][1] + (letter != "n")))
    return tuple(sure), tuple(possible)


def _frame(
    stat: TaskStats,
    test: WithoutReplacement,
    sure: tuple[tuple[int, int], ...],
    possible: tuple[tuple[int, int], ...],
) -> _Frame:
    """As far as the reading went and a quarter more, or to where a pass begins; up to the counts and the boundary that blocks."""
    begins = next((t for t, most in enumerate(test.down) if most >= 0), 0)
    beyond = min(begins + 4, stat.asked + MOST_BEYOND)
    items = min(stat.planned, max(LEAST, stat.asked + stat.asked // 4 + 1, beyond))
    most = max(possible[-1][1], min(test.up[items], items), 4)
    return _Frame(items, most + 1, sure, possible)


def _caption(stat: TaskStats, test: WithoutReplacement, *, whole: bool) -> str:
    t = min(stat.decided_at or stat.asked, stat.planned)
    ended = f"crossed at item {stat.decided_at}" if stat.decided_at else "not crossed"
    at_block = f"{test.up[t]} of {t} block" if test.up[t] <= t else f"no count of {t} blocks"
    at_pass = f"at most {test.down[t]} pass" if test.down[t] >= 0 else "none is few enough to pass"
    gone = "" if whole else " The items' outcomes are not kept: the last point alone is drawn."
    read = f"{stat.hits} of {stat.asked} read ({MEASURE_WORDS[stat.measure]}), N={stat.planned}"
    return f"{read}; {ended}: {at_block}, {at_pass}.{gone}"


def _thinned(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most `POINTS` of the points, the first and the last among them."""
    step = max(1, -(-len(points) // POINTS))
    return [*points[::step], *(points[-1:] if (len(points) - 1) % step else ())]


def _stairs(frame: _Frame, points: Sequence[tuple[int, float]]) -> str:
    """A line that moves right, then up."""
    (t, s), *rest = points
    parts = [f"M{frame.x(t):.1f} {frame.y(s):.1f}"]
    for t, after in rest:
        if after != s:
            parts.append(f"H{frame.x(t):.1f}V{frame.y(after):.1f}")
        s = after
    return "".join(parts) + f"H{frame.x(points[-1][0]):.1f}"


def _regions(frame: _Frame, test: WithoutReplacement) -> list[Element]:
    shapes: list[Element] = []
    # Half a count off the boundary, so that a count on it lies within the area and none at all is still a strip.
    up = [(t, test.up[t] - 0.5) for t in range(frame.items + 1) if test.up[t] <= t]
    if up:
        edge = _stairs(frame, [(up[0][0], frame.hits), *_thinned(up)])
        shapes.append(shape("path", d=f"{edge}V{frame.y(frame.hits):.1f}z", class_="blocks"))
        shapes.append(shape("path", d=edge, class_="edge blocks-edge"))
        shapes.append(words("blocks", LEFT + (RIGHT - LEFT) * 0.3, TOP + 16, class_="region"))
    down = [(t, test.down[t] + 0.5) for t in range(frame.items + 1) if test.down[t] >= 0]
    if down:
        edge = _stairs(frame, _thinned(down))
        floor = f"V{BOTTOM:.1f}H{frame.x(down[0][0]):.1f}z"
        shapes.append(shape("path", d=edge + floor, class_="passes"))
        shapes.append(shape("path", d=edge, class_="edge passes-edge"))
        shapes.append(words("passes", RIGHT - 6, frame.y(down[-1][1]) - 4, text_anchor="end", class_="region"))
    return shapes


def _axes(frame: _Frame) -> list[Element]:
    shapes = [
        shape("line", x1=LEFT, x2=RIGHT, y1=BOTTOM, y2=BOTTOM, class_="axis"),
        shape("line", x1=LEFT, x2=LEFT, y1=TOP, y2=BOTTOM, class_="axis"),
        words("items read, in the committed order", (LEFT + RIGHT) / 2, HEIGHT - 6, text_anchor="middle", class_="tick"),
        words("hits", -(TOP + BOTTOM) / 2, 12, transform="rotate(-90)", text_anchor="middle", class_="tick"),
    ]
    across = (words(str(t), frame.x(t), BOTTOM + 14, text_anchor="middle", class_="tick") for t in _ticks(frame.items))
    up = (words(str(s), LEFT - 5, frame.y(s) + 4, text_anchor="end", class_="tick") for s in _ticks(frame.hits))
    return [*shapes, *across, *up]


def _ticks(most: int) -> list[int]:
    """Up to six round numbers from 0 on."""
    step = next(base * 10**power for power in range(12) for base in (1, 2, 5) if most / (base * 10**power) <= 5)
    return list(range(0, most + 1, step))


def _lines(frame: _Frame) -> list[Element]:
    shapes = []
    if frame.possible[-1] != frame.sure[-1]:
        shapes.append(shape("path", d=_stairs(frame, _thinned(frame.possible)), class_="path possible"))
        t, s = frame.possible[-1]
        shapes.append(shape("circle", cx=frame.x(t), cy=frame.y(s), r=3.5, class_="end possible"))
    shapes.append(shape("path", d=_stairs(frame, _thinned(frame.sure)), class_="path"))
    t, s = frame.sure[-1]
    shapes.append(shape("circle", cx=frame.x(t), cy=frame.y(s), r=4, class_="end"))
    return shapes


def _table(stat: TaskStats, test: WithoutReplacement, frame: _Frame) -> Table:
    """The drawing's numbers, thinned evenly; where the test crossed and the last item always."""
    spots = range(len(frame.sure))
    step = max(1, -(-len(spots) // (ROWS - 2)))
    kept = sorted({*spots[::step], len(spots) - 1, *(i for i in spots if frame.sure[i][0] == stat.decided_at)})
    rows = []
    for i in kept:
        (t, sure), (_, possible) = frame.sure[i], frame.possible[i]
        up = str(test.up[t]) if test.up[t] <= t else "no count"
        rows.append((str(t), str(sure), str(possible), up, str(test.down[t]) if test.down[t] >= 0 else "no count"))
    columns = ("items read", "hits", "hits or unusable", "blocks from", "passes up to")
    return Table(f"Path of {name_of(stat)}", "Hits block; hits and unusable answers together pass.", columns, tuple(rows))
