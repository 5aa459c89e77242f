"""Answers in, judgements out: one judge over a batch, and never an answer that vanishes."""

from __future__ import annotations

from collections.abc import Iterable

from gate.judges.base import Judge
from gate.records import AttackCase, Judgement, NoJudgement, Response


def judge_batch(pairs: Iterable[tuple[AttackCase, Response]], judge: Judge) -> list[Judgement | NoJudgement]:
    """Judge every (case, answer) pair, in order; a judge that fails on one leaves a `NoJudgement` that says so."""
    return [_judge_one(case, response, judge) for case, response in pairs]


def _judge_one(case: AttackCase, response: Response, judge: Judge) -> Judgement | NoJudgement:
    try:
        return judge.judge(case, response)
    except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError) as error:
        # A judge's bug on one odd answer must neither end the run nor count as a refusal.
        return NoJudgement(
            case_id=case.id,
            sample=response.sample,
            judge=judge.name,
            version=judge.version,
            digest=judge.digest,
            reason=f"judge failed: {type(error).__name__}",
        )


def judge_label(judge: Judge) -> str:
    """`name version digest`: how run headers and verdicts name a judge."""
    return f"{judge.name} {judge.version} {judge.digest}"
