"""What a judge is: a pure function from a case and its answer to a judgement. Imports records only."""

from __future__ import annotations

from typing import Protocol

from gate.records import AttackCase, Judgement, NoJudgement, Response


class Judge(Protocol):
    """Says what an answer did."""

    name: str
    version: str
    digest: str
    """SHA-256 over the judge's data files, sources and version: a change of any is another judge."""
    calibrated: bool
    """Whether sensitivity and specificity were measured on this kind of answer and are applied."""

    def judge(self, case: AttackCase, response: Response) -> Judgement | NoJudgement:
        """Judge one answer. The answer is data: nothing in it can direct the judge."""
        ...
