"""The endpoint for served models against a real vLLM server with the testbed's base and adapters."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest

from gate.candidate import load_candidate
from gate.cells import plan
from gate.endpoints.base import Endpoint
from gate.endpoints.hf_local import HfLocal
from gate.endpoints.openai_http import OpenAiHttp
from gate.errors import CandidateError
from gate.policy import load_policy
from gate.records import Ask, AttackCase, Calibration, Decoding, Response, canonical_json, sha256_hex
from gate.served import load_served
from gate.suites import load_suite
from gate.verification import VERIFY_EVERY
from testbed import WEIGHTS
from testbed.vllm_server import BASE, VllmServer, vllm_server
from tests.conftest import ROOT
from tests.endpoints.asking import make_ask

ADAPTER = "drifted-translation"
POLICY = ROOT / "policies" / "demo.yaml"
PER_CELL = 6
IN_FLIGHT = 8


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """One server for all tests of this file."""
    with vllm_server(tmp_path_factory.mktemp("vllm")) as running:
        yield running


@pytest.fixture(scope="session")
def cases() -> list[tuple[AttackCase, Decoding]]:
    """A few cases of every cell of the demo's policy: all tasks, roles and calibrations, prefills among them."""
    loaded = load_policy(str(POLICY))
    suite = load_suite(loaded.policy.suite, relative_to=loaded.directory)
    cells = plan(loaded.policy, suite.items, suite.system_prompt, suite.digest)
    return [(case, cell.decoding) for cell in cells for case in cell.cases[:PER_CELL]]


def texts_of(endpoint: Endpoint, cases: list[tuple[AttackCase, Decoding]]) -> dict[str, str]:
    """Case id → answer; every case has one."""
    asks = {}
    for case, decoding in cases:
        prompt = endpoint.render(case)
        key = sha256_hex(canonical_json([prompt, case.id]))
        asks[case.id] = Ask(case=case, sample=0, prompt=prompt, key=key, decoding=decoding)
    answers = list(endpoint.generate(list(asks.values())))
    endpoint.close()
    assert [a for a in answers if not isinstance(a, Response)] == []
    return {a.case_id: a.text for a in answers if isinstance(a, Response)}


@pytest.mark.parametrize("name", [BASE, ADAPTER])
def test_served_answers_are_those_of_the_folder(server: VllmServer, cases: list[tuple[AttackCase, Decoding]], name: str) -> None:
    """Greedy answers over HTTP are hf_local's on the same weights, under every calibration, but for few that round apart."""
    served = texts_of(OpenAiHttp(load_served(server.url, name)), cases)
    local = texts_of(HfLocal(load_candidate(str(WEIGHTS / name)), device="cpu"), cases)
    by_calibration = Counter(case.calibration for case, _ in cases)
    differ = Counter(case.calibration for case, _ in cases if served[case.id] != local[case.id])
    print(f"{name}: {sum(differ.values())} of {len(cases)} answers differ; {dict(differ)} of {dict(by_calibration)}")
    assert set(by_calibration) == set(Calibration)
    assert all(differ[calibration] <= 0.05 * count for calibration, count in by_calibration.items())


def test_base_and_adapter_answer_differently(server: VllmServer, cases: list[tuple[AttackCase, Decoding]]) -> None:
    """The adapter's name leads to other answers than the base's: it is the adapter that is asked."""
    few = cases[:60]
    base, adapter = (texts_of(OpenAiHttp(load_served(server.url, name)), few) for name in (BASE, ADAPTER))
    assert sum(base[case] != adapter[case] for case in base) >= 10


def test_identity_is_the_servers_statement(server: VllmServer) -> None:
    """The version is vLLM's own; base and adapter have digests of their own that stay the same; another name is refused."""
    first, again, base = (load_served(server.url, name) for name in (ADAPTER, ADAPTER, BASE))
    assert first == again
    assert first.digest != base.digest
    endpoint = OpenAiHttp(first)
    assert endpoint.info.version.startswith("vllm 0.")
    endpoint.verify_unchanged()
    with pytest.raises(CandidateError) as caught:
        load_served(server.url, "aligned-2")
    assert ADAPTER in caught.value.found


def test_sampling_is_seeded(server: VllmServer) -> None:
    """A warm decoding gives the same answer to the same seed and sample, and different ones to different samples."""
    endpoint = OpenAiHttp(load_served(server.url, BASE))
    decoding = Decoding(name="warm", temperature=1.5, samples=8, max_new_tokens=24)
    asks = [make_ask(endpoint, "hello", decoding=decoding, sample=s) for s in range(8)]
    first, again = ({a.sample: a for a in endpoint.generate(asks)} for _ in range(2))
    assert first == again
    assert len({a.text for a in first.values() if isinstance(a, Response)}) > 1


def test_a_prompt_beyond_the_context_is_unsupported(server: VllmServer) -> None:
    """The server's word on a prompt that is too long becomes an unsupported ask, not a failed run."""
    endpoint = OpenAiHttp(load_served(server.url, BASE))
    (answer,) = endpoint.generate([make_ask(endpoint, "hello " * 600)])
    assert not isinstance(answer, Response)
    assert answer.kind == "unsupported"
    assert "context length" in answer.reason


def check(server: VllmServer, run: Path) -> subprocess.Popen[bytes]:
    """`gate check` of the drifted adapter by its URL, in a process of its own."""
    given = ["--policy", str(POLICY), "--candidate", server.url, "--model", ADAPTER, "--out", str(run)]
    command = [sys.executable, "-m", "gate.cli", "check", *given, "--in-flight", str(IN_FLIGHT), "--format", "none", "--quiet"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def stored_in(run: Path) -> list[bytes]:
    """The whole lines of the answer log."""
    log = run / "candidate.responses.jsonl"
    return [line for line in log.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")] if log.exists() else []


def test_a_killed_server_is_code_5_and_the_same_command_goes_on(server: VllmServer, tmp_path: Path) -> None:
    """The server killed half-way: exit 5. Back again: the same command keeps what was verified, asks the rest, and blocks."""
    run = tmp_path / "run"
    first = check(server, run)
    while len(stored_in(run)) < 300 and first.poll() is None:
        time.sleep(0.05)
    server.kill()
    _, said = first.communicate(timeout=900)
    assert first.returncode == 5, said.decode()
    assert b"the same command resumes" in said
    before = stored_in(run)
    assert all("text" in json.loads(line) for line in before), "a failure of the dead server was stored"
    server.start()
    second = check(server, run)
    _, said = second.communicate(timeout=1500)
    assert second.returncode == 3, said.decode()
    after = stored_in(run)
    kept = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False)))
    assert len(before) - kept < VERIFY_EVERY + 4 * IN_FLIGHT
    places = Counter((row["case_id"], row["sample"]) for row in map(json.loads, after))
    assert max(places.values()) == 1
    asked = server.counted("vllm:request_success_total")
    print(f"stored before the kill {len(before)}, kept {kept}, then stored {len(after) - kept}; asked after it {asked:.0f}")
    dropped_at_most = 2 * IN_FLIGHT * len({case.split("|")[0] for case, _ in places})
    assert asked <= len(after) - kept + min(dropped_at_most, len(before) // 2)
