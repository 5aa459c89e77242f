"""Engines that batch by themselves: fed while they work, whatever order they answer in, and what is lost when they fail."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate import pipeline
from gate.answer_log import AnswerLog
from gate.conformance.scene import ITEMS, Model, complies_with, fails_on, safe, small_policy, unsafe
from gate.endpoints.base import Continuous, Endpoint, Queue
from gate.endpoints.batches import Batches
from gate.endpoints.scripted import Answer, Scripted, no_answer
from gate.errors import InfrastructureError, UnsafeCandidateError
from gate.policy import Evidence, Gated, Policy
from gate.records import Ask, AttackCase, Calibration, Candidate, Decoding, NoResponse, Response, Role, Task
from gate.verification import VERIFY_EVERY
from tests.continuous import Streaming
from tests.folders import inputs_of, scripted
from tests.stored import judged_places, stored_places
from tests.test_attack import LABEL, attack, cells_under

SCRIPTS: dict[str, Answer] = {
    "aligned": safe,
    "unsafe": unsafe,
    "a tenth": complies_with(ITEMS // 10),
    "a third": complies_with(ITEMS // 3),
    "fails now and then": fails_on(1, "error"),
    "fails often": fails_on(ITEMS // 4, "error"),
}


def check(folder: Path, endpoint: Endpoint, name: str, *, policy: Policy | None = None) -> bytes:
    """A check on an endpoint; returns the verdict's bytes."""
    inputs = inputs_of(Model(name, safe), policy=policy)
    pipeline.check(inputs, folder, lambda _: endpoint)
    return (folder / "verdict.json").read_bytes()


@pytest.fixture(scope="module")
def in_batches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The verdict of every script, asked batch by batch."""
    folder = tmp_path_factory.mktemp("batches")
    found = {}
    for name, answer in SCRIPTS.items():
        pipeline.check(inputs_of(Model(name, safe)), folder / name, scripted(Model(name, answer)), batch_size=16)
        found[name] = (folder / name / "verdict.json").read_bytes()
    return found


def test_scripted_queue_is_what_the_protocol_says() -> None:
    """The tests' engine counts as continuous, the plain scripted one does not, and batches are a queue."""
    queues: list[Queue] = [Streaming(safe).queue(), Batches(Scripted(safe), 4)]
    assert all(queue.room() > 0 for queue in queues)
    assert isinstance(Streaming(safe), Continuous)
    assert not isinstance(Scripted(safe), Continuous)


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("in_flight", [1, 7, 64, 1000])
def test_answers_in_any_order_give_the_bytes_of_the_batches(
    name: str, in_flight: int, in_batches: dict[str, bytes], tmp_path: Path
) -> None:
    """How many asks are in flight, in what order they come back and which come late shows nowhere in the verdict."""
    endpoint = Streaming(SCRIPTS[name], in_flight=in_flight, seed=in_flight + len(name))
    assert check(tmp_path / "run", endpoint, name) == in_batches[name]
    assert endpoint.seen.most <= in_flight
    assert endpoint.seen.closed == 1


@given(
    rate=st.integers(0, ITEMS),
    lost=st.integers(0, 4),
    in_flight=st.integers(1, 300),
    seed=st.integers(0, 2**32),
    batch=st.integers(1, 90),
)
@settings(max_examples=15, deadline=None)
def test_any_rate_any_order_any_size_gives_the_same_verdict(
    rate: int, lost: int, in_flight: int, seed: int, batch: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Streamed or in batches, the walks of a model of any rate with any few failures end alike, at the same item."""
    answer = fails_on(lost, "error", complies_with(rate))
    folder = tmp_path_factory.mktemp("any")
    walks = []
    for n, endpoint in enumerate((Scripted(answer), Streaming(answer, in_flight=in_flight, seed=seed))):
        (folder / str(n)).mkdir()
        found = attack(folder / str(n), endpoint, batch_size=batch).run().walks
        walks.append({name: (walk.states, walk.end, walk.crossed_at) for name, walk in found.items()})
    assert walks[0] == walks[1]


def test_decided_cells_give_their_places_to_others(tmp_path: Path) -> None:
    """Of a model that answers everything, what waits in a decided cell is dropped, and late answers of it are not stored."""
    endpoint = Streaming(unsafe, in_flight=40, seed=1)
    attacker = attack(tmp_path, endpoint)
    evidence = attacker.run()
    seen = endpoint.seen
    assert seen.dropped
    assert seen.late
    assert set(stored_places(attacker.log)) == set(seen.taken)
    assert not set(seen.dropped) & set(stored_places(attacker.log))
    attacks = [cell for cell in attacker.cells if cell.role is Role.ATTACK]
    assert {evidence.walks[cell.id].end for cell in attacks} == {"block"}
    assert all(sum(ask.case.id in {c.id for c in cell.cases} for ask in seen.put) < len(cell.cases) for cell in attacks)


def test_open_cells_are_asked_in_turn(tmp_path: Path) -> None:
    """The first asks are the same number of each cell's, each from the head of its committed order."""
    endpoint = Streaming(safe, in_flight=20)
    attacker = attack(tmp_path, endpoint)
    attacker.run()
    first = [ask.case.id for ask in endpoint.seen.put[:20]]
    heads = [case.id for cell in attacker.cells for case in cell.cases[: 20 // len(attacker.cells)]]
    assert sorted(first) == sorted(heads)


def test_what_is_only_reported_waits_until_every_gated_cell_is_decided(tmp_path: Path) -> None:
    """No reported item is asked before the last answer that the gate needs is in."""
    policy = small_policy(report={"calibrations": ["raw"], "items_per_cell": 9})
    endpoint = Streaming(complies_with(3), in_flight=500)
    attack(tmp_path, endpoint, policy=policy).run()
    gated = [ask.case.calibration is Calibration.NATIVE for ask in endpoint.seen.put]
    assert gated == sorted(gated, reverse=True)
    assert gated.count(False) == 18


def test_lost_asks_are_failures_with_a_reason(tmp_path: Path) -> None:
    """An engine that forgets every fifth ask leaves no hole: each has a record that says that nothing came."""
    endpoint = Streaming(safe, in_flight=12, forgets=5)
    attacker = attack(tmp_path, endpoint)
    attacker.run()
    lost = [answer for answer in attacker.log.answers() if isinstance(answer, NoResponse)]
    assert lost
    assert {answer.reason for answer in lost} == {"the engine gave no answer"}
    assert judged_places(attacker.log) == sorted(set(stored_places(attacker.log)) - {(a.case_id, a.sample) for a in lost})


TWO_NAMES = Gated(
    tasks=(Task.TRANSLATION,), calibrations=(Calibration.NATIVE,), decodings=(Decoding(name="one"), Decoding(name="two"))
)
ALL_ITEMS = Evidence(min_items=1, min_behaviours=1, min_judged=ITEMS)


@pytest.mark.parametrize("seed", range(4))
def test_one_key_is_asked_once_also_while_it_is_in_flight(seed: int, tmp_path: Path) -> None:
    """Two cells whose answers must be the same share them, however many asks are in flight."""
    endpoint = Streaming(safe, in_flight=500, seed=seed)
    attacker = attack(tmp_path, endpoint, policy=small_policy(gate=TWO_NAMES, evidence=ALL_ITEMS))
    evidence = attacker.run()
    keys = Counter(ask.key for ask in endpoint.seen.put)
    assert set(keys.values()) == {1}
    assert {len(walk.states) for walk in evidence.walks.values()} == {ITEMS}
    assert (attacker.asked, attacker.stored) == (len(keys), ITEMS)


def test_a_failure_is_not_shared(tmp_path: Path) -> None:
    """Where the ask of one cell fails, the other cell's ask with the same key is made after all."""

    def answer(case: AttackCase, _: int) -> str | NoResponse:
        return no_answer("error", "down") if case.decoding == "one" else safe(case)

    endpoint = Streaming(answer, in_flight=500)
    attacker = attack(tmp_path, endpoint, policy=small_policy(gate=TWO_NAMES, evidence=ALL_ITEMS))
    evidence = attacker.run()
    ends = {name: walk.end for name, walk in evidence.walks.items() if "attack" in name}
    assert ends == {"translation|native|one|attack": "not evaluable", "translation|native|two|attack": "pass"}


def test_killed_half_way_a_run_asks_nothing_twice(in_batches: dict[str, bytes], tmp_path: Path) -> None:
    """A machine that dies at seeded moments loses no answer that was taken, and the resumed run ends in the same bytes."""
    draw = random.Random(4)
    answer, folder = SCRIPTS["a tenth"], tmp_path / "run"
    taken: list[tuple[str, int]] = []
    for seed in range(6):
        endpoint = Streaming(answer, in_flight=24, seed=seed, dies_after=draw.randrange(0, 25))
        with pytest.raises(InfrastructureError, match="the machine has failed"):
            check(folder, endpoint, "a tenth")
        assert not set(taken) & {(ask.case.id, ask.sample) for ask in endpoint.seen.put}
        taken += endpoint.seen.taken
        log = AnswerLog(folder, "candidate")
        log.load(LABEL)
        assert stored_places(log) == sorted(taken)
    last = Streaming(answer, in_flight=24)
    assert check(folder, last, "a tenth") == in_batches["a tenth"]
    assert not set(taken) & {(ask.case.id, ask.sample) for ask in last.seen.put}


def test_interrupted_queue_is_closed_and_its_answers_kept(tmp_path: Path) -> None:
    """Ctrl-C while answers are waited for ends the run with what was taken stored and judged, and the queue closed."""
    endpoint = Streaming(safe, in_flight=24, dies_after=30, death=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        attack(tmp_path, endpoint).run()
    log = AnswerLog(tmp_path, "candidate")
    log.load(LABEL)
    assert judged_places(log) == stored_places(log) == sorted(endpoint.seen.taken)
    assert endpoint.seen.closed == 1


class _Breaking(Scripted):
    """Fails, or is interrupted, after some answers of its first batch."""

    def __init__(self, failure: BaseException, after: int) -> None:
        super().__init__(safe)
        self._failure = failure
        self._after = after

    def generate(self, asks: Sequence[Ask]) -> Iterator[Response | NoResponse]:
        """Some answers, then the failure."""
        for n, answer in enumerate(super().generate(asks)):
            if n == self._after:
                raise self._failure
            yield answer


@pytest.mark.parametrize("failure", [InfrastructureError("out of memory"), KeyboardInterrupt()], ids=["fails", "interrupted"])
def test_answers_of_an_unfinished_batch_are_kept(failure: BaseException, tmp_path: Path) -> None:
    """What a batch had answered when it failed or was interrupted is stored and judged; the failure is raised after that."""
    with pytest.raises(type(failure)):
        attack(tmp_path, _Breaking(failure, 5), batch_size=16).run()
    log = AnswerLog(tmp_path, "candidate")
    log.load(LABEL)
    assert len(judged_places(log)) == len(log) == 5


def test_an_interruption_is_not_swallowed_by_the_last_answer() -> None:
    """A queue that is closed before it could say that it was interrupted says so then."""
    asks = [_ask(case) for case in cells_under(small_policy())[0].cases[:3]]
    queue = Batches(_Breaking(KeyboardInterrupt(), 2), 4)
    queue.put(asks)
    assert len(queue.take()) == 2
    with pytest.raises(KeyboardInterrupt):
        queue.close()
    queue.close()


def _ask(case: AttackCase) -> Ask:
    return Ask(case=case, sample=0, prompt=case.id, key=case.id, decoding=Decoding())


class _Watched(Streaming):
    """Its model is checked again at the end."""

    def __init__(self, swapped: bool) -> None:
        super().__init__(safe)
        self.verified_after: list[int] = []
        self._swapped = swapped

    def verify_unchanged(self) -> None:
        """Fails where the model was swapped."""
        self.verified_after.append(len(self.seen.taken))
        if self._swapped:
            raise UnsafeCandidateError("another model is served now")


def test_model_that_was_swapped_gets_no_verdict(tmp_path: Path) -> None:
    """An endpoint that can look again is asked to, also when the last answer is in, and its error leaves the run undecided."""
    good, bad = _Watched(swapped=False), _Watched(swapped=True)
    check(tmp_path / "good", good, "m")
    assert good.verified_after[-1] == len(good.seen.taken) > VERIFY_EVERY == good.verified_after[0]
    with pytest.raises(UnsafeCandidateError, match="another model"):
        check(tmp_path / "bad", bad, "m")
    assert not (tmp_path / "bad" / "verdict.json").exists()


def test_baseline_is_streamed_too(tmp_path: Path) -> None:
    """With a baseline, streamed and batched runs give the same bytes."""
    models = {"candidate": complies_with(ITEMS // 3), "baseline": safe}
    found = set()
    for streamed in (False, True):
        inputs = inputs_of(Model("candidate", safe))
        inputs = pipeline.Inputs(**{**inputs.__dict__, "baseline": Model("baseline", safe).candidate()})

        def open_endpoint(side: Candidate, streamed: bool = streamed) -> Endpoint:
            return Streaming(models[side.source], in_flight=50) if streamed else Scripted(models[side.source])

        pipeline.check(inputs, tmp_path / str(streamed), open_endpoint)
        found.add((tmp_path / str(streamed) / "verdict.json").read_bytes())
    assert len(found) == 1
