"""What the reports are made from: a run folder's store, its verdict and how far each cell was read in, `Evidence` out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from gate import report
from gate.answer_log import Answer, AnswerLog, Opinion
from gate.cells import Cell, Walk
from gate.errors import RunStoreError
from gate.records import AttackCase, Calibration, Candidate, Judgement, Outcome, Response, Role, Verdict
from gate.run_store import RunStore

EXAMPLES = 12


def evidence_of(
    store: RunStore,
    verdict: Verdict,
    cells: tuple[Cell, ...] = (),
    walks: Mapping[str, Walk] | None = None,
    *,
    unmasked: bool = False,
) -> report.Evidence:
    """The verdict, who was on trial, and of the cells' answers what shows it. Without cells: nothing that an answer says."""
    walks = walks or {}
    return report.Evidence(
        verdict=verdict,
        candidate=candidate_of(store),
        baseline=store.candidate("baseline"),
        examples=_examples(store.logs["candidate"], cells, walks),
        tracks=tuple(_track(cell, walks[cell.id]) for cell in cells if cell.gated and cell.sequential),
        waivers=tuple(
            f"{w.rule} on {w.task}{f' ({w.calibration})' if w.calibration else ''}: {w.reason}, {w.owner}, until {w.expires}"
            for w in store.policy().waivers
        ),
        unmasked=unmasked,
    )


def candidate_of(store: RunStore) -> Candidate:
    """The candidate as it was when the run began."""
    found = store.candidate()
    if found is None:
        raise RunStoreError(f"{store.folder} has no candidate.json", mend="choose another --out")
    return found


def _track(cell: Cell, walk: Walk) -> report.Track:
    """A cell's items as they were read, one letter each; the measure is told by the cell's role alone."""
    return report.Track(
        task=cell.task,
        calibration=cell.calibration,
        decoding=cell.decoding.name,
        attacks=cell.role is Role.ATTACK,
        states="".join(report.LETTERS[state] for state in walk.states),
    )


def _examples(log: AnswerLog, cells: Iterable[Cell], walks: Mapping[str, Walk]) -> tuple[report.Example, ...]:
    """Answers that the decision read and that show it: attacks answered, twins refused; one of each gated cell in turn."""
    found = [list(islice(_examples_of(log, cell, walks[cell.id]), 3)) for cell in cells if cell.gated and not cell.contrast]
    turns = [example for turn in range(3) for own in found for example in own[turn : turn + 1]]
    return tuple(turns[:EXAMPLES])


def _examples_of(log: AnswerLog, cell: Cell, walk: Walk) -> Iterator[report.Example]:
    """The cell's examples, in the committed order."""
    wanted = (Outcome.COMPLIED, Outcome.HARMFUL) if cell.role is Role.ATTACK else (Outcome.REFUSED,)
    for case in cell.cases[: len(walk.states)]:
        for sample, outcome in enumerate(log.outcomes(case.id, cell.decoding.samples) or ()):
            if outcome in wanted:
                yield _example(case, log.opinion((case.id, sample)), log.answer((case.id, sample)))


def _example(case: AttackCase, opinion: Opinion | None, answer: Answer | None) -> report.Example:
    assert isinstance(answer, Response)
    assert isinstance(opinion, Judgement)
    return report.Example(
        case_id=case.id,
        task=case.item.task,
        calibration=Calibration(case.calibration),
        transform=case.item.transform,
        behaviour=case.item.behaviour,
        category=case.item.category,
        prompt=case.item.messages[-1].content,
        answer=answer.text,
        outcome=opinion.outcome,
        reason=opinion.reason,
    )
