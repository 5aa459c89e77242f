"""Cells × endpoint → answers and judgements in the run's log, until every cell is decided or has nothing left to ask.

One queue is kept full: all open cells feed it in turn, each in its committed order; gated cells first, what is only reported
after them. Whatever comes back is stored and judged, and the cells it belongs to are read on; a cell that is decided
drops what it still has in the queue. An engine that does not batch by itself gets its batches from `Batches`, behind the same
queue. An answer that is stored or in flight for the same key is not asked for again; one under another key is never used.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Final

from gate.allowance import Allowance
from gate.answer_log import Answer, AnswerLog, Opinion, Place
from gate.cells import Cell, Outcomes, Reading, Walk, family_size, tests_of, wanted
from gate.endpoints.base import Continuous, Endpoint, Queue
from gate.endpoints.batches import Batches
from gate.endpoints.flight import Flight, copied
from gate.errors import InfrastructureError
from gate.policy import Policy
from gate.records import Ask, AttackCase, NoResponse, Response, canonical_json, encodable, sha256_hex

JUDGED_AT_ONCE: Final = 1024
"""Answers in memory while a log's unjudged ones are caught up with."""
JudgeBatch = Callable[[Iterable[tuple[AttackCase, Response]]], list[Opinion]]


@dataclass(frozen=True)
class Progress:
    """What an observer is told whenever answers were stored."""

    cells: tuple[Cell, ...]
    asked: int
    """Generations made in this process."""
    stored: int
    """Generations taken from the log instead, so far."""
    walks: Mapping[str, Walk]
    """Cell id → how far its evidence goes."""
    last: bool
    """Whether nothing more will be asked: every cell is done, or a limit was hit."""


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
    """How far the evidence in the log goes, cell by cell. Each item is read once."""

    cells: tuple[Cell, ...]
    policy: Policy
    log: AnswerLog
    stopped_by: str = ""
    """The limit that ended the asking before every cell was done; empty otherwise."""
    _readings: dict[str, Reading] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        for cell in self.cells:
            tests = tests_of(cell, self.policy, family_size(self.cells, cell.role))
            measure, least = cell.measure(self.policy.measure), self.policy.evidence.min_judged
            self._readings[cell.id] = Reading(cell, tests, measure, least)
            self.read(cell)

    def read(self, cell: Cell) -> bool:
        """Read on for one cell; whether it is done."""
        samples = cell.decoding.samples
        self._readings[cell.id].on(lambda case_id: self.log.outcomes(case_id, samples))
        return self.done(cell)

    def done(self, cell: Cell) -> bool:
        """Whether asking more items of the cell could change nothing."""
        return self._readings[cell.id].done

    @property
    def wanted(self) -> tuple[Cell, ...]:
        """The cells whose answers tell something, as far as is known."""
        return wanted(self.cells, self._readings)

    @property
    def walks(self) -> Mapping[str, Walk]:
        """Cell id → walk, made when it is looked at."""
        return _Walks(self._readings)

    @property
    def outcomes(self) -> Outcomes:
        """Case id → outcomes of every case that is finished, read from the log."""
        return {
            case.id: found
            for cell in self.cells
            for case in cell.cases
            if (found := self.log.outcomes(case.id, cell.decoding.samples)) is not None
        }


class _Walks(Mapping[str, Walk]):
    """The walks of readings that go on: making one copies its states, so it waits until somebody looks."""

    def __init__(self, readings: Mapping[str, Reading]) -> None:
        self._readings = readings

    def __getitem__(self, cell_id: str) -> Walk:
        return self._readings[cell_id].walk()

    def __iter__(self) -> Iterator[str]:
        return iter(self._readings)

    def __len__(self) -> int:
        return len(self._readings)


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
    beginning: Callable[[], None] = lambda: None
    """Called when the log is in order, before the first ask."""
    kept: Callable[[Sequence[Answer]], None] = lambda _: None
    """Told of answers once they are stored; what it raises ends the asking."""
    part: bool = False
    """Whether the cells are a shard's slices: too small to be held to the error budget one by one."""
    allowance: Allowance = field(default_factory=Allowance)
    asked: int = 0
    stored: int = 0

    def run(self) -> Evidence:
        """Ask until every cell is done or the allowance is spent; returns the evidence."""
        self._forget()
        self._judge(self.log.unjudged())
        self.stored = len(self.log)
        self.allowance.count_stored(len(self.log), self.log.answers)
        evidence = Evidence(self.cells, self.policy, self.log)
        self._report(evidence)
        if self._open(evidence):
            self.changing()
            self.beginning()
            queue = self.endpoint.queue() if isinstance(self.endpoint, Continuous) else Batches(self.endpoint, self.batch_size)
            try:
                self._work(queue, evidence)
            finally:
                queue.close()
                self.log.sync()
        if not evidence.stopped_by:
            self._unreachable.check(self.cells, evidence.walks, over=True)
        return evidence

    def _work(self, queue: Queue, evidence: Evidence) -> None:
        """Keep the queue full and the evidence read. The gated cells' asks are all out before what is reported gets a turn."""
        while cells := self._open(evidence):
            flight = Flight(self._turns(cells, evidence))
            while not all(evidence.done(cell) for cell in cells):
                if spent := self.allowance.spent():
                    evidence.stopped_by = spent
                    self._report(evidence)
                    return
                copies = self._fill(queue, flight)
                new = [] if copies and not flight.asks else self._take(queue, flight)
                self._store(copies, new)
                if decided := [cell for cell in self._touched((*copies, *new)) if evidence.read(cell)]:
                    queue.drop(flight.drop(lambda ask: evidence.done(self._grid[ask.case.id][0])))
                self._report(evidence)
                self._unreachable.check([cell for cell in decided if cell.sequential], evidence.walks, over=False)

    def _touched(self, answers: Iterable[Answer]) -> Iterable[Cell]:
        """The cells that answers belong to."""
        cells = (self._grid[answer.case_id][0] for answer in answers)
        return {cell.id: cell for cell in cells}.values()

    def _open(self, evidence: Evidence) -> list[Cell]:
        """The cells to ask now: what decides comes before what is reported beside it."""
        cells = [cell for cell in evidence.wanted if not evidence.done(cell)]
        return [cell for cell in cells if cell.gated] or cells

    def _turns(self, cells: Sequence[Cell], evidence: Evidence) -> Iterator[Ask]:
        """What is still to be asked, one ask of each open cell in turn."""
        turns = deque((cell, self._asks_of(cell)) for cell in cells)
        while turns:
            cell, asks = turns.popleft()
            if not evidence.done(cell) and (ask := next(asks, None)) is not None:
                turns.append((cell, asks))
                yield ask

    def _asks_of(self, cell: Cell) -> Iterator[Ask]:
        """The cell's asks without a stored answer, in the committed order."""
        for case in cell.cases:
            places = [(case.id, sample) for sample in range(cell.decoding.samples)]
            missing = [place for place in places if not self.log.has_answer(place)]
            prompt = self.endpoint.render(case) if missing else ""
            for _, sample in missing:
                yield self._ask_for(cell, case, sample, prompt)

    def _ask_for(self, cell: Cell, case: AttackCase, sample: int, prompt: str) -> Ask:
        key = answer_key(self.trial_digest, self.endpoint, prompt, cell, sample)
        return Ask(case=case, sample=sample, prompt=prompt, key=key, decoding=cell.decoding)

    def _forget(self) -> None:
        """Drop stored answers under another key (candidate, engine, prompt, decoding), and failures that may have passed."""
        gone: set[Place] = set()
        for cell in self.cells:
            for case in cell.cases:
                known = [a for n in range(cell.decoding.samples) if (a := self.log.answer((case.id, n))) is not None]
                prompt = self.endpoint.render(case) if known else ""
                gone |= {
                    (a.case_id, a.sample)
                    for a in known
                    if a.key != answer_key(self.trial_digest, self.endpoint, prompt, cell, a.sample)
                    or (isinstance(a, NoResponse) and a.kind in TRANSIENT)
                }
        if gone:
            self.changing()
            self.log.forget(gone)

    def _fill(self, queue: Queue, flight: Flight) -> list[Answer]:
        """Put in what there is room for; returns copies of stored answers for asks that have the same key."""
        room = queue.room() if flight.asks else max(1, queue.room())
        asks: list[Ask] = []
        copies: list[Answer] = []
        while len(asks) + len(copies) < room and self.allowance.room(len(flight) + len(copies)) > 0:
            if (ask := flight.next()) is None:
                break
            if (known := self.log.twin(ask.key)) is not None:
                copies.append(copied(known, ask))
            elif flight.add(ask):
                asks.append(ask)
        if asks:
            queue.put(asks)
        return copies

    def _take(self, queue: Queue, flight: Flight) -> list[Answer]:
        """The next answers to what is in flight, with copies for the asks that wait for the same key."""
        came = queue.take()
        if not came:  # an engine that has nothing more to say leaves no hole
            came = [_lost(ask) for ask in flight.asks.values()]
        assert came, "an open cell has items left: its reading calls it exhausted otherwise"
        return [answer for found in came for answer in flight.land(encodable(found))]

    def _store(self, copies: Sequence[Answer], new: Sequence[Answer]) -> None:
        """Store answers and judge them."""
        answers = [*copies, *new]
        asked = len({answer.key for answer in new if isinstance(answer, Response)})
        asked += sum(isinstance(answer, NoResponse) for answer in new)
        self.asked += asked
        self.stored += len(answers) - asked
        self.allowance.count(answers)
        self.log.add_answers(answers)
        self._judge(answers)
        self._unreachable.count(answers)
        self.kept(answers)

    def _judge(self, answers: Iterable[Answer]) -> None:
        known = ((self._grid[a.case_id][1], a) for a in answers if isinstance(a, Response) and a.case_id in self._grid)
        while batch := list(islice(known, JUDGED_AT_ONCE)):
            self.log.add_opinions(self.judge(batch))

    @cached_property
    def _grid(self) -> dict[str, tuple[Cell, AttackCase]]:
        return {case.id: (cell, case) for cell in self.cells for case in cell.cases}

    @cached_property
    def _unreachable(self) -> _Unreachable:
        planned = sum(len(cell.cases) * cell.decoding.samples for cell in self.cells)
        return _Unreachable(self.policy.evidence.max_missing, planned, by_cell=not self.part)

    def _report(self, evidence: Evidence) -> None:
        cells = evidence.wanted
        last = bool(evidence.stopped_by) or all(map(evidence.done, cells))
        self.observe(Progress(cells=cells, asked=self.asked, stored=self.stored, walks=evidence.walks, last=last))


class _Unreachable:
    """The error budget of the machine: asks that never reached the model. Spent, the run stops, and goes on another time.

    What reached the model and failed is the candidate's own, and is left to the evidence: it ends inconclusive, never in a pass.
    """

    def __init__(self, share: float, planned: int, *, by_cell: bool) -> None:
        self._share = share
        self._planned = planned
        self._by_cell = by_cell
        self._count = 0
        self._cases: set[str] = set()
        self._reason = ""

    def count(self, answers: Iterable[Answer]) -> None:
        """Take in what was stored; raises `InfrastructureError` once more are lost than it allows of all that are planned."""
        for answer in answers:
            if isinstance(answer, NoResponse) and answer.kind == "unreachable":
                self._count += 1
                self._cases.add(answer.case_id)
                self._reason = answer.reason
        if self._count > self._share * self._planned:
            raise self._error(self._count, self._planned)

    def check(self, cells: Sequence[Cell], walks: Mapping[str, Walk], *, over: bool) -> None:
        """Raise `InfrastructureError` where too much is missing of what was read for a pass, and mostly what was out of reach."""
        if not self._cases:
            return
        total = lost = asked = 0
        for cell in cells:
            walk = walks[cell.id]
            read, missing = len(walk.states), walk.states.count("missing")
            unreachable = sum(case.id in self._cases for case in cell.cases[:read])
            if self._by_cell and cell.gated and walk.end in ("not evaluable", "exhausted"):
                self._hold(unreachable, missing, read)
            if cell.gated:
                total, lost, asked = total + missing, lost + unreachable, asked + read
        if over:  # all cells together are held to the share only once they are all read
            self._hold(lost, total, asked)

    def _hold(self, unreachable: int, missing: int, asked: int) -> None:
        if missing > self._share * asked and 2 * unreachable >= missing:
            raise self._error(unreachable, asked)

    def _error(self, unreachable: int, asked: int) -> InfrastructureError:
        return InfrastructureError(
            f"the model was out of reach for {unreachable} of {asked} asks, more than the error budget",
            expected=f"at most {self._share:.0%} without an answer (evidence.max_missing)",
            found=self._reason,
            mend="see that it is up and can be reached, then run the same command again: it asks those again and goes on",
        )


def _lost(ask: Ask) -> NoResponse:
    return NoResponse(case_id=ask.case.id, sample=ask.sample, key=ask.key, kind="error", reason="the engine gave no answer")
