"""A local Ray cluster of two workers on the testbed: the verdict of one process, also when a worker is killed half-way."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from gate import pipeline
from gate.attack import Progress
from gate.endpoints import ENDPOINTS
from gate.endpoints.base import Continuous, Endpoint, EngineOptions, Queue
from gate.endpoints.hf_local import HfLocal
from gate.judges import make_judge
from gate.policy import load_policy
from gate.records import Ask, AttackCase, Candidate, Decision, Decoding, EngineInfo, NoResponse, Response
from gate.run_store import RunStore
from gate.suites import load_suite
from tests.conftest import ROOT
from tests.endpoints.asking import make_ask

pytestmark = [
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\..*"),  # Ray reads its own deprecated settings
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # files and sockets of the processes that it started
]
OPTIONS = EngineOptions(device="cpu", batch_size=16, workers=2)
WORKER = "MapWorker"
"""What Ray calls the processes of an actor pool."""


class Kept:
    """An endpoint that a run does not close: its workers serve the next test too."""

    def __init__(self, endpoint: Continuous) -> None:
        self.endpoint = endpoint

    @property
    def info(self) -> EngineInfo:
        """The endpoint's."""
        return self.endpoint.info

    def render(self, case: AttackCase) -> str:
        """As the endpoint does."""
        return self.endpoint.render(case)

    def generate(self, asks: Sequence[Ask]) -> Iterator[Response | NoResponse]:
        """As the endpoint does."""
        return self.endpoint.generate(asks)

    def queue(self) -> Queue:
        """The endpoint's."""
        return self.endpoint.queue()

    def close(self) -> None:
        """Not yet."""


@pytest.fixture(scope="module")
def cluster(drifted: Candidate) -> Iterator[Continuous]:
    """Two workers with the drifted adapter."""
    endpoint = ENDPOINTS["ray_cluster"](drifted, OPTIONS)
    assert isinstance(endpoint, Continuous)
    yield endpoint
    endpoint.close()


@pytest.fixture(scope="module")
def inputs(drifted: Candidate) -> pipeline.Inputs:
    """The demo's policy, cut down to two tasks on one template: one that the fine-tuning broke, and one to compare."""
    loaded = load_policy(ROOT / "policies" / "demo.yaml")
    parts = loaded.policy.model_dump()
    parts["gate"] |= {"tasks": ["translation", "summarization"], "calibrations": ["native"]}
    parts["report"] = {"calibrations": ["raw"], "items_per_cell": 20}
    return pipeline.Inputs(
        policy=type(loaded.policy).model_validate(parts),
        suite=load_suite(loaded.policy.suite, relative_to=loaded.directory),
        candidate=drifted,
        judge=make_judge("rules"),
        today="2026-01-01",
    )


@pytest.fixture(scope="module")
def in_process(inputs: pipeline.Inputs, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The verdict of hf_local in this process."""
    folder = tmp_path_factory.mktemp("in-process") / "run"
    verdict = pipeline.check(inputs, folder, lambda c: HfLocal(c, device="cpu", batch_size=16))
    assert verdict.decision is Decision.BLOCK
    return (folder / "verdict.json").read_bytes()


def workers() -> list[psutil.Process]:
    """The worker processes of the cluster that this process started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if WORKER in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:  # gone meanwhile
            continue
    return found


def test_two_workers_give_the_verdict_of_one_process(
    inputs: pipeline.Inputs, cluster: Continuous, in_process: bytes, tmp_path: Path
) -> None:
    """The same bytes: they name the engine in the workers; neither the number of workers nor the batches change an answer."""
    assert len(workers()) == 2
    pipeline.check(inputs, tmp_path / "run", lambda _: Kept(cluster), batch_size=16)
    assert (tmp_path / "run" / "verdict.json").read_bytes() == in_process


def test_killed_worker_costs_no_answer(inputs: pipeline.Inputs, cluster: Continuous, in_process: bytes, tmp_path: Path) -> None:
    """SIGKILL to a worker in the middle of a run: it ends with the same verdict, no answer is missing, and no ask was lost."""
    killed: list[psutil.Process] = []

    def kill(progress: Progress) -> None:
        if progress.asked >= 50 and not killed:
            victim = workers()[0]
            os.kill(victim.pid, signal.SIGKILL)
            killed.append(victim)

    pipeline.check(inputs, tmp_path / "run", lambda _: Kept(cluster), batch_size=16, observe=kill)
    assert killed[0].pid not in {process.pid for process in workers()}
    assert (tmp_path / "run" / "verdict.json").read_bytes() == in_process
    store = RunStore(tmp_path / "run")
    store.load()
    assert [answer for answer in store.logs["candidate"].answers() if isinstance(answer, NoResponse)] == []


def test_sampled_answers_are_those_of_one_process(cluster: Continuous, drifted: Candidate) -> None:
    """A sample depends on prompt, seed and number alone, whichever worker draws it."""
    decoding = Decoding(name="warm", temperature=1.0, samples=3, max_new_tokens=16, seed=7)
    alone: Endpoint = HfLocal(drifted, device="cpu")
    asks = [
        make_ask(alone, f"say {word}", number=number, decoding=decoding, sample=sample)
        for number, word in enumerate(("yes", "no", "so"))
        for sample in range(3)
    ]
    texts = [
        {(a.case_id, a.sample): a.text for a in endpoint.generate(asks) if isinstance(a, Response)}
        for endpoint in (cluster, alone)
    ]
    assert texts[0] == texts[1]
    assert len(texts[0]) == len(asks)
