"""Answers asks on a Ray cluster: every worker holds a whole engine, and Ray Data hands the batches round.

In: a candidate, asks with rendered prompts, the engine that each worker loads. Out: the records that this engine yields in one
process, as batches finish; its name and version stand in them, so that a run may go on with another number of workers, or
without a cluster. A worker that dies costs time and no answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from itertools import count
from typing import Final, Protocol

from gate.endpoints.base import EngineOptions
from gate.endpoints.hf_text import HfText
from gate.endpoints.ray_stream import Stream, may_be_elsewhere
from gate.endpoints.ray_worker import Batch, Load, Reply, contents, error_of, host
from gate.errors import GateError, InfrastructureError
from gate.records import Ask, AttackCase, Candidate, EngineInfo, NoResponse, Response

ROUND: Final = 4
"""Batches per worker that are sorted together, so that prompts of like length meet in one."""
AHEAD: Final = 2
"""Batches per worker in the stream: one that it answers and one that waits for it."""


class RayCluster:
    """A candidate on a cluster. See `gate.endpoints.base.Continuous`."""

    def __init__(self, candidate: Candidate, options: EngineOptions, load: Load) -> None:
        """Start `options.workers` workers that `load` the candidate; returns when the first one has.

        Raises what `load` raises, `InfrastructureError` where a node does not see the candidate's folders,
        `UnsafeCandidateError` where it sees other files in them.
        """
        self._text = HfText(candidate)
        expected = contents(candidate) if may_be_elsewhere() else ""
        stream = Stream(load, candidate, options, host(), expected)
        try:
            self._crew = Crew(stream, options.workers)
        except BaseException:
            stream.close()
            raise
        self._batch_size = options.batch_size

    @property
    def info(self) -> EngineInfo:
        """That of the engine in the workers, which all must have."""
        return self._crew.info

    def render(self, case: AttackCase) -> str:
        """The exact text the model will continue. Raises `CandidateError` when the chat template cannot take the case."""
        return self._text.render(case)

    def generate(self, asks: Sequence[Ask]) -> Iterator[Response | NoResponse]:
        """Answer every ask exactly once, as batches finish."""
        queue = self.queue()
        queue.put(asks)
        while answers := queue.take():
            yield from answers

    def queue(self) -> RayQueue:
        """A new, empty queue over the same workers."""
        return RayQueue(self._crew, self._batch_size)

    def close(self) -> None:
        """Stop the workers, and the cluster if it was started here."""
        self._crew.close()


class Replies(Protocol):
    """Where batches go and replies come from; `Stream` is one."""

    def send(self, batch: Batch) -> None:
        """Put a batch in."""
        ...

    def receive(self) -> Reply:
        """Wait for the next reply. Raises `InfrastructureError` when the cluster gives up."""
        ...

    def close(self) -> None:
        """Stop everything."""
        ...


class Crew:
    """Workers that all have the same engine: batches get numbers, replies are checked."""

    def __init__(self, stream: Replies, workers: int) -> None:
        """Wait until the first worker has loaded; raises the error that kept it from loading."""
        self._stream = stream
        self._numbers = count()
        self._open: set[int] = set()
        self.workers = workers
        for _ in range(workers):  # each loads with its first batch, all at once
            self.send(())
        reply = self._receive()
        if reply.failure is not None or reply.info is None:
            raise error_of(reply.failure) if reply.failure else InfrastructureError(f"worker {reply.worker} names no engine")
        self.info: EngineInfo = reply.info

    @property
    def free(self) -> bool:
        """Whether a worker may want another batch."""
        return len(self._open) < AHEAD * self.workers

    def send(self, asks: Sequence[Ask]) -> int:
        """Put a batch into the stream; returns its number."""
        number = next(self._numbers)
        self._stream.send(Batch(number=number, asks=tuple(asks)))
        self._open.add(number)
        return number

    def receive(self) -> Reply:
        """The next reply. Raises `InfrastructureError` where a worker has another engine than the first."""
        reply = self._receive()
        if reply.info is not None and reply.info != self.info:
            raise InfrastructureError(
                f"worker {reply.worker} has another engine than the others",
                expected=" ".join(self.info.model_dump().values()),
                found=" ".join(reply.info.model_dump().values()),
                mend="use nodes with the same device and the same versions; the run resumes",
            )
        return reply

    def close(self) -> None:
        """Stop the workers."""
        self._stream.close()

    def _receive(self) -> Reply:
        reply = self._stream.receive()
        self._open.discard(reply.number)
        return reply


class RayQueue:
    """`Queue` over the workers: what was put in together is sorted together, and waits here until a worker is near to free."""

    def __init__(self, crew: Crew, batch_size: int) -> None:
        self._crew = crew
        self._batch_size = batch_size
        self._waiting: deque[list[Ask]] = deque()
        self._sent: dict[int, list[Ask]] = {}
        self._error: GateError | None = None

    def room(self) -> int:
        """A round for all workers, less what waits; 0 while that is more than half of one."""
        whole = ROUND * self._crew.workers * self._batch_size
        waiting = sum(map(len, self._waiting))
        return 0 if waiting > whole // 2 else whole - waiting

    def put(self, asks: Sequence[Ask]) -> None:
        """Take in asks, as batches of one decoding, longest prompts first."""
        for decoding in dict.fromkeys(ask.decoding for ask in asks):
            own = [ask for ask in asks if ask.decoding == decoding]
            own.sort(key=lambda ask: (-len(ask.prompt), ask.case.id, ask.sample))
            self._waiting += [own[start : start + self._batch_size] for start in range(0, len(own), self._batch_size)]

    def drop(self, places: Collection[tuple[str, int]]) -> None:
        """Forget what no worker was given yet."""
        left = ([ask for ask in batch if (ask.case.id, ask.sample) not in places] for batch in self._waiting)
        self._waiting = deque(batch for batch in left if batch)

    def take(self) -> Sequence[Response | NoResponse]:
        """Keep the workers supplied and wait for a batch that is answered. Where one failed, its answers come first."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        answers: list[Response | NoResponse] = []
        while not answers and self._error is None and (self._waiting or self._sent):
            while self._waiting and self._crew.free:
                batch = self._waiting.popleft()
                self._sent[self._crew.send(batch)] = batch
            reply = self._crew.receive()
            answered = self._sent.pop(reply.number, None)
            if answered is None:  # of an earlier queue, or a batch that Ray ran twice
                continue
            answers = _records(answered, reply)
            self._error = error_of(reply.failure) if reply.failure else None
        if self._error is not None and not answers:
            return self.take()
        return answers

    def close(self) -> None:
        """Forget everything in flight; its replies are passed over when they come."""
        self._waiting.clear()
        self._sent.clear()


def _records(batch: Sequence[Ask], reply: Reply) -> list[Response | NoResponse]:
    """One record for every ask of the batch, but for those that a failure of the machine left open."""
    found: dict[tuple[str, int], Response | NoResponse] = {}
    keys = {(ask.case.id, ask.sample): ask.key for ask in batch}
    for answer in reply.answers:
        place = (answer.case_id, answer.sample)
        if keys.get(place) == answer.key:
            found.setdefault(place, answer)
    if reply.failure is None:
        for ask in batch:
            if (ask.case.id, ask.sample) not in found:
                found[ask.case.id, ask.sample] = NoResponse(
                    case_id=ask.case.id, sample=ask.sample, key=ask.key, kind="error", reason="the worker gave no answer"
                )
    return list(found.values())
