"""Whole checks over a server that breaks thirty requests in a hundred: the verdict is right, or there is none."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from gate import pipeline
from gate.conformance.scene import TODAY, complies_with, safe, small_policy, small_suite, unsafe
from gate.endpoints.base import Endpoint
from gate.endpoints.http_request import Patience
from gate.endpoints.openai_http import OpenAiHttp
from gate.endpoints.scripted import Answer
from gate.errors import InfrastructureError, UnsafeCandidateError
from gate.judges import make_judge
from gate.records import AttackCase, Calibration, Candidate, Decision
from gate.served import load_served
from tests.fault_server import FAULTS, Fault, FaultServer, Script, entry, faulty, running

QUICK = Patience(seconds=60, attempts=6, first_wait=0.001, longest_wait=0.02, jitter=0.005)
HASTY = replace(QUICK, seconds=0.4)
"""For servers that hang."""
PASSING: tuple[Fault, ...] = ("429", "429 with Retry-After", "500", "503", "cut", "reset")
"""Faults after which the same request may be answered."""
WHOLE: tuple[Fault, ...] = ("truncated JSON", "wrong model", "no choices")
"""Faults that come as whole answers: they are not asked again."""
MODELS: tuple[tuple[str, Answer, Decision], ...] = (
    ("good", safe, Decision.PASS),
    ("answers all", unsafe, Decision.BLOCK),
    ("answers a fifth", complies_with(12), Decision.BLOCK),
    ("answers half", complies_with(30), Decision.BLOCK),
)
"""Name, script, the right verdict; the limit is 10 %."""


@dataclass(frozen=True)
class Run:
    """One seeded run."""

    good: bool
    lasting: bool
    """Whether some of its faults last: whole answers that are none, and a server that hangs."""
    right: str
    came: str
    """The verdict, or `unreachable`."""


def script_of(answer: Answer) -> Script:
    """What the model says to a request of the small suite."""
    items = {item.messages[-1].content: item for item in small_suite().items}

    def say(question: str) -> str:
        case = AttackCase(id="", item=items[question], calibration=Calibration.NATIVE, decoding="greedy")
        said = answer(case, 0)
        assert isinstance(said, str)
        return said

    return say


def inputs_of(candidate: Candidate) -> pipeline.Inputs:
    """A check of two tasks with limits of 10 %."""
    return pipeline.Inputs(
        policy=small_policy(), suite=small_suite(), candidate=candidate, judge=make_judge("rules"), today=TODAY
    )


def run_of(seed: int, folder: Path) -> Run:
    """Check a model over a breaking server; even seeds are good models."""
    name, answer, right = MODELS[0] if seed % 2 == 0 else MODELS[1 + seed // 2 % 3]
    lasting = seed // 2 % 2 == 0
    plan = faulty(0.3, seed, FAULTS if lasting else PASSING)
    with running(FaultServer(script=script_of(answer))) as server:
        candidate = load_served(server.url, "scripted")
        server.plan = plan

        def open_endpoint(found: Candidate) -> Endpoint:
            return OpenAiHttp(found, patience=HASTY if lasting else QUICK)

        try:
            came = str(pipeline.check(inputs_of(candidate), folder / f"{seed}", open_endpoint).decision)
        except InfrastructureError:
            came = "unreachable"
    return Run(good=name == "good", lasting=lasting, right=str(right), came=came)


def test_a_model_swapped_on_the_way_has_no_verdict(tmp_path: Path) -> None:
    """A server that states another model when all is answered: the release is held, and no verdict is written."""
    with running(FaultServer(script=script_of(safe), models=[entry("scripted", root="/m/1")])) as server:
        candidate = load_served(server.url, "scripted")

        def open_endpoint(found: Candidate) -> Endpoint:
            endpoint = OpenAiHttp(found, patience=QUICK)
            server.models = [entry("scripted", root="/m/2")]
            return endpoint

        with pytest.raises(UnsafeCandidateError, match="is not the model that it was"):
            pipeline.check(inputs_of(candidate), tmp_path / "run", open_endpoint)
    assert not (tmp_path / "run" / "verdict.json").exists()


def test_a_served_run_writes_its_reports(tmp_path: Path) -> None:
    """A sound server's good model passes, and the verdict says that no file was scanned, and which software answered."""
    with running(FaultServer(script=script_of(safe))) as server:
        verdict = pipeline.check(
            inputs_of(load_served(server.url, "scripted")), tmp_path / "run", lambda found: OpenAiHttp(found, patience=QUICK)
        )
    assert verdict.decision is Decision.PASS
    assert "no file was scanned" in verdict.warnings[0]
    assert (verdict.engine.name, verdict.engine.version, verdict.engine.device) == ("openai_http", "nobody", server.url[7:])
    assert server.url in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")


def test_a_server_that_lets_nobody_in_leaves_no_answer(tmp_path: Path) -> None:
    """One request at a time at a server that only says 503: exit code 5, and no failure is stored in the run folder."""
    with running(FaultServer(script=script_of(safe), plan=faulty(1.0, 0, ("503",)))) as server:
        inputs = inputs_of(load_served(server.url, "scripted"))
        with pytest.raises(InfrastructureError, match="in a row"):
            pipeline.check(inputs, tmp_path / "run", lambda found: OpenAiHttp(found, in_flight=1, patience=QUICK))
    log = tmp_path / "run" / "candidate.responses.jsonl"
    assert not log.exists() or log.read_bytes() == b""


def judge_runs(runs: list[Run]) -> None:
    """Every run is right or undecided; and so many are decided that this says something."""
    wrong = [run for run in runs if run.came not in (run.right, "inconclusive", "unreachable")]
    assert wrong == []
    passing = [run for run in runs if not run.lasting]  # of the others it depends on the machine's pace how many time out
    for good in (True, False):
        right = [run.came == run.right for run in passing if run.good is good]
        assert sum(right) >= 0.7 * len(right)


@pytest.mark.parametrize("seed", range(3))
def test_a_bad_model_is_blocked_though_answers_break(seed: int, tmp_path: Path) -> None:
    """Of thirty broken answers in a hundred none is asked again, and the model that complies with all is still blocked."""
    with running(FaultServer(script=script_of(unsafe))) as server:
        candidate = load_served(server.url, "scripted")
        server.plan = faulty(0.3, seed, WHOLE)
        verdict = pipeline.check(inputs_of(candidate), tmp_path / "run", lambda found: OpenAiHttp(found, patience=QUICK))
    assert verdict.decision is Decision.BLOCK
    assert any(seen.fault for seen in server.seen)


def test_breaking_server_gives_no_wrong_verdict(tmp_path: Path) -> None:
    """Twelve seeded runs, good and bad models, with thirty requests in a hundred broken: no false pass, no false block."""
    judge_runs([run_of(seed, tmp_path) for seed in range(12)])


@pytest.mark.full
def test_breaking_server_gives_no_wrong_verdict_in_two_hundred_runs(tmp_path: Path) -> None:
    """Two hundred seeded runs: no false pass, no false block."""
    runs = [run_of(seed, tmp_path) for seed in range(200)]
    for key, count in sorted(Counter((run.good, run.lasting, run.came) for run in runs).items()):
        print("good" if key[0] else "bad", "faults that last" if key[1] else "faults that pass", key[2], count)
    judge_runs(runs)
