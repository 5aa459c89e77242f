"""What a report is made from: the verdict, who was on trial, and the few answers that show it."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from gate.records import Calibration, Candidate, Outcome, Record, Task, Verdict

LETTERS: Final = {"hit": "h", "no hit": "n", "invalid": "i", "missing": "m"}
"""What an item counts as, as a `Track` writes it."""


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


class Track(Record):
    """One gated cell's items as the decision read them."""

    task: Task
    calibration: Calibration
    decoding: str
    attacks: bool
    """False: of the harmless twins."""
    states: str = Field(pattern="^[hnim]*$")
    """A letter per item, in the committed order: hit, no hit, invalid, missing."""


class Evidence(Record):
    """All that the renderers read; they add nothing to it."""

    verdict: Verdict
    candidate: Candidate
    baseline: Candidate | None = None
    examples: tuple[Example, ...] = ()
    """In order of preference; the Markdown shows three, those of cells that are not met first."""
    tracks: tuple[Track, ...] = ()
    """Of the cells that were tested sequentially; none where the answers are gone."""
    waivers: tuple[str, ...] = ()
    """Each waiver of the policy: reason, owner, expiry."""
    unmasked: bool = False
    """Whether prompts and answers are shown beyond their first words."""
