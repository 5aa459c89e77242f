"""What a person must know before scrolling: evidence in, why, how sure and what now as a few sentences each out. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gate.records import Decision, Finding, Task, TaskStats
from gate.report.evidence import Evidence
from gate.report.flip import flip_of, held_cells, nearest_cells
from gate.report.tables import (
    BOUND_WORDS,
    RATE_RULES,
    bound_about,
    found_about,
    judge_state,
    limit_about,
    name_of,
    rate_status,
    spoken,
    status_of,
    subject_of,
    tally,
)

MENDS: Final = {
    "run_limit": "Run the same command without the limit, or with a higher one: it goes on where it stopped.",
    "max_invalid": "Mend what makes answers unreadable (chat template, length limit, weights), then check that model.",
    "max_missing": "Find out why answers did not come (table “No usable answer”), then check again in a new run folder.",
    "error_budget": "Find out why answers did not come (table “No usable answer”), then check again in a new run folder.",
    "min_items": "Take a suite with more items in this cell, or let the policy ask for fewer.",
    "min_behaviours": "Take a suite with more behaviours in this cell, or let the policy ask for fewer.",
    "min_judged": "Take a suite with more items in this cell, or let the policy ask for fewer judged answers.",
    "max_overlap": "Give the files that the model was trained on (--training-data), or a suite that it was not trained on.",
    "calibrated_judge": "Use a judge that is calibrated, or a policy that does not require one.",
    "regression": "Give the baseline's answers, or a policy that needs no comparison.",
}
"""What to do about each rule that can leave a run inconclusive and blocks nothing, and about a comparison that is not there.

A rate's own rule is not among them: its sentence about further items says what it takes.
"""


@dataclass(frozen=True)
class FirstScreen:
    """Three short answers."""

    why: tuple[str, ...]
    sure: tuple[str, ...]
    now: tuple[str, ...]


def first_screen(evidence: Evidence) -> FirstScreen:
    """The leading cell or rule: what was found, how sure that is, and what to do."""
    if evidence.verdict.decision is Decision.PASS:
        return _passed(evidence)
    lead = _leading(evidence)
    cell = next((s for s in held_cells(evidence) if lead is None or subject_of(s) == lead.subject), None)
    if lead is not None and lead.rule in RATE_RULES and cell is not None:
        return _by_rate(cell, evidence)
    return _by_rule(lead, evidence)


def _leading(evidence: Evidence) -> Finding | None:
    """The finding that the verdict rests on: what ended the run, a rule that is broken, then the worst cell's rate."""
    order = {subject_of(s): place for place, s in reversed(list(enumerate(held_cells(evidence))))}

    def key(finding: Finding) -> tuple[bool, bool, bool, int]:
        blocked = evidence.verdict.decision is Decision.BLOCK
        rate = finding.rule in RATE_RULES
        first = rate if blocked else finding.rule == "run_limit"
        return not first, finding.status != "broken", not rate, order.get(finding.subject, len(order))

    open_ = [f for f in evidence.verdict.findings if f.status != "met" and not f.waived_by]
    if evidence.verdict.decision is Decision.BLOCK and any(_blocks(f) for f in open_):
        open_ = [f for f in open_ if _blocks(f)]
    return min(open_, key=key, default=None)


def _blocks(finding: Finding) -> bool:
    return finding.status == "broken" and (finding.rule not in MENDS or finding.rule == "regression")


def _passed(evidence: Evidence) -> FirstScreen:
    verdict = evidence.verdict
    nearest = next(iter(nearest_cells(evidence)), None)
    if nearest is None:
        return FirstScreen((verdict.reason, tally(verdict)), (judge_state(verdict),), ("The release may go on.",))
    sure = (
        f"Nearest to its limit: {name_of(nearest)}. {_sentence(bound_about(nearest, verdict))} {_sentence(limit_about(nearest))}"
    )
    return FirstScreen(
        (verdict.reason, tally(verdict)),
        (sure, judge_state(verdict)),
        ("The release may go on. Keep this folder: the verdict can be taken again from it.", flip_of(nearest, evidence)),
    )


def _by_rate(cell: TaskStats, evidence: Evidence) -> FirstScreen:
    verdict = evidence.verdict
    blocked = rate_status(cell, verdict) == "broken"
    rule = _why_undecided(cell, evidence)
    act = MENDS[rule] if rule else "Nothing is shown either way, so nothing ships."
    if blocked:
        mend = "repair (gate repair) or retrain it, and check the result"
        act = f"Do not ship this checkpoint. Asking it again changes nothing: {mend}."
    return FirstScreen(
        (f"{name_of(cell)}: {found_about(cell)}; {limit_about(cell)}.", _others(evidence)),
        (_sentence(f"{bound_about(cell, verdict)} ({BOUND_WORDS[cell.bound]})"), judge_state(verdict)),
        (act, flip_of(cell, evidence)),
    )


def _others(evidence: Evidence) -> str:
    """How many of the gated cells hold the release, and in which tasks."""
    verdict = evidence.verdict
    gated = [s for s in verdict.stats if s.gated]
    held = [s for s in gated if status_of(s, verdict).startswith(("broken", "undecided"))]
    tasks = ", ".join(task for task in Task if any(s.task is task for s in held))
    return f"{len(held)} of {len(gated)} gated cells hold the release: {tasks}." if held else tally(verdict)


def _why_undecided(cell: TaskStats, evidence: Evidence) -> str:
    """The rule beside the rate's own that leaves the cell undecided; empty if there is none."""
    rules = status_of(cell, evidence.verdict).partition(": ")[2].split(", ")
    return next((rule for rule in rules if rule in MENDS), "")


def _by_rule(lead: Finding | None, evidence: Evidence) -> FirstScreen:
    verdict = evidence.verdict
    blocked = verdict.decision is Decision.BLOCK
    if lead is None:
        act = "Read the reason: the policy's gate held nothing to decide on."
        return FirstScreen((verdict.reason,), (judge_state(verdict),), (act,))
    about = "" if lead.subject == "run" else f"{spoken(lead.subject)}: "
    rule = f"Rule {lead.rule}: required {lead.required}, observed {lead.observed}."
    if blocked:
        act = "Do not ship this checkpoint: repair (gate repair) or retrain it, and check the result."
        return FirstScreen((f"{about}{lead.sentence}", _others(evidence)), (rule, judge_state(verdict)), (act,))
    unsure = f"Not enough evidence for either side. {tally(verdict)}"
    act = MENDS.get(lead.rule, "Mend what the rule names, then check again.")
    return FirstScreen((f"{about}{lead.sentence}", _others(evidence)), (unsure, f"{rule} {judge_state(verdict)}"), (act,))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
