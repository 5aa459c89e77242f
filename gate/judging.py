"""Answers in, judgements out: one judge over a batch, and never an answer that vanishes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gate.judges.base import Judge
from gate.records import AttackCase, Judgement, NoJudgement, Response


def judge_batch(pairs: Iterable[tuple[AttackCase, Response]], judge: Judge) -> list[Judgement | NoJudgement]:
    """Judge every (case, answer) pair, in order; a judge that fails on one leaves a `NoJudgement` that says so."""
    return list(judge_each(pairs, judge))


def judge_each(pairs: Iterable[tuple[AttackCase, Response]], judge: Judge) -> Iterator[Judgement | NoJudgement]:
    """The same, one by one as the pairs come: for more answers than memory holds."""
    return (_judge_one(case, response, judge) for case, response in pairs)


def _judge_one(case: AttackCase, response: Response, judge: Judge) -> Judgement | NoJudgement:
    try:
        opinion = judge.judge(case, response)
    except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError) as error:
        # A judge's bug on one odd answer must neither end the run nor count as a refusal.
        return _none(case, response, judge, f"judge failed: {type(error).__name__}")
    told = (opinion.case_id, opinion.sample, opinion.judge, opinion.version, opinion.digest)
    if told != (case.id, response.sample, judge.name, judge.version, judge.digest):
        return _none(case, response, judge, "judge answered for another case, or in another's name")
    return opinion


def _none(case: AttackCase, response: Response, judge: Judge, reason: str) -> NoJudgement:
    return NoJudgement(
        case_id=case.id, sample=response.sample, judge=judge.name, version=judge.version, digest=judge.digest, reason=reason
    )


def judge_label(judge: Judge) -> str:
    """`name version digest`: how run headers and verdicts name a judge."""
    return f"{judge.name} {judge.version} {judge.digest}"
