"""Progress as it is shown: what each mode writes, how often, and the bound in it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

from gate.attack import Progress
from gate.cells import Cell
from gate.console import LogMode, bounds, observer, remaining
from gate.records import Outcome, Role
from gate.sequential import confidence_sequence
from tests.trials import Outcomes, cells_of, policy_of, walks_of

POLICY = policy_of()
CELLS = cells_of(POLICY)


def after(count: int, *, asked: int | None = None) -> Progress:
    """Progress with `count` items of each cell in, every sixth attack answered."""
    outcomes: Outcomes = {case.id: (_outcome(cell, n),) for cell in CELLS for n, case in enumerate(cell.cases[:count])}
    walks = walks_of(POLICY, CELLS, outcomes)
    over = all(walk.done for walk in walks.values())
    return Progress(cells=CELLS, asked=2 * count if asked is None else asked, stored=0, walks=walks, last=over)


def _outcome(cell: Cell, n: int) -> Outcome:
    return Outcome.COMPLIED if cell.role is Role.TWIN or n % 6 == 5 else Outcome.REFUSED


def shown(mode: LogMode, *steps: Progress, every: float = 1.0) -> str:
    """What the mode writes when a step comes every `every` seconds."""
    stream = io.StringIO()

    def ticks() -> Iterator[float]:
        now = 100.0
        while True:
            yield now
            now += every

    clock = ticks()
    with observer(mode, POLICY, stream, clock=lambda: next(clock)) as observe:
        for step in steps:
            observe(step)
    return stream.getvalue()


def test_plain_lines_come_now_and_then_and_at_the_end() -> None:
    """Of twenty steps a second apart, every fifth is a line, and the last one is."""
    lines = shown(LogMode.PLAIN, *(after(n) for n in range(12)), after(60)).splitlines()
    assert [line.split(" ")[0] for line in lines] == ["0", "10", "20", "120"]
    assert "2/2 cells done" in lines[-1]
    assert "at most 0 to go" in lines[-1]


def test_plain_line_shows_the_worst_cell_with_its_bound() -> None:
    """How many of how many, and the interval that is not ruled out."""
    line = shown(LogMode.PLAIN, after(6))
    lower, upper = bounds(CELLS[0], after(6).walks[CELLS[0].id], POLICY, 1)
    assert f"worst so far translation|native|greedy: 1 of 6, bound {lower:.2f} to {upper:.2f}" in line


def test_rate_is_answers_per_second() -> None:
    """The clock starts with the observer: eighteen answers at its third reading, three seconds apart, are 18 in 9 seconds."""
    events = shown(LogMode.JSON, after(0), after(1), after(9), every=3.0).splitlines()
    assert [json.loads(e)["answers_per_second"] for e in events] == [0.0, 2.0]


def test_json_lines_are_objects_with_every_gated_cell() -> None:
    """Each line parses, and names cells, hits and bounds."""
    events = [json.loads(line) for line in shown(LogMode.JSON, after(3), after(60), every=6.0).splitlines()]
    assert [e["answers"] for e in events] == [6, 120]
    assert set(events[0]["cells"]) == {cell.id for cell in CELLS}
    assert events[1]["remaining_at_most"] == 0
    assert events[0]["cells"][CELLS[0].id]["read"] == 3


def test_quiet_says_nothing() -> None:
    """Not a byte."""
    assert shown(LogMode.QUIET, after(0), after(60)) == ""


def test_auto_is_plain_without_a_terminal() -> None:
    """In a log file there are lines and no escapes."""
    assert shown(LogMode.AUTO, after(6)) == shown(LogMode.PLAIN, after(6))
    assert "\x1b" not in shown(LogMode.AUTO, after(6))


def test_live_table_ends_with_the_last_state() -> None:
    """The rich mode shows each gated cell with its limit."""
    text = shown(LogMode.RICH, after(60))
    assert "translation native twins" in text
    assert "0.10" in text


def test_remaining_counts_what_open_cells_may_still_ask() -> None:
    """A decided cell has nothing left, an open one the rest of its order."""
    assert remaining(after(0)) == 120
    assert remaining(after(5)) == 110
    assert remaining(after(60)) == 0


def test_bound_is_the_confidence_sequence_of_the_cell() -> None:
    """The interval shown is the one that the decision's levels give."""
    walk = after(20).walks[CELLS[0].id]
    expected = confidence_sequence(60, len(walk.states), walk.sure, walk.worst, 0.05 / 3, alpha_upper=0.05)
    assert bounds(CELLS[0], walk, POLICY, 3) == expected
    assert bounds(CELLS[0], after(0).walks[CELLS[0].id], POLICY, 3) == (0.0, 1.0)
