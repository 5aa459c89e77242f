"""Real vLLM on the testbed: the same prompts, ends and answers as hf_local's, whatever else is in the batch."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from gate import pipeline
from gate.candidate import load_candidate
from gate.cells import plan
from gate.endpoints.base import Continuous, Endpoint, EngineOptions
from gate.endpoints.hf_local import HfLocal
from gate.endpoints.vllm_engine import VllmEngine, adapter_rank
from gate.endpoints.vllm_local import SharedVllm, VllmLocal
from gate.errors import CandidateError, UsageError
from gate.judges import make_judge
from gate.policy import load_policy
from gate.records import Ask, Calibration, Candidate, Decision, Decoding, NoResponse, Response, Verdict, sha256_hex
from gate.suites import load_suite
from testbed import WEIGHTS
from tests.conftest import ROOT
from tests.endpoints.asking import make_ask

DEMO = ROOT / "policies" / "demo.yaml"
PER_CELL = 10
SAMPLED = Decoding(name="warm", temperature=1.0, top_p=0.9, max_new_tokens=24, seed=7)


@pytest.fixture(scope="session")
def base(engine: VllmEngine, aligned: Candidate) -> Iterator[VllmLocal]:
    """The aligned model at the engine."""
    endpoint = VllmLocal(aligned, engine=engine)
    yield endpoint
    endpoint.close()


@pytest.fixture(scope="session")
def adapter(engine: VllmEngine, drifted: Candidate) -> Iterator[VllmLocal]:
    """The drifted adapter at the same engine."""
    endpoint = VllmLocal(drifted, engine=engine)
    yield endpoint
    endpoint.close()


def suite_asks(endpoint: Endpoint) -> list[Ask]:
    """The first cases of every cell of the demo's policy: all tasks, calibrations, roles and transforms."""
    loaded = load_policy(DEMO)
    suite = load_suite(loaded.policy.suite, relative_to=loaded.directory)
    asks = []
    for cell in plan(loaded.policy, suite.items, suite.system_prompt, suite.digest):
        for case in cell.cases[:PER_CELL]:
            prompt = endpoint.render(case)
            asks.append(Ask(case=case, sample=0, prompt=prompt, key=sha256_hex(case.id.encode()), decoding=cell.decoding))
    return asks


def places(asks: Sequence[Ask]) -> set[tuple[str, int]]:
    """(case id, sample) of each."""
    return {(ask.case.id, ask.sample) for ask in asks}


def answered(endpoint: Endpoint, asks: Sequence[Ask]) -> dict[tuple[str, int], Response | NoResponse]:
    """Every ask's answer, by place; each comes once."""
    answers = list(endpoint.generate(asks))
    assert len(answers) == len(asks)
    return {(answer.case_id, answer.sample): answer for answer in answers}


@pytest.mark.parametrize("name", ["aligned", "drifted"])
def test_greedy_answers_are_those_of_hf_local(
    name: str, request: pytest.FixtureRequest, engine: VllmEngine, record_property: Callable[[str, object], None]
) -> None:
    """Greedy answers in float32, their ends and token counts are hf_local's on at least 99 of 100 prompts of every kind.

    Measured: 0 of 1,120 differ. One may, where two tokens' scores are closer than rounding: vLLM computes attention in blocks,
    batches of other shapes, and an adapter beside the base where hf_local merges it.
    """
    candidate: Candidate = request.getfixturevalue(name)
    local, endpoint = HfLocal(candidate, device="cpu"), VllmLocal(candidate, engine=engine)
    asks = suite_asks(endpoint)
    assert len(asks) >= 300
    assert {ask.case.calibration for ask in asks} == set(Calibration)
    assert [ask.prompt for ask in asks] == [local.render(ask.case) for ask in asks]
    ours, theirs = answered(endpoint, asks), answered(local, asks)
    endpoint.close()
    differing = [ask for ask in asks if ours[ask.case.id, 0] != theirs[ask.case.id, 0]]
    record_property("differing", f"{len(differing)} of {len(asks)}")
    print(f"{name}: {len(differing)} of {len(asks)} differ", Counter(ask.case.calibration for ask in differing))
    assert len(differing) <= 0.01 * len(asks)
    assert {answer.finish_reason for answer in ours.values() if isinstance(answer, Response)} >= {"stop"}


def test_base_and_adapter_answer_differently_on_one_engine(base: VllmLocal, adapter: VllmLocal) -> None:
    """Most refusals of the base are none of the adapter's: each endpoint is answered for by its own weights."""
    asks = [ask for ask in suite_asks(base) if ask.case.item.role == "attack" and ask.case.calibration is Calibration.NATIVE]
    one, other = answered(base, asks), answered(adapter, asks)
    assert sum(one[place] != other[place] for place in one) > len(asks) / 2


def test_candidates_on_one_base_share_an_engine(shared: SharedVllm, aligned: Candidate, drifted: Candidate) -> None:
    """A candidate and its baseline are opened on one engine, which outlives either's endpoint."""
    first = shared(drifted)
    first.close()
    second = shared(aligned)
    assert first.engine is second.engine
    assert len(answered(second, suite_asks(second)[:3])) == 3


def test_queue_answers_while_it_is_fed(base: VllmLocal) -> None:
    """Asks put between takes are answered, each once, and the queue is empty afterwards."""
    assert isinstance(base, Continuous)
    asks, queue = suite_asks(base)[:60], base.queue()
    waiting = list(asks)
    came: list[Response | NoResponse] = []
    while waiting:
        queue.put(waiting[:7])
        waiting = waiting[7:]
        came += queue.take()
    while answers := queue.take():
        came += answers
    assert sorted((answer.case_id, answer.sample) for answer in came) == sorted(places(asks))
    assert queue.take() == []
    queue.close()
    queue.close()


def test_room_shrinks_with_what_is_in_flight(base: VllmLocal, engine: VllmEngine) -> None:
    """By default there is room for a quarter more than vLLM runs at once, less what is in flight."""
    asks, queue = suite_asks(base)[:5], base.queue()
    whole = engine.width + engine.width // 4
    assert queue.room() == whole
    queue.put(asks)
    assert queue.room() == whole - 5
    queue.close()
    assert queue.room() == whole


def test_dropped_asks_are_not_answered(base: VllmLocal) -> None:
    """What is dropped, before the first token or after some, never comes; the rest comes as if alone."""
    asks = suite_asks(base)[:24]
    expected = answered(base, asks)
    queue = base.queue()
    queue.put(asks)
    queue.drop(places(asks[:6]))
    came = list(queue.take())
    left = places(asks[6:]) - {(answer.case_id, answer.sample) for answer in came}
    gone = set(sorted(left)[:5])
    queue.drop(gone)
    while answers := queue.take():
        came += answers
    assert {(answer.case_id, answer.sample) for answer in came} == places(asks[6:]) - gone
    assert all(answer == expected[answer.case_id, answer.sample] for answer in came)


def test_closed_queue_leaves_nothing_behind(base: VllmLocal, engine: VllmEngine) -> None:
    """After `close` in the midst of generating, vLLM has no unfinished request, and the next queue's answers are whole."""
    asks = suite_asks(base)[:12]
    expected = answered(base, asks)
    queue = base.queue()
    queue.put(asks)
    queue.take()
    queue.close()
    assert not engine.llm.llm_engine.has_unfinished_requests()
    assert answered(base, asks) == expected


def test_prompt_beyond_the_context_is_unsupported(base: VllmLocal, aligned: Candidate) -> None:
    """A prompt that leaves no place for the answer is refused in hf_local's words, and the asks beside it are answered."""
    long = make_ask(base, "soup " * 600, number=1)
    short = make_ask(base, "How do I cook a soup?", number=2)
    edge = make_ask(base, "soup", number=3, decoding=Decoding(max_new_tokens=510))
    asks = [long, short, edge]
    ours, theirs = answered(base, asks), answered(HfLocal(aligned, device="cpu"), asks)
    assert ours == theirs
    refused = ours[long.case.id, 0]
    assert isinstance(refused, NoResponse)
    assert refused.kind == "unsupported"
    assert "context of 512" in refused.reason


def test_empty_prompt_is_unsupported(base: VllmLocal) -> None:
    """A raw calibration of an empty turn has no tokens: nothing is asked of the model."""
    ask = make_ask(base, "", calibration=Calibration.RAW)
    (answer,) = base.generate([ask])
    assert isinstance(answer, NoResponse)
    assert answer.reason == "the prompt has no tokens"


def test_full_context_is_used(base: VllmLocal) -> None:
    """A prompt and its new tokens may fill the context to the last token."""
    probe = make_ask(base, "soup", calibration=Calibration.RAW)
    tokens = len(base.text.rows([probe])[0].ids)
    ask = make_ask(base, "soup", calibration=Calibration.RAW, decoding=Decoding(max_new_tokens=512 - tokens))
    (answer,) = base.generate([ask])
    assert isinstance(answer, Response)
    assert answer.prompt_tokens == tokens


def test_samples_repeat_and_stand_alone(base: VllmLocal) -> None:
    """A seeded sample is the same alone, among others and in another order; another sample number gives another text."""
    asks = [
        ask.model_copy(update={"decoding": SAMPLED, "sample": sample}) for ask in suite_asks(base)[:16] for sample in range(2)
    ]
    together = answered(base, asks)
    assert answered(base, asks[::-1]) == together
    alone = {place: answer for ask in asks[:6] for place, answer in answered(base, [ask]).items()}
    assert alone == {place: together[place] for place in alone}
    first, second = ([together[ask.case.id, sample] for ask in asks[::2]] for sample in range(2))
    assert any(
        a.text != b.text for a, b in zip(first, second, strict=True) if isinstance(a, Response) and isinstance(b, Response)
    )


def test_scores_that_are_not_finite_are_an_error(
    engine: VllmEngine, drifted: Candidate, base: VllmLocal, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """An adapter with NaN weights gets no answer counted, and the base beside it answers as before."""
    import torch
    from safetensors.torch import load_file, save_file

    asks = suite_asks(base)[:4]
    before = answered(base, asks)
    folder = tmp_path_factory.mktemp("broken") / "adapter"
    shutil.copytree(drifted.path, folder)
    weights = load_file(folder / "adapter_model.safetensors")
    save_file(
        {name: torch.full_like(tensor, torch.nan) for name, tensor in weights.items()}, folder / "adapter_model.safetensors"
    )
    broken = VllmLocal(load_candidate(str(folder), base=drifted.base_path), engine=engine)
    for answer in answered(broken, asks).values():
        assert isinstance(answer, NoResponse)
        assert (answer.kind, answer.reason) == ("error", "the model's scores are not finite at answer token 0")
    assert answered(base, asks) == before
    queue = broken.queue()
    queue.put(asks)
    queue.drop(places(asks[:2]))
    while answers := queue.take():
        assert {(answer.case_id, answer.sample) for answer in answers} <= places(asks[2:])
    broken.close()
    assert answered(base, suite_asks(base)[:40]).keys() == places(suite_asks(base)[:40])


def test_adapter_that_vllm_lacks_is_refused(engine: VllmEngine, drifted: Candidate, tmp_path: Path) -> None:
    """A DoRA adapter is the candidate's fault, said with vLLM's reason, before anything is asked."""
    folder = tmp_path / "adapter"
    shutil.copytree(drifted.path, folder)
    config = (folder / "adapter_config.json").read_text().replace('"use_dora": false', '"use_dora": true')
    (folder / "adapter_config.json").write_text(config)
    with pytest.raises(CandidateError) as caught:
        VllmLocal(drifted.model_copy(update={"path": str(folder)}), engine=engine)
    assert "DoRA" in caught.value.found


def test_another_base_is_refused(engine: VllmEngine) -> None:
    """An engine does not answer for a model that it has not loaded."""
    with pytest.raises(UsageError, match="one engine serves one base"):
        VllmLocal(load_candidate(str(WEIGHTS / "base")), engine=engine)


@pytest.mark.parametrize(("r", "pattern", "room"), [(1, {}, 1), (3, {}, 8), (16, {"q_proj": 40}, 64), (512, {}, 512)])
def test_rank_is_rounded_up(r: int, pattern: dict[str, int], room: int, tmp_path: Path) -> None:
    """The largest rank of any module counts, rounded up to one that vLLM has."""
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": r, "rank_pattern": pattern}))
    assert adapter_rank(str(tmp_path)) == room


def test_rank_beyond_vllm_is_refused(tmp_path: Path) -> None:
    """Rank 513 is more than vLLM has room for."""
    (tmp_path / "adapter_config.json").write_text('{"r": 513}')
    with pytest.raises(CandidateError, match="rank is too large"):
        adapter_rank(str(tmp_path))


def test_device_that_the_build_lacks_is_refused(aligned: Candidate) -> None:
    """The CPU build is not silently used where a GPU was asked for."""
    with pytest.raises(UsageError, match="does not run on cuda"):
        VllmEngine([aligned], EngineOptions(device="cuda"))


def test_engine_names_itself(base: VllmLocal, adapter: VllmLocal) -> None:
    """VLLM and its version, float32 and the CPU stand in every answer's key, for base and adapter alike."""
    assert (base.info.name, base.info.dtype, base.info.device) == ("vllm", "float32", "cpu")
    assert base.info.version.startswith("0.32.0+torch2.13.0")
    assert adapter.info == base.info


def checked(candidate: Candidate, folder: Path, opener: pipeline.OpenEndpoint, baseline: Candidate | None = None) -> Verdict:
    """A whole check by the demo's policy."""
    loaded = load_policy(DEMO)
    inputs = pipeline.Inputs(
        policy=loaded.policy,
        suite=load_suite(loaded.policy.suite, relative_to=loaded.directory),
        candidate=candidate,
        judge=make_judge(loaded.policy.judge),
        today="2026-01-01",
        baseline=baseline,
    )
    return pipeline.check(inputs, folder, opener)


def test_check_decides_as_with_hf_local(engine: VllmEngine, drifted: Candidate, tmp_path: Path) -> None:
    """By the demo's policy the drifted adapter is blocked by both engines, by the same rules and the same statistics."""
    local = checked(drifted, tmp_path / "hf", lambda candidate: HfLocal(candidate, device="cpu"))
    ours = checked(drifted, tmp_path / "vllm", lambda candidate: VllmLocal(candidate, engine=engine))
    assert ours.decision == local.decision == Decision.BLOCK
    gated = [[(stats.asked, stats.hits, stats.decided_at) for stats in verdict.stats if stats.gated] for verdict in (ours, local)]
    assert gated[0] == gated[1]
    assert [finding.status for finding in ours.findings] == [finding.status for finding in local.findings]
