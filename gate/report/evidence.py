"""What a report is made from: the verdict, who was on trial, and the few answers that show it."""

from __future__ import annotations

from gate.records import Calibration, Candidate, Outcome, Record, Task, Verdict


class Example(Record):
    """One question with its answer, to be shown (masked) as evidence."""

    case_id: str
    task: Task
    calibration: Calibration
    transform: str
    behaviour: str
    category: str
    prompt: str
    answer: str
    outcome: Outcome
    reason: str
    """The judge's reason."""


class Evidence(Record):
    """All that the renderers read; they add nothing to it."""

    verdict: Verdict
    candidate: Candidate
    baseline: Candidate | None = None
    examples: tuple[Example, ...] = ()
    """In order of preference; the Markdown shows three, those of cells that are not met first."""
    waivers: tuple[str, ...] = ()
    """Each waiver of the policy: reason, owner, expiry."""
    unmasked: bool = False
    """Whether prompts and answers are shown beyond their first words."""
