"""What would flip the verdict: the stated counts against the sequential test itself."""

from __future__ import annotations

import re

import pytest

from gate.records import Decision, Task
from gate.report import Evidence
from gate.report.flip import flips
from gate.report.tables import percent
from gate.sequential import WithoutReplacement
from tests.report.verdicts import ALPHA_BLOCK, ALPHA_PASS, CODE, Counts, N, blocked, candidate, finding, passing, stat, verdict

TEST = WithoutReplacement(N, 0.10, ALPHA_BLOCK, ALPHA_PASS)


def number(pattern: str, text: str) -> int:
    """The number that a sentence states."""
    found = re.search(pattern, text)
    assert found is not None, text
    return int(found[1])


def undecided(counts: Counts) -> str:
    """What the report says of one undecided cell."""
    open_cell = stat(CODE, counts)
    found = verdict(Decision.INCONCLUSIVE, "Undecided.", (open_cell,), (finding(open_cell, "undecided"),))
    return flips(Evidence(verdict=found, candidate=candidate("x")))[0].text


@pytest.mark.parametrize(("hits", "asked", "missing"), [(0, 10, 0), (4, 50, 1), (9, 90, 0), (2, 30, 3)])
def test_further_clean_items_are_the_fewest_that_pass(hits: int, asked: int, missing: int) -> None:
    """After the stated number of clean items the test passes, and after one fewer it does not."""
    more = number(r"PASS after (\d+)", undecided(Counts(hits=hits, asked=asked, missing=missing)))
    assert TEST.decide(asked + more, hits, hits + missing) == "pass"
    assert TEST.decide(asked + more - 1, hits, hits + missing) == "continue"


@pytest.mark.parametrize(("hits", "asked"), [(0, 10), (4, 50), (9, 90)])
def test_further_hits_are_the_fewest_that_block(hits: int, asked: int) -> None:
    """After the stated number of hits in a row the test blocks, and after one fewer it does not."""
    more = number(r"BLOCK after (\d+)", undecided(Counts(hits=hits, asked=asked)))
    assert TEST.decide(asked + more, hits + more, hits + more) == "block"
    assert TEST.decide(asked + more - 1, hits + more - 1, hits + more - 1) == "continue"


def test_too_many_unusable_answers_cannot_pass() -> None:
    """Where missing answers alone exceed the limit, the report says that no further item can pass."""
    assert "No number of further items can pass" in undecided(Counts(hits=0, asked=60, missing=26))


def test_a_block_names_the_least_count_that_blocks() -> None:
    """The stated number of hits blocks at that item, and one fewer does not."""
    text = flips(blocked())[0].text
    least = number(r"(\d+) hits in the first 25 already block", text)
    assert (TEST.decide(25, least, least), TEST.decide(25, least - 1, least - 1)) == ("block", "continue")


def test_a_block_names_a_limit_that_would_not() -> None:
    """At the stated limit the same answers do not block; just under it they do."""
    text = flips(blocked())[0].text
    found = re.search(r"allow at least ([\d.]+) %", text)
    assert found is not None
    limit = float(found[1]) / 100
    lenient, strict = (WithoutReplacement(N, x, ALPHA_BLOCK, ALPHA_PASS) for x in (limit, limit - 0.005))
    assert (lenient.decide(25, 23, 23), strict.decide(25, 23, 23)) == ("continue", "block")


def test_every_rule_that_is_not_met_is_told() -> None:
    """A finding about something else than a rate appears beside the rates."""
    assert any(f.about.startswith("regression") for f in flips(blocked()))


def test_a_pass_tells_of_one_cell() -> None:
    """For a pass there is one sentence, about a cell whose rule is met and not waived."""
    told = flips(passing())
    assert [f.about for f in told] == ["text_generation (native+system, greedy)"]


def test_a_fixed_cell_speaks_of_its_bounds() -> None:
    """Without a sequential test no count is stated that was never computed."""
    fixed = stat(Task.SUMMARIZATION, Counts(hits=3, asked=60)).model_copy(update={"bound": "korn_graubard"})
    found = verdict(Decision.INCONCLUSIVE, "Undecided.", (fixed,), (finding(fixed, "undecided"),))
    text = flips(Evidence(verdict=found, candidate=candidate("x")))[0].text
    assert "PASS needs the upper bound at or below the limit" in text
    assert "further" not in text


def test_a_bound_beside_its_limit_is_told_apart() -> None:
    """A bound just over the limit is not printed as the limit."""
    assert percent(0.1004, 0.1) == "10.04 %"
    assert percent(0.1, 0.1) == "10.0 %"
