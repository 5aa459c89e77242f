"""The cluster's queue and workers without Ray: replies in any order, workers that fail, and copies that differ."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from gate.conformance.scene import Model, safe, small_suite
from gate.endpoints import ENDPOINTS
from gate.endpoints.base import EngineOptions
from gate.endpoints.ray_cluster import AHEAD, ROUND, Crew, RayQueue
from gate.endpoints.ray_worker import Batch, Reply, Worker, check_copy, contents, host
from gate.endpoints.scripted import Answer, Scripted
from gate.errors import CandidateError, GateError, InfrastructureError, UnsafeCandidateError, UsageError
from gate.records import Ask, AttackCase, Calibration, Candidate, Decoding, EngineInfo, NoResponse, Response

SIZE = 4
CANDIDATE = Model("m", safe).candidate()


def asks_of(number: int, *, decoding: Decoding | None = None) -> list[Ask]:
    """As many asks, with prompts of different lengths."""
    decoding = decoding or Decoding()
    asks = []
    for n, item in enumerate(small_suite().items[:number]):
        case = AttackCase(id=f"{item.id}|{decoding.name}", item=item, calibration=Calibration.NATIVE, decoding=decoding.name)
        asks.append(Ask(case=case, sample=0, prompt="x" * (n * 7 % 13), key=f"key-{n}-{decoding.name}", decoding=decoding))
    return asks


def echo(case: AttackCase, _: int) -> str:
    """An answer that says whose it is."""
    return f"answer to {case.id}"


class Local:
    """Workers in this process behind the stream's protocol: a batch goes to the next worker, replies come shuffled, by a seed."""

    def __init__(self, workers: Sequence[Worker], *, seed: int = 0) -> None:
        self.workers = workers
        self._draw = random.Random(seed)
        self.waiting: list[str] = []
        self.sent: list[Batch] = []
        self.most = 0
        self.lost = False
        self.twice = False

    def send(self, batch: Batch) -> None:
        """Take in a batch, as text."""
        self.sent.append(batch)
        self.waiting.append(batch.model_dump_json())
        self.most = max(self.most, len(self.waiting))

    def receive(self) -> Reply:
        """Any reply that is due."""
        if self.lost:
            raise InfrastructureError("the Ray cluster failed")
        place = self._draw.randrange(len(self.waiting))
        text = self.waiting[place] if self.twice and len(self.waiting) > 1 else self.waiting.pop(place)
        worker = self._draw.choice(self.workers)
        return Reply.model_validate_json(worker({"batch": [text]})["reply"][0])

    def close(self) -> None:
        """Nothing runs."""


def worker_of(answer: Answer = echo) -> Worker:
    """A worker on this machine with a scripted engine."""
    return Worker(lambda *_: Scripted(answer), CANDIDATE, EngineOptions(), host(), "")


def queue_of(stream: Local, workers: int = 2) -> RayQueue:
    """A queue over a crew of these workers."""
    return RayQueue(Crew(stream, workers), SIZE)


def drain(queue: RayQueue) -> list[Response | NoResponse]:
    """Everything the queue yields."""
    found: list[Response | NoResponse] = []
    while answers := queue.take():
        found += answers
    return found


@pytest.mark.parametrize("seed", range(5))
def test_every_ask_is_answered_once(seed: int) -> None:
    """Two decodings, any order of replies: each ask gets its own answer, batches hold one decoding, and few are ahead."""
    stream = Local([worker_of(), worker_of()], seed=seed)
    queue = queue_of(stream)
    asks = asks_of(30) + asks_of(9, decoding=Decoding(name="warm", temperature=1.0))
    queue.put(asks)
    found = drain(queue)
    assert {a.case_id: a.text for a in found if isinstance(a, Response)} == {a.case.id: echo(a.case, 0) for a in asks}
    assert len(found) == len(asks)
    assert all(len({ask.decoding for ask in batch.asks}) <= 1 and len(batch.asks) <= SIZE for batch in stream.sent)
    assert stream.most <= AHEAD * 2


def test_room_is_a_round_and_comes_back_half_way() -> None:
    """An empty queue takes a round; one that is more than half full takes nothing, and takes more before it is empty."""
    queue = queue_of(Local([worker_of()]))
    assert queue.room() == ROUND * 2 * SIZE
    queue.put(asks_of(queue.room()))
    assert queue.room() == 0
    while not queue.room():
        queue.take()
    assert 0 < queue.room() < ROUND * 2 * SIZE


def test_dropped_asks_reach_no_worker() -> None:
    """What waits is forgotten; what a worker has may still be answered."""
    stream = Local([worker_of()])
    queue = queue_of(stream)
    asks = asks_of(24)
    queue.put(asks)
    first = queue.take()
    queue.drop({(ask.case.id, 0) for ask in asks})
    rest = drain(queue)
    assert len(first) + len(rest) == sum(len(batch.asks) for batch in stream.sent) < len(asks)


def test_batch_that_ray_repeats_counts_once() -> None:
    """A second reply to the same batch, which a restarted worker may send, adds no answer and opens no ask again."""
    stream = Local([worker_of()])
    queue = queue_of(stream)
    asks = asks_of(24)
    queue.put(asks)
    stream.twice = True
    found = [answer for _ in range(3) for answer in queue.take()]
    stream.twice = False
    found += drain(queue)
    assert sorted(answer.case_id for answer in found) == sorted(ask.case.id for ask in asks)


def test_replies_to_a_closed_queue_are_passed_over() -> None:
    """The next queue over the same workers yields its own answers alone."""
    stream = Local([worker_of()])
    crew = Crew(stream, 2)
    before, after = RayQueue(crew, SIZE), RayQueue(crew, SIZE)
    before.put(asks_of(16))
    before.take()
    before.close()
    asks = asks_of(6, decoding=Decoding(name="warm", temperature=1.0))
    after.put(asks)
    assert sorted(a.case_id for a in drain(after)) == sorted(ask.case.id for ask in asks)


class _Failing(Scripted):
    """Answers so many asks, then the machine fails."""

    def __init__(self, left: int) -> None:
        super().__init__(echo)
        self._left = left

    def generate(self, asks: Sequence[Ask]) -> Iterator[Response | NoResponse]:
        for answer in super().generate(asks):
            if self._left == 0:
                raise InfrastructureError("out of memory", found="a small machine")
            self._left -= 1
            yield answer


def test_answers_before_a_worker_s_failure_come_first() -> None:
    """What was answered is kept, then the worker's own error is raised with its words."""
    failing = Worker(lambda *_: _Failing(2), CANDIDATE, EngineOptions(), host(), "")
    queue = queue_of(Local([failing]), workers=1)
    queue.put(asks_of(SIZE))
    assert len(queue.take()) == 2
    with pytest.raises(InfrastructureError, match="out of memory") as caught:
        queue.take()
    assert caught.value.found == "a small machine"


def test_cluster_that_gives_up_is_an_infrastructure_error() -> None:
    """No answer is invented where Ray can start no worker any more."""
    stream = Local([worker_of()])
    queue = queue_of(stream)
    queue.put(asks_of(5))
    stream.lost = True
    with pytest.raises(InfrastructureError, match="cluster failed"):
        queue.take()


@pytest.mark.parametrize(
    "error", [CandidateError("no weights"), UnsafeCandidateError("pickled"), InfrastructureError("no memory")]
)
def test_engine_that_cannot_be_loaded_is_told_at_the_start(error: GateError) -> None:
    """The error that a worker met is raised here, of its own kind, before anything is asked."""

    def load(*_: object) -> Scripted:
        raise error

    with pytest.raises(type(error), match=str(error)):
        Crew(Local([Worker(load, CANDIDATE, EngineOptions(), host(), "")]), 1)


class _Other(Scripted):
    @property
    def info(self) -> EngineInfo:
        return super().info.model_copy(update={"device": "another card"})


def test_workers_with_different_engines_are_refused() -> None:
    """A cluster of two kinds of card would give answers of two engines under one name."""
    stream = Local([worker_of()])
    crew = Crew(stream, 2)
    stream.workers = [Worker(lambda *_: _Other(echo), CANDIDATE, EngineOptions(), host(), "")]
    queue = RayQueue(crew, SIZE)
    queue.put(asks_of(5))
    with pytest.raises(InfrastructureError, match="another engine") as caught:
        drain(queue)
    assert "another card" in caught.value.found


def folder_candidate(tmp_path: Path) -> Candidate:
    """A candidate whose folder and base exist."""
    for name in ("model", "base"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "weights").write_bytes(name.encode())
    return CANDIDATE.model_copy(update={"path": str(tmp_path / "model"), "base_path": str(tmp_path / "base")})


def test_same_copy_is_accepted(tmp_path: Path) -> None:
    """A node that sees the same files under the same names may answer."""
    candidate = folder_candidate(tmp_path)
    check_copy(candidate, contents(candidate))


@pytest.mark.parametrize("part", ["model", "base"])
@pytest.mark.parametrize("change", ["other bytes", "one more file", "another name"])
def test_other_copy_is_refused(part: str, change: str, tmp_path: Path) -> None:
    """Other bytes, another name or one more file in the folder or its base: that node would answer for another model."""
    candidate = folder_candidate(tmp_path)
    expected = contents(candidate)
    file = tmp_path / part / "deep" / "weights"
    if change == "other bytes":
        file.write_bytes(b"other")
    elif change == "one more file":
        (tmp_path / part / "more").write_bytes(b"")
    else:
        file.rename(file.with_name("weight"))
    with pytest.raises(UnsafeCandidateError, match="another copy"):
        check_copy(candidate, expected)


def test_worker_elsewhere_without_the_folder_says_so(tmp_path: Path) -> None:
    """A node that does not see the candidate's path names the path, and loads nothing."""
    candidate = CANDIDATE.model_copy(update={"path": str(tmp_path / "gone")})
    loaded: list[Candidate] = []

    def load(found: Candidate, _: EngineOptions) -> Scripted:
        loaded.append(found)
        return Scripted(echo)

    worker = Worker(load, candidate, EngineOptions(), "another host", "")
    with pytest.raises(InfrastructureError, match="does not see the candidate") as caught:
        Crew(Local([worker]), 1)
    assert "gone" in caught.value.expected
    assert not loaded


def test_worker_engine_that_runs_no_folder_is_refused() -> None:
    """A worker can't hold a served model, nor a cluster."""
    for name in ("openai_http", "ray_cluster", "typo"):
        with pytest.raises(UsageError, match="cannot hold"):
            ENDPOINTS["ray_cluster"](CANDIDATE, replace(EngineOptions(), worker_engine=name))
