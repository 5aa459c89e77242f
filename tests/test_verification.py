"""A served model that is swapped while it is asked: none of what the other one said stays, whatever ends the asking."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gate import pipeline
from gate.conformance.scene import Model, complies_with, safe
from gate.endpoints.base import Endpoint
from gate.endpoints.scripted import Answer, Scripted
from gate.errors import GateError, InfrastructureError, RunStoreError, UnsafeCandidateError, UsageError
from gate.judges import make_judge
from gate.records import Ask, Candidate, Decision, NoResponse, Response
from gate.run_store import UNVERIFIED, RunStore
from gate.shard_pipeline import merge, run_shard
from gate.sharding import Shard
from gate.verification import VERIFY_EVERY
from tests.folders import inputs_of

BAD = complies_with(20)
"""Far over the limit of 10 %."""


@dataclass
class Server:
    """What stands behind a URL; a test changes it while it is asked."""

    answer: Answer = BAD
    stated: str = "bad"
    up: bool = True
    events: dict[int, Callable[[Server], None]] = field(default_factory=dict)
    """Number of answers given → what happens then."""
    at_look: Callable[[Server], None] = lambda _: None
    """What happens whenever it is asked for its identity."""
    asked: list[tuple[str, int]] = field(default_factory=list)

    def open(self, _: Candidate) -> Endpoint:
        """Opens it as the model `bad`, which it must state then."""
        endpoint = Served(self)
        endpoint.verify_unchanged()
        return endpoint


class Served(Scripted):
    """An endpoint whose model may be changed by somebody else."""

    def __init__(self, server: Server) -> None:
        super().__init__(lambda case, sample: server.answer(case, sample))  # noqa: PLW0108  (a test changes it)
        self.server = server

    def generate(self, asks: Sequence[Ask]) -> Iterator[Response | NoResponse]:
        """Answer one by one, and let happen what happens meanwhile."""
        for ask in asks:
            if (event := self.server.events.pop(len(self.server.asked), None)) is not None:
                event(self.server)
            if not self.server.up:
                raise InfrastructureError("the server can't be reached")
            yield from super().generate([ask])
            self.server.asked.append((ask.case.id, ask.sample))

    def verify_unchanged(self) -> None:
        """Raises where another model is stated, or nothing answers."""
        self.server.at_look(self.server)
        if not self.server.up:
            raise InfrastructureError("the server can't be asked which models it serves")
        if self.server.stated != "bad":
            raise UnsafeCandidateError("is not the model that it was when the run began")


def swap(server: Server) -> None:
    """A good model in the place of the bad one."""
    server.answer, server.stated = safe, "good"


def swap_back(server: Server) -> None:
    """The bad one again."""
    server.answer, server.stated = BAD, "bad"


def swap_and_die(server: Server) -> None:
    """Its disk is full, say, but it still states what it serves."""
    swap(server)
    raise InfrastructureError("the machine failed")


def interrupted(_: Server) -> None:
    """A second Ctrl-C while the identity is asked for: like a kill, it leaves no time for anything."""
    raise KeyboardInterrupt


def stored_places(folder: Path) -> list[tuple[str, int]]:
    """Places of the answers in a run folder, in the order they came."""
    rows = map(json.loads, (folder / "candidate.responses.jsonl").read_text(encoding="utf-8").splitlines())
    return [(row["case_id"], row["sample"]) for row in rows]


def check(server: Server, folder: Path) -> Decision:
    """The same command each time."""
    return pipeline.check(inputs_of(Model("bad", BAD)), folder, server.open, batch_size=8).decision


def die(server: Server) -> None:
    """Gone."""
    server.up = False


def test_a_swapped_in_model_s_answers_never_count(tmp_path: Path) -> None:
    """Swapped right after the opening: its answers are removed, deciding gives no pass, and the bad model is blocked later."""
    server = Server(events={0: swap})
    with pytest.raises(UnsafeCandidateError):
        check(server, tmp_path)
    assert len(server.asked) >= VERIFY_EVERY
    assert stored_places(tmp_path) == []
    assert pipeline.decide(tmp_path).decision is Decision.INCONCLUSIVE
    swap_back(server)
    assert check(server, tmp_path) is Decision.BLOCK


@pytest.mark.parametrize("end", [swap_and_die, swap])
def test_a_swap_behind_the_last_look_removes_what_came_since(end: Callable[[Server], None], tmp_path: Path) -> None:
    """Whether the asking ends by a failure or by the next look: only what was verified before the swap stays."""
    server = Server(answer=safe, events={VERIFY_EVERY + 20: end})
    with pytest.raises(UnsafeCandidateError):
        check(server, tmp_path)
    assert stored_places(tmp_path) == server.asked[:VERIFY_EVERY]
    assert not (tmp_path / UNVERIFIED).exists()


def test_a_swap_out_of_sight_is_cut_at_the_next_opening(tmp_path: Path) -> None:
    """Swapped, then gone, then back as it was: what came after the last look is not evidence."""
    server = Server(answer=safe, events={VERIFY_EVERY + 1: swap, VERIFY_EVERY + 40: die})
    with pytest.raises(InfrastructureError):
        check(server, tmp_path)
    first = len(server.asked)
    swap_back(server)
    server.up = True
    check(server, tmp_path)
    assert set(server.asked[VERIFY_EVERY:first]) <= set(server.asked[first:])
    assert not set(server.asked[:VERIFY_EVERY]) & set(server.asked[first:])


def test_a_kill_before_the_last_look_leaves_nothing_to_decide_on(tmp_path: Path) -> None:
    """No stage takes a folder whose asking was not verified to the end; the same command asks again, and blocks."""
    server = Server(events={0: swap})
    folder = tmp_path / "run"
    looks: list[Server] = []

    def killed_at_the_second(found: Server) -> None:
        looks.append(found)
        if len(looks) > 1:  # the first is the opening's
            interrupted(found)

    server.at_look = killed_at_the_second
    with pytest.raises(KeyboardInterrupt):
        check(server, folder)
    assert stored_places(folder)
    for stage in (pipeline.decide, pipeline.report_again, lambda run: pipeline.judge(run, make_judge("rules"))):
        with pytest.raises(RunStoreError, match="before it was verified"):
            stage(folder)
    swap_back(server)
    server.at_look = lambda _: None
    assert check(server, folder) is Decision.BLOCK
    assert not (folder / UNVERIFIED).exists()


@pytest.mark.parametrize("away", [True, False])
def test_a_failure_half_way_costs_little(away: bool, tmp_path: Path) -> None:
    """Nothing is asked twice where the server still answers at the end, and less than `VERIFY_EVERY` where it does not."""

    def fail(found: Server) -> None:
        found.up = not away
        raise InfrastructureError("the server can't be reached")

    server = Server(answer=safe, events={VERIFY_EVERY + 30: fail})
    with pytest.raises(InfrastructureError):
        check(server, tmp_path)
    server.up = True
    assert check(server, tmp_path) is Decision.PASS
    twice = len(server.asked) - len(set(server.asked))
    assert 0 < twice < VERIFY_EVERY if away else twice == 0


def test_shards_of_a_swapped_model_are_not_merged(tmp_path: Path) -> None:
    """A shard that lost the other model's answers is unfinished; one that was killed before the last look is refused."""
    inputs, folders = inputs_of(Model("bad", BAD)), [tmp_path / "1", tmp_path / "2"]
    for number, own in enumerate(folders, start=1):
        with pytest.raises(UnsafeCandidateError):
            run_shard(inputs, own, Server(events={0: swap}).open, Shard(number, 2), batch_size=8)
    with pytest.raises(UsageError, match="not finished"):
        merge(tmp_path / "merged", folders)
    for number, own in enumerate(folders, start=1):
        run_shard(inputs, own, Server().open, Shard(number, 2), batch_size=8)
    RunStore(folders[1]).mark_verified("candidate")
    with pytest.raises(RunStoreError, match="before it was verified"):
        merge(tmp_path / "merged", folders)
    run_shard(inputs, folders[1], Server().open, Shard(2, 2), batch_size=8)
    assert merge(tmp_path / "merged", folders).decision is Decision.BLOCK


def test_a_cut_that_was_killed_is_done_again(tmp_path: Path) -> None:
    """Judgements go first: whatever a kill leaves of a cut, no judgement stands without its answer, and the mark stays."""
    assert check(Server(), tmp_path) is Decision.BLOCK
    store = RunStore(tmp_path)
    log = store.logs["candidate"]
    lines = log.responses.path.read_bytes().splitlines(keepends=True)
    store.write(UNVERIFIED, b'{"side": "candidate", "responses": %d, "judgements": 0}' % sum(map(len, lines[:10])))
    log.judgements.cut(0)
    store.cut_unverified()
    assert log.responses.path.read_bytes() == b"".join(lines[:10])
    assert log.judgements.size() == 0
    assert not (tmp_path / "verdict.json").exists()
    assert check(Server(), tmp_path) is Decision.BLOCK


def test_an_endpoint_that_nobody_can_change_is_not_marked(tmp_path: Path) -> None:
    """A failure of a local model leaves no mark: all its answers stay."""
    calls = iter(range(40))

    def failing(case: object, sample: int) -> str:
        if next(calls, None) is None:
            raise InfrastructureError("out of memory")
        return "no"

    with pytest.raises(GateError):
        pipeline.check(inputs_of(Model("m", safe)), tmp_path, lambda _: Scripted(failing), batch_size=8)
    assert len(stored_places(tmp_path)) == 40
    assert not (tmp_path / UNVERIFIED).exists()


def test_purge_takes_the_mark_along(tmp_path: Path) -> None:
    """Nothing of the answers is left, not even their lengths."""
    check(Server(), tmp_path)
    RunStore(tmp_path).mark_verified("candidate")
    pipeline.purge(tmp_path)
    assert not (tmp_path / UNVERIFIED).exists()
