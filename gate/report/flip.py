"""Why, and what would flip the verdict: evidence in, sentences in items and hits out, read off the sequential test's own tables.

For a cell of N items the test blocks at `up[t]` sure hits among the first t and passes at `down[t]` possible ones (a missing
or invalid answer is a possible hit), so every sentence here is a number that the decision itself used. Pure.
"""

from __future__ import annotations

import math

from gate.records import Decision, Finding, Record, TaskStats
from gate.report.evidence import Evidence
from gate.report.tables import (
    RATE_RULES,
    findings_about,
    name_of,
    percent,
    rate_status,
    sentence_about,
    spoken,
    subject_of,
    trimmed,
    worst_first,
)
from gate.sequential import WithoutReplacement

SHARE_RULES = ("max_invalid", "max_missing")
"""Rules that make a cell not evaluable."""


class Flip(Record):
    """What would flip the verdict, at one place."""

    about: str
    """The cell, or the rule and its subject."""
    text: str


def flips(evidence: Evidence) -> tuple[Flip, ...]:
    """For each rate that holds the release: the evidence and what it would take; then every other rule that is not met.

    For a pass: the cell nearest to its limit, and how many hits there would have blocked.
    """
    verdict = evidence.verdict
    told = held_cells(evidence) if verdict.decision is not Decision.PASS else nearest_cells(evidence)[:1]
    lines = [Flip(about=name_of(s), text=f"{sentence_about(s, verdict)} {flip_of(s, evidence)}") for s in told]
    if any(rate_status(s, verdict) == "broken" for s in told):
        again = "the order and the answers are kept, so the verdict stays. It takes another checkpoint, or another policy."
        lines.append(Flip(about="Asking again", text=again))
    # A cell that can't be evaluated says so in its own line, and that nothing was judged in it follows.
    unreadable = {subject_of(s) for s in told if _unreadable(s, evidence)}
    rest = [f for f in verdict.findings if f.status != "met" and not f.waived_by and f.rule not in RATE_RULES]
    implied = (*SHARE_RULES, "min_judged")
    return (*lines, *(_other(f) for f in rest if f.subject not in unreadable or f.rule not in implied))


def first_flips(evidence: Evidence, most: int = 8) -> tuple[Flip, ...]:
    """The first `most` of `flips`, and how many more there are: for reports that a person reads from the top."""
    found = flips(evidence)
    if len(found) <= most + 1:
        return found
    rest = Flip(about=f"{len(found) - most} more", text="the tables below list every cell; report.json holds all of these.")
    return (*found[:most], rest)


def held_cells(evidence: Evidence) -> list[TaskStats]:
    """The statistics whose rate holds the release, worst first."""
    return [s for s in worst_first(evidence.verdict.stats, evidence.verdict) if _held(s, evidence)]


def nearest_cells(evidence: Evidence) -> list[TaskStats]:
    """The statistics whose rate is within the limit, nearest to it first."""
    met = (s for s in evidence.verdict.stats if rate_status(s, evidence.verdict) == "met")
    return sorted(met, key=lambda s: (s.limit or 0.0) - s.upper)


def rate_test(stat: TaskStats) -> WithoutReplacement | None:
    """The sequential test that decided on the statistic; null where there was none."""
    if stat.planned < 1 or stat.bound != "confidence_sequence" or stat.limit is None:
        return None
    return WithoutReplacement(stat.planned, stat.limit, 1 - stat.lower_level, 1 - stat.upper_level)


def _unreadable(stat: TaskStats, evidence: Evidence) -> str:
    """The finding that made an undecided cell not evaluable; empty if none did."""
    if rate_status(stat, evidence.verdict) != "undecided":
        return ""
    found = findings_about(stat, evidence.verdict)
    return next((f.sentence for f in found if f.rule in SHARE_RULES and f.status == "broken"), "")


def _held(stat: TaskStats, evidence: Evidence) -> bool:
    rates = (f for f in findings_about(stat, evidence.verdict) if f.rule in RATE_RULES)
    return any(f.status != "met" and not f.waived_by for f in rates)


def _other(finding: Finding) -> Flip:
    return Flip(about=f"{finding.rule} ({spoken(finding.subject)})", text=f"{finding.status}. {finding.sentence}")


def flip_of(stat: TaskStats, evidence: Evidence) -> str:
    """What would flip the decision on one cell's rate."""
    if stat.planned < 1:
        return "The suite holds no item for this cell, so nothing can be shown."
    test = rate_test(stat)
    if test is None:
        return (
            f"PASS needs the upper bound at or below the limit (it is {percent(stat.upper, stat.limit)} "
            f"after {stat.asked} items); BLOCK needs the lower bound above it (it is {percent(stat.lower, stat.limit)})."
        )
    unreadable = _unreadable(stat, evidence)
    if unreadable:
        return f"{unreadable} It takes a candidate whose answers can be read: mend template, length limit or weights."
    status = rate_status(stat, evidence.verdict)
    if status == "broken":
        return _blocked(stat, test)
    if status == "met":
        return _passed(stat, test)
    if stat.asked >= stat.planned:
        return _exhausted(stat, test)
    return _undecided(stat, test)


def _blocked(stat: TaskStats, test: WithoutReplacement) -> str:
    t, allowed = stat.asked, test.down[stat.asked]
    if allowed >= 0:
        needed = f"a PASS would need at most {_hits(allowed)} there"
    else:
        first = next((i for i, most in enumerate(test.down) if most >= 0), stat.planned)
        needed = f"a PASS would need at least {first} items with no hit among them"
    return (
        f"With the N={stat.planned} items of this cell, {_hits(test.up[t])} in the first {t} already block and there were "
        f"{stat.hits}; {needed}. A policy would have to allow at least {_rounded_up(stat.lower)} for this cell not to block."
    )


def _exhausted(stat: TaskStats, test: WithoutReplacement) -> str:
    return (
        f"All N={stat.planned} items were asked; a PASS needs at most {_hits(test.null_count)} among them. There were "
        f"{stat.hits}, and {stat.missing + stat.invalid} without a usable answer, each of which could be one."
    )


def _passed(stat: TaskStats, test: WithoutReplacement) -> str:
    t = stat.asked
    block = f"{_hits(test.up[t])} would have blocked" if test.up[t] <= t else "no count blocks so early"
    crossed = "" if stat.decided_at in (None, t) else f", decided at item {stat.decided_at}"
    return f"Passed with {_hits(stat.hits)} in the first {t} of N={stat.planned} items{crossed}; {block}."


def _undecided(stat: TaskStats, test: WithoutReplacement) -> str:
    """How many straight clean items pass from here, how many straight hits block."""
    t, unusable = stat.asked, stat.missing + stat.invalid
    later = range(t + 1, stat.planned + 1)
    clean = next((i - t for i in later if stat.hits + unusable <= test.down[i]), None)
    hits = next((i - t for i in later if stat.hits + i - t >= test.up[i]), None)
    to_pass = (
        f"No number of further items can pass: at most {test.null_count} of N={stat.planned} may be hits or lack a usable answer"
        if clean is None
        else f"PASS after {clean} further items in a row without a hit"
    )
    to_block = "" if hits is None else f"; BLOCK after {hits} further hits in a row"
    return f"{t} of N={stat.planned} items asked, {unusable} without a usable answer. {to_pass}{to_block}."


def _rounded_up(share: float) -> str:
    # Rounded to the nearest, the named limit could still block.
    return trimmed(math.ceil(1000 * share - 1e-9) / 1000)


def _hits(count: int) -> str:
    return "1 hit" if count == 1 else f"{count} hits"
