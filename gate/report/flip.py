"""What would flip the verdict: evidence in, sentences in items and hits out, read off the sequential test's own tables.

For a cell of N items the test blocks at `up[t]` sure hits among the first t and passes at `down[t]` possible ones (a missing
or invalid answer is a possible hit), so every sentence here is a number that the decision itself used. Pure.
"""

from __future__ import annotations

from typing import assert_never

from gate.records import Decision, TaskStats
from gate.report.evidence import Evidence
from gate.report.tables import findings_about, name_of, status_of, trimmed, worst_first
from gate.sequential import WithoutReplacement


def flip_sentences(evidence: Evidence) -> tuple[str, ...]:
    """One sentence or two per cell that holds the release; for a pass, about the cell nearest to its limit."""
    verdict = evidence.verdict
    decided = worst_first((s for s in verdict.stats if findings_about(s, verdict)), verdict)
    match verdict.decision:
        case Decision.PASS:
            chosen = _nearest(decided)
        case Decision.BLOCK | Decision.INCONCLUSIVE:
            chosen = [s for s in decided if status_of(s, verdict).startswith(("broken", "undecided"))]
        case _:
            assert_never(verdict.decision)
    lines = [f"{_where(s)}: {_sentence(s, evidence)}" for s in chosen]
    return (*lines, *_other_rules(evidence, {id(s) for s in chosen}))


def _where(stat: TaskStats) -> str:
    return name_of(stat.task, stat.calibration, stat.decoding)


def _other_rules(evidence: Evidence, told: set[int]) -> list[str]:
    """Findings that hold the release and are not about a rate that was told above."""
    covered = {
        f
        for s in evidence.verdict.stats
        if id(s) in told
        for f in findings_about(s, evidence.verdict)
        if f.rule in ("max_rate", "max_over_refusal")
    }
    open_ones = (f for f in evidence.verdict.findings if f.status != "met" and not f.waived_by and f not in covered)
    return [f"{f.rule} on {f.subject} must be met too: {f.required}; observed: {f.observed}." for f in open_ones]


def _test(stat: TaskStats) -> WithoutReplacement | None:
    if stat.bound != "confidence_sequence" or stat.limit is None or stat.planned < 1:
        return None
    return WithoutReplacement(stat.planned, stat.limit, 1 - stat.lower_level, 1 - stat.upper_level)


def _worst(stat: TaskStats) -> int:
    return stat.hits + stat.missing + stat.invalid


def _nearest(stats: list[TaskStats]) -> list[TaskStats]:
    """The cell that fewest further hits would have blocked."""
    margins = {}
    for index, stat in enumerate(stats):
        if test := _test(stat):
            margins[index] = test.up[stat.asked] - stat.hits
    return [stats[min(margins, key=lambda i: (margins[i], i))]] if margins else []


def _sentence(stat: TaskStats, evidence: Evidence) -> str:
    if stat.planned < 1:
        return "the suite holds no item for this cell, so nothing can be shown; give it a suite that does."
    test = _test(stat)
    if test is None:
        limit = "a limit" if stat.limit is None else f"the limit {trimmed(stat.limit)}"
        return (
            f"PASS needs the upper bound at or below {limit}; it is {trimmed(stat.upper)} after {stat.asked} items. "
            f"BLOCK needs the lower bound above it; it is {trimmed(stat.lower)}."
        )
    if stat.hits >= test.up[stat.asked]:
        return _blocked(stat, test)
    if stat.asked >= stat.planned:
        return _exhausted(stat, test)
    return _passed(stat, test) if status_of(stat, evidence.verdict) == "met" else _undecided(stat, test)


def _blocked(stat: TaskStats, test: WithoutReplacement) -> str:
    """What the counts would have had to be, and that asking more items cannot help."""
    t, allowed = stat.asked, test.down[stat.asked]
    if allowed >= 0:
        needed = f"a PASS would need at most {_hits(allowed)} in the first {t} items"
    else:
        first = next((i for i, most in enumerate(test.down) if most >= 0), stat.planned)
        needed = f"a PASS would need at least {first} items, none of them a hit"
    return (
        f"with the N={stat.planned} items of this cell, {needed}; there were {_hits(stat.hits)} in {t}, "
        f"and {test.up[t]} already block. The lower bound {trimmed(stat.lower)} is above the limit {trimmed(test.limit)}; "
        "asking again gives the same answers, so only a changed checkpoint (or a policy whose limit is "
        f"{trimmed(stat.lower)} or more) is not blocked here."
    )


def _exhausted(stat: TaskStats, test: WithoutReplacement) -> str:
    """Every item was asked; only answers that are not usable are open."""
    open_items = stat.missing + stat.invalid
    return (
        f"all N={stat.planned} items were asked; a PASS needs at most {_hits(test.null_count)} among them. "
        f"There were {_hits(stat.hits)}, and {open_items} without a usable answer, each of which could be one."
    )


def _passed(stat: TaskStats, test: WithoutReplacement) -> str:
    """How far the evidence was from a block, and how much it would take from here."""
    t = stat.asked
    crossed = f", crossed at item {stat.decided_at}" if stat.decided_at not in (None, t) else ""
    return (
        f"passed with {_hits(stat.hits)} in the first {t} of N={stat.planned} items{crossed}; {test.up[t]} would have blocked."
        if test.up[t] <= t
        else f"passed with {_hits(stat.hits)} in the first {t} of N={stat.planned} items{crossed}; no count blocks so early."
    )


def _undecided(stat: TaskStats, test: WithoutReplacement) -> str:
    """How many straight clean items pass from here, how many straight hits block."""
    t, worst = stat.asked, _worst(stat)
    later = range(t + 1, stat.planned + 1)
    clean = next((i - t for i in later if worst <= test.down[i]), None)
    hits = next((i - t for i in later if stat.hits + i - t >= test.up[i]), None)
    seen = (
        f"{_hits(stat.hits)} and {stat.missing + stat.invalid} without a usable answer in the first {t} of N={stat.planned} items"
    )
    to_pass = (
        f"no number of further items can pass: at most {test.null_count} of {stat.planned} may be hits or without a usable answer"
        if clean is None
        else f"PASS after {clean} more items in a row without a hit"
    )
    to_block = "" if hits is None else f"; BLOCK after {hits} more hits in a row"
    return f"{seen}; {to_pass}{to_block}."


def _hits(count: int) -> str:
    return "1 hit" if count == 1 else f"{count} hits"
