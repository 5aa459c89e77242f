"""Cells × endpoint → answers and judgements in the run's log, until every cell is decided or has nothing left to ask.

Gated cells come first, what is only reported after them. Each round takes the next items of every open cell's committed order,
sorts them by length into batches, and after each batch stores, judges and reads the evidence again: a cell that is decided
meanwhile drops out of the rest of the round. An answer that the log already holds for the same key is never asked for again; one
under another key is never used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from gate.cells import Cell, Tests, Walk, family_size, tests_of, walk, wanted
from gate.endpoints.base import Endpoint
from gate.policy import Policy
from gate.records import Ask, AttackCase, NoResponse, Outcome, Response, canonical_json, sha256_hex
from gate.run_store import Answer, AnswerLog, Opinion

JudgeBatch = Callable[[Iterable[tuple[AttackCase, Response]]], list[Opinion]]


@dataclass(frozen=True)
class Progress:
    """What an observer is told after every batch."""

    cells: tuple[Cell, ...]
    asked: int
    """Generations made in this process."""
    stored: int
    """Generations taken from the log instead, so far."""
    walks: Mapping[str, Walk]
    """Cell id → how far its evidence goes."""


TRANSIENT = ("timeout", "unreachable")
"""Failures of the moment: a resumed run asks again. Others are the candidate's own and stay."""
Observer = Callable[[Progress], None]


def answer_key(trial_digest: str, endpoint: Endpoint, prompt: str, cell: Cell, sample: int) -> str:
    """The answer cache's key: what an answer may depend on, and nothing else."""
    info = endpoint.info
    engine = [info.name, info.version, info.dtype, info.device]
    decoding = cell.decoding.model_dump(mode="json", exclude={"name", "samples"})
    return sha256_hex(canonical_json([trial_digest, prompt, decoding, sample, engine]))


@dataclass
class Evidence:
    """The outcomes in the log, cell by cell, and how far each cell's go."""

    cells: tuple[Cell, ...]
    policy: Policy
    log: AnswerLog
    outcomes: dict[str, list[Outcome | None]] = field(default_factory=dict)
    walks: dict[str, Walk] = field(default_factory=dict)
    _tests: dict[str, Tests | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for cell in self.cells:
            self._tests[cell.id] = tests_of(cell, self.policy, family_size(self.cells, cell.role))
            self.read(cell)

    def read(self, cell: Cell) -> Walk:
        """Read the log for one cell again."""
        for case in cell.cases:
            if case.id not in self.outcomes and (outcomes := self.log.outcomes(case.id, cell.decoding.samples)) is not None:
                self.outcomes[case.id] = outcomes
        measure = cell.measure(self.policy.measure)
        result = walk(cell, self.outcomes, self._tests[cell.id], measure, self.policy.evidence.min_judged)
        self.walks[cell.id] = result
        return result


@dataclass
class Attack:
    """One side of a run: its cells asked of one endpoint. `run` may be called again after any interruption."""

    endpoint: Endpoint
    trial_digest: str
    cells: tuple[Cell, ...]
    policy: Policy
    log: AnswerLog
    judge: JudgeBatch
    batch_size: int
    observe: Observer
    changing: Callable[[], None] = lambda: None
    """Called before the log is changed: a verdict on it does not stand any longer."""
    asked: int = 0
    stored: int = 0

    def run(self) -> Evidence:
        """Ask until every cell is done; returns the evidence."""
        prompts: dict[str, str] = {}
        self._forget(prompts)
        self._judge_unjudged()
        self.stored = len(self.log)
        evidence = Evidence(self.cells, self.policy, self.log)
        self._report(evidence)
        while open_cells := self._open(evidence):
            round_ = list(self._next_asks(open_cells, evidence, prompts))
            assert round_, "an open cell has items left: `walk` calls it exhausted otherwise"
            self._answer(round_, evidence)
        return evidence

    def _wanted(self, evidence: Evidence) -> tuple[Cell, ...]:
        return wanted(self.cells, evidence.walks)

    def _open(self, evidence: Evidence) -> list[Cell]:
        """The cells to ask now: what decides comes before what is reported beside it."""
        cells = [cell for cell in self._wanted(evidence) if not evidence.walks[cell.id].done]
        return [cell for cell in cells if cell.gated] or cells

    def _next_asks(self, cells: Sequence[Cell], evidence: Evidence, prompts: dict[str, str]) -> Iterator[tuple[Cell, Ask]]:
        """The next items of every open cell: enough for about four batches together, at least eight a cell."""
        share = max(8, -(-4 * self.batch_size // len(cells)))
        for cell in cells:
            waiting = [case for case in cell.cases if case.id not in evidence.outcomes][: max(1, share // cell.decoding.samples)]
            for case in waiting:
                for sample in range(cell.decoding.samples):
                    yield cell, self._ask_for(cell, case, sample, prompts)

    def _ask_for(self, cell: Cell, case: AttackCase, sample: int, prompts: dict[str, str]) -> Ask:
        if case.id not in prompts:
            prompts[case.id] = self.endpoint.render(case)
        prompt = prompts[case.id]
        key = answer_key(self.trial_digest, self.endpoint, prompt, cell, sample)
        return Ask(case=case, sample=sample, prompt=prompt, key=key, decoding=cell.decoding)

    def _forget(self, prompts: dict[str, str]) -> None:
        """Drop stored answers under another key (candidate, engine, prompt, decoding), and failures that may have passed."""
        keys = {
            (case.id, sample): self._ask_for(cell, case, sample, prompts).key
            for cell in self.cells
            for case in cell.cases
            for sample in range(cell.decoding.samples)
            if self.log.has_answer((case.id, sample))
        }
        gone = {
            place
            for place, key in keys.items()
            if (known := self.log.answer(place))
            and (known.key != key or (isinstance(known, NoResponse) and known.kind in TRANSIENT))
        }
        if gone:
            self.changing()
            self.log.forget(gone)

    def _answer(self, round_: Sequence[tuple[Cell, Ask]], evidence: Evidence) -> None:
        """Answer a round batch by batch, longest prompts first, leaving out cells that are decided meanwhile."""
        for decoding in dict.fromkeys(ask.decoding for _, ask in round_):
            todo = [(cell, ask) for cell, ask in round_ if ask.decoding == decoding and not self._known(ask)]
            todo.sort(key=lambda pair: (-len(pair[1].prompt), pair[1].case.id, pair[1].sample))
            while todo:
                todo = [pair for pair in todo if not evidence.walks[pair[0].id].done]
                batch, todo = todo[: self.batch_size], todo[self.batch_size :]
                if batch:
                    self._ask([ask for _, ask in batch])
                    for cell in {cell.id: cell for cell, _ in batch}.values():
                        evidence.read(cell)
                    self._report(evidence)

    def _known(self, ask: Ask) -> bool:
        return self.log.has_answer((ask.case.id, ask.sample))

    def _ask(self, batch: Sequence[Ask]) -> None:
        """Generate one batch, store it (one sync), judge it. Every ask gets exactly one record.

        Two asks with the same key have the same answer: one that the log holds is copied instead of asked for.
        """
        self.changing()
        copies: list[Answer] = [
            known.model_copy(update={"case_id": ask.case.id, "sample": ask.sample})
            for ask in batch
            if (known := self.log.twin(ask.key)) is not None
        ]
        copied = {(copy.case_id, copy.sample) for copy in copies}
        places = {place: ask for ask in batch if (place := (ask.case.id, ask.sample)) not in copied}
        answers: dict[tuple[str, int], Answer] = {}
        for answer in self.endpoint.generate(list(places.values())) if places else ():
            place = (answer.case_id, answer.sample)
            if place in places and answer.key == places[place].key:
                answers.setdefault(place, _encodable(answer))
        for (case_id, sample), ask in places.items():
            if (case_id, sample) not in answers:
                answers[case_id, sample] = NoResponse(
                    case_id=case_id, sample=sample, key=ask.key, kind="error", reason="the engine gave no answer"
                )
        self.asked += len(answers)
        self.stored += len(copies)
        new = [*copies, *answers.values()]
        self.log.add_answers(new)
        self._judge(new)

    def _judge_unjudged(self) -> None:
        """Judge what a kill left answered and not judged."""
        self._judge(self.log.unjudged())

    def _judge(self, answers: Iterable[Answer]) -> None:
        pairs = [(self._cases[a.case_id], a) for a in answers if isinstance(a, Response) and a.case_id in self._cases]
        self.log.add_opinions(self.judge(pairs))

    @cached_property
    def _cases(self) -> dict[str, AttackCase]:
        return {case.id: case for cell in self.cells for case in cell.cases}

    def _report(self, evidence: Evidence) -> None:
        self.observe(Progress(cells=self._wanted(evidence), asked=self.asked, stored=self.stored, walks=evidence.walks))


def _encodable(answer: Answer) -> Answer:
    """Lone surrogates, which some servers send and JSON can't hold, become question marks."""
    if isinstance(answer, NoResponse):
        return answer
    text = answer.text.encode("utf-8", "replace").decode("utf-8")
    return answer if text == answer.text else answer.model_copy(update={"text": text})
