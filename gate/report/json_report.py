"""The machine's report: evidence in, JSON out, in the shape of schemas/report.schema.json.

Everything of the evidence is in it but the parts of prompts and answers that are masked or cut. The text is ASCII: a control
or bidirectional character in a model's answer arrives as a JSON escape, so the file is safe to print and a parser gives it back.
"""

from __future__ import annotations

import json
from typing import Literal

from gate.records import Calibration, Candidate, Outcome, Record, Task, Verdict
from gate.report.escape import Excerpt, cut, excerpt
from gate.report.evidence import Evidence, Example, Track
from gate.report.flip import Flip, flips

UNMASKED_LIMIT = 20_000
"""Characters of one prompt or answer in an unmasked report."""
REASON_LIMIT = 1_000
"""Characters of a judge's reason, which may quote the answer."""


class ReportedExample(Record):
    """An example as shown: prompt and answer as excerpts."""

    case_id: str
    task: Task
    calibration: Calibration
    transform: str
    behaviour: str
    category: str
    prompt: Excerpt
    answer: Excerpt
    outcome: Outcome
    reason: str


class Report(Record):
    """The JSON report."""

    schema_version: Literal["taskgate/report/v1"] = "taskgate/report/v1"
    verdict: Verdict
    candidate: Candidate
    baseline: Candidate | None
    examples: tuple[ReportedExample, ...]
    tracks: tuple[Track, ...] = ()
    waivers: tuple[str, ...]
    unmasked: bool
    flips: tuple[Flip, ...]
    """Why, and what would flip the verdict."""


def render_json(evidence: Evidence) -> str:
    """The report as indented JSON with a final newline; lone surrogates, which JSON cannot hold, become `?`."""
    report = Report(
        verdict=evidence.verdict,
        candidate=evidence.candidate,
        baseline=evidence.baseline,
        examples=tuple(_shown(example, unmasked=evidence.unmasked) for example in evidence.examples),
        tracks=evidence.tracks,
        waivers=evidence.waivers,
        unmasked=evidence.unmasked,
        flips=flips(evidence),
    )
    text = json.dumps(report.model_dump(mode="json"), ensure_ascii=False, allow_nan=False)
    whole = json.loads(text.encode("utf-8", "replace"))
    return json.dumps(whole, indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def _shown(example: Example, *, unmasked: bool) -> ReportedExample:
    fields = {name: getattr(example, name) for name in Example.model_fields if name not in ("prompt", "answer", "reason")}
    prompt, answer = (excerpt(text, unmasked=unmasked, limit=UNMASKED_LIMIT) for text in (example.prompt, example.answer))
    return ReportedExample(**fields, prompt=prompt, answer=answer, reason=cut(example.reason, REASON_LIMIT))
