"""Runs that end before the evidence does: limits of a command, and the error budget of what is out of reach. Never a pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate import pipeline
from gate.allowance import Allowance
from gate.answer_log import AnswerLog
from gate.attack import Progress
from gate.conformance.scene import (
    ITEMS,
    Model,
    attacks_answered_by,
    chosen,
    complies_with,
    fails_on,
    safe,
    small_policy,
    small_suite,
    unsafe,
)
from gate.endpoints.base import Endpoint
from gate.endpoints.scripted import Answer, Scripted, no_answer, uniform
from gate.errors import InfrastructureError
from gate.policy import Evidence, Policy, Reported
from gate.records import AttackCase, Calibration, Candidate, Decision, Finding, NoResponse, Role, Verdict
from gate.report import FORMATS
from tests.continuous import Streaming
from tests.folders import inputs_of
from tests.stored import stored_places
from tests.test_attack import LABEL
from tests.test_queue import TWO_NAMES


def run(
    folder: Path,
    answer: Answer,
    *,
    limits: Allowance | None = None,
    policy: Policy | None = None,
    streamed: bool = True,
    in_flight: int = 8,
    observe: Callable[[Progress], None] = lambda _: None,
) -> tuple[Verdict, list[tuple[str, int]]]:
    """A check in `folder`; the verdict and what was asked."""
    endpoint = Streaming(answer, in_flight=in_flight)
    asked: list[tuple[str, int]] = []

    def answers(case: AttackCase, sample: int) -> str | NoResponse:
        asked.append((case.id, sample))
        return answer(case, sample)

    verdict = pipeline.check(
        inputs_of(Model("m", safe), policy=policy),
        folder,
        lambda _: endpoint if streamed else Scripted(answers),
        batch_size=8,
        allowance=limits,
        observe=observe,
    )
    return verdict, [(ask.case.id, ask.sample) for ask in endpoint.seen.put] if streamed else asked


def stored(folder: Path) -> AnswerLog:
    """The answers in a run folder."""
    log = AnswerLog(folder, "candidate")
    log.load(LABEL)
    return log


def cut(verdict: Verdict) -> Finding:
    """What the verdict says of the limit."""
    (finding,) = (f for f in verdict.findings if f.rule == "run_limit")
    return finding


@dataclass
class Ticking:
    """A clock that moves by a minute whenever it is read."""

    now: float = 0.0

    def __call__(self) -> float:
        """Seconds."""
        self.now += 60
        return self.now


@pytest.mark.parametrize("streamed", [True, False])
def test_no_more_answers_than_allowed_and_the_run_goes_on_without_the_limit(streamed: bool, tmp_path: Path) -> None:
    """A limit of 50 ends in a folder of 50 answers, inconclusive; the same command without it ends as if there had been none."""
    whole, _ = run(tmp_path / "whole", safe)
    first, asked = run(tmp_path / "run", safe, limits=Allowance(max_generations=50), streamed=streamed)
    assert (first.decision, len(asked), len(stored(tmp_path / "run"))) == (Decision.INCONCLUSIVE, 50, 50)
    again, asked_again = run(tmp_path / "run", safe, limits=Allowance(max_generations=50), streamed=streamed)
    assert (again, asked_again) == (first, [])
    more, asked_more = run(tmp_path / "run", safe, limits=Allowance(max_generations=70), streamed=streamed)
    assert (more.decision, len(asked_more)) == (Decision.INCONCLUSIVE, 20)
    end, rest = run(tmp_path / "run", safe, streamed=streamed)
    assert not set(rest) & {*asked, *asked_more}
    assert (tmp_path / "run" / "verdict.json").read_bytes() == (tmp_path / "whole" / "verdict.json").read_bytes()
    assert (end, whole.decision) == (whole, Decision.PASS)


def test_verdict_says_which_limit_and_what_is_missing(tmp_path: Path) -> None:
    """The reason, a finding, a warning and every report name the option, the open cells and the items left."""
    verdict, _ = run(tmp_path / "run", safe, limits=Allowance(max_generations=50), in_flight=1)
    finding = cut(verdict)
    assert (finding.status, finding.subject) == ("undecided", "run")
    assert verdict.reason.startswith(finding.sentence)
    assert finding.sentence in verdict.warnings
    assert "--max-generations 50" in finding.sentence
    assert "4 of 4 gated cells are undecided" in finding.sentence
    assert f"at most {4 * ITEMS - 50} items are left to ask" in finding.sentence
    for format_ in FORMATS.values():
        assert "--max-generations 50" in (tmp_path / "run" / format_.file).read_text(encoding="utf-8")


def test_deciding_again_knows_no_limit_and_decides_alike(tmp_path: Path) -> None:
    """`gate decide` on a folder that a limit left open is inconclusive too: for want of evidence, not of allowance."""
    run(tmp_path / "run", safe, limits=Allowance(max_generations=50))
    verdict = pipeline.decide(tmp_path / "run")
    assert verdict.decision is Decision.INCONCLUSIVE
    assert not [f for f in verdict.findings if f.rule == "run_limit"]


def test_block_that_is_shown_stays_a_block(tmp_path: Path) -> None:
    """A limit that is hit after one cell was blocked leaves the block, and the verdict says that the rest was not asked."""
    blocked: list[int] = []

    def observe(progress: Progress) -> None:
        if any(walk.end == "block" for walk in progress.walks.values()):
            blocked.append(progress.asked)

    run(tmp_path / "probe", unsafe, observe=observe, in_flight=1)
    verdict, _ = run(tmp_path / "run", unsafe, limits=Allowance(max_generations=blocked[0] + 1), in_flight=1)
    assert verdict.decision is Decision.BLOCK
    assert cut(verdict).status == "undecided"
    assert "over the limit" in verdict.reason
    assert pipeline.decide(tmp_path / "run").decision is Decision.BLOCK


@given(limit=st.integers(1, 300), rate=st.integers(0, 20), in_flight=st.integers(1, 80), batched=st.booleans())
@settings(max_examples=12, deadline=None)
def test_a_limited_run_is_inconclusive_or_what_the_whole_run_is(
    limit: int, rate: int, in_flight: int, batched: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever the limit, a cut run never passes, never blocks what the whole run doesn't, and goes on to the same bytes."""
    folder = tmp_path_factory.mktemp("limited")
    answer = complies_with(rate)
    whole, _ = run(folder / "whole", answer, in_flight=in_flight)
    part, _ = run(folder / "part", answer, limits=Allowance(max_generations=limit), in_flight=in_flight, streamed=not batched)
    assert part.decision in (Decision.INCONCLUSIVE, whole.decision)
    assert len(stored(folder / "part")) <= limit
    if any(f.rule == "run_limit" for f in part.findings):
        assert part.decision is not Decision.PASS
    else:
        assert part == whole
    run(folder / "part", answer, in_flight=in_flight)
    assert (folder / "part" / "verdict.json").read_bytes() == (folder / "whole" / "verdict.json").read_bytes()


def test_time_is_the_command_s_own(tmp_path: Path) -> None:
    """After five minutes of a clock that is handed in nothing more is asked; the next command has its own five."""
    first, asked = run(tmp_path / "run", safe, limits=Allowance(max_minutes=5, clock=Ticking()))
    assert first.decision is Decision.INCONCLUSIVE
    assert "--max-minutes 5" in first.reason
    assert asked
    second, more = run(tmp_path / "run", safe, limits=Allowance(max_minutes=5, clock=Ticking()))
    assert "--max-minutes 5" in second.reason
    assert more
    assert not set(stored_places(stored(tmp_path / "run"))) - {*asked, *more}


def test_tokens_are_those_of_prompts_and_answers_in_the_folder(tmp_path: Path) -> None:
    """Asking ends with the answer that brings the sum to the limit; a second run with the same limit asks nothing."""
    verdict, _ = run(tmp_path / "run", safe, limits=Allowance(max_tokens=2000), in_flight=1)
    spent = [a.prompt_tokens + a.completion_tokens for a in stored(tmp_path / "run").answers() if not isinstance(a, NoResponse)]
    assert sum(spent[:-1]) < 2000 <= sum(spent)
    assert "--max-tokens 2000" in verdict.reason
    assert run(tmp_path / "run", safe, limits=Allowance(max_tokens=2000))[1] == []


def test_limit_that_only_what_is_reported_needed_does_not_decide(tmp_path: Path) -> None:
    """With every gated cell decided the pass stands on its evidence; the verdict warns that the rest was cut short."""
    policy = small_policy(report=Reported(calibrations=(Calibration.RAW,), items_per_cell=30))
    gated = len(run(tmp_path / "gated", safe, policy=small_policy())[1])
    verdict, _ = run(tmp_path / "run", safe, policy=policy, limits=Allowance(max_generations=gated + 10), in_flight=1)
    assert verdict.decision is Decision.PASS
    assert cut(verdict).status == "met"
    assert any("2 reported cells are not read to their end" in warning for warning in verdict.warnings)
    assert pipeline.decide(tmp_path / "run").decision is Decision.PASS


@pytest.mark.parametrize("spare", [0, 5])
def test_limit_hit_on_the_baseline_is_no_pass(spare: int, tmp_path: Path) -> None:
    """A candidate that would pass is inconclusive while its comparison lacks answers; one more command finishes it."""
    asked = len(run(tmp_path / "alone", safe, in_flight=1)[1])
    inputs = replace(inputs_of(Model("m", safe)), baseline=Model("before", safe).candidate())
    opened: list[str] = []

    def open_endpoint(side: Candidate) -> Endpoint:
        opened.append(side.source)
        return Streaming(safe, in_flight=1)

    first = pipeline.check(inputs, tmp_path / "run", open_endpoint, allowance=Allowance(max_generations=asked + spare))
    assert first.decision is Decision.INCONCLUSIVE
    assert "baseline's answers are missing" in cut(first).sentence
    assert opened == ["m", "before"]
    assert pipeline.check(inputs, tmp_path / "run", open_endpoint).decision is Decision.PASS


@pytest.mark.parametrize("limit", [1, 7, 50])
def test_shared_answers_count_too(limit: int, tmp_path: Path) -> None:
    """Two cells with the same answers fill a folder up to the limit together, never over it."""
    policy = small_policy(gate=TWO_NAMES)
    run(tmp_path / "run", safe, policy=policy, limits=Allowance(max_generations=limit), in_flight=30)
    assert len(stored(tmp_path / "run")) == limit


def test_observer_is_told_that_a_limit_ended_it(tmp_path: Path) -> None:
    """The last progress of a cut run says that it is the last, although cells are open."""
    seen: list[Progress] = []
    run(tmp_path / "run", safe, limits=Allowance(max_generations=20), observe=seen.append)
    assert [progress.last for progress in seen] == [False] * (len(seen) - 1) + [True]
    assert seen[-1].asked == 20


def failing(share: float, kind: Literal["unreachable", "error", "timeout"]) -> Answer:
    """An aligned model of which that share of asks fails, drawn by case."""

    def answer(case: AttackCase, sample: int) -> str | NoResponse:
        return no_answer(kind, "connection refused") if uniform(0, case.id, sample) < share else safe(case)

    return answer


@pytest.mark.parametrize("streamed", [True, False])
def test_endpoint_that_is_gone_ends_the_run_with_code_5_and_it_resumes(streamed: bool, tmp_path: Path) -> None:
    """A server that goes down half-way spends the budget at once; when it is back, the run ends in the bytes of a whole one."""
    run(tmp_path / "whole", safe)
    calls: list[int] = []

    def dying(case: AttackCase, _: int) -> str | NoResponse:
        calls.append(1)
        return safe(case) if len(calls) <= 60 else no_answer("unreachable", "connection refused")

    with pytest.raises(InfrastructureError, match="out of reach") as caught:
        run(tmp_path / "run", dying, streamed=streamed)
    assert caught.value.exit_code == 5
    assert "connection refused" in caught.value.diagnostics()
    assert not (tmp_path / "run" / "verdict.json").exists()
    assert len(calls) < 60 + 40
    kept = {(a.case_id, a.sample) for a in stored(tmp_path / "run").answers() if not isinstance(a, NoResponse)}
    assert len(kept) == 60
    _, asked = run(tmp_path / "run", safe, streamed=streamed)
    assert not set(asked) & kept
    assert (tmp_path / "run" / "verdict.json").read_bytes() == (tmp_path / "whole" / "verdict.json").read_bytes()


def test_few_unreachable_asks_are_within_the_budget(tmp_path: Path) -> None:
    """One lost ask of sixty is less than the policy's share: the run ends by its evidence, and the item counts as missing."""
    policy = small_policy(evidence=Evidence(min_items=ITEMS, min_behaviours=30, min_judged=30, max_missing=0.1))

    def answer(case: AttackCase, _: int) -> str | NoResponse:
        lost = case.item.role is Role.ATTACK and chosen(case, 1)
        return no_answer("unreachable", "reset") if lost else safe(case)

    verdict, _ = run(tmp_path / "run", answer, policy=policy)
    assert verdict.decision is Decision.PASS


def test_no_budget_at_all_stops_at_the_first_unreachable_ask(tmp_path: Path) -> None:
    """With `max_missing: 0` one ask that is out of reach ends the run."""
    policy = small_policy(evidence=Evidence(min_items=ITEMS, min_behaviours=30, min_judged=30, max_missing=0.0))
    with pytest.raises(InfrastructureError, match=r"out of reach for 1 of \d+ asks"):
        run(tmp_path / "run", failing(0.05, "unreachable"), policy=policy, in_flight=1)


@pytest.mark.parametrize("kind", ["error", "timeout"])
def test_model_that_is_reached_and_fails_is_inconclusive(kind: Literal["error", "timeout"], tmp_path: Path) -> None:
    """A third of all asks failing at a model that is up is no machine's error: the run ends, without a pass."""
    verdict, _ = run(tmp_path / "run", failing(0.3, kind))
    assert verdict.decision is Decision.INCONCLUSIVE
    assert any(f.rule == "max_missing" and f.status == "broken" for f in verdict.findings)


@pytest.mark.parametrize("method", ["sequential", "fixed"])
def test_unreachable_reported_cells_and_fixed_designs_end_with_code_5(method: str, tmp_path: Path) -> None:
    """Where no test would stop the asking, the budget does: the rest of a dead server's asks is not waited for."""
    policy = small_policy(decision={"method": method}, report=Reported(calibrations=(Calibration.RAW,), items_per_cell=30))

    def answer(case: AttackCase, _: int) -> str | NoResponse:
        gone = method == "fixed" or case.calibration is Calibration.RAW
        return no_answer("unreachable", "reset") if gone else safe(case)

    with pytest.raises(InfrastructureError, match="out of reach"):
        run(tmp_path / "run", answer, policy=policy, in_flight=1)
    assert sum(isinstance(a, NoResponse) for a in stored(tmp_path / "run").answers()) < 12


@given(
    share=st.floats(0, 0.4),
    kind=st.sampled_from(["unreachable", "error", "timeout"]),
    rate=st.integers(0, ITEMS),
    seed=st.integers(0, 99),
)
@settings(max_examples=15, deadline=None)
def test_faults_of_any_kind_never_pass_a_model_that_is_over_the_limit(
    share: float,
    kind: Literal["unreachable", "error", "timeout"],
    rate: int,
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Under any share of faults a model passes only if it would without one; what is within them is never blocked."""

    def answer(case: AttackCase, sample: int) -> str | NoResponse:
        lost = uniform(seed, case.id, sample) < share
        return no_answer(kind, "fault") if lost else complies_with(rate)(case, sample)

    folder = tmp_path_factory.mktemp("faults")
    whole, _ = run(folder / "whole", complies_with(rate))
    try:
        found = run(folder / "run", answer)[0].decision
    except InfrastructureError:
        return
    if found is Decision.PASS:
        assert whole.decision is Decision.PASS
    if found is Decision.BLOCK:
        assert rate > ITEMS // 10


def test_baseline_out_of_reach_is_code_5(tmp_path: Path) -> None:
    """A baseline that goes down is the machine's failure too, and no reason for an inconclusive verdict."""
    inputs = replace(inputs_of(Model("m", safe)), baseline=Model("before", safe).candidate())
    gone = attacks_answered_by(lambda case, _: no_answer("unreachable", "reset"))

    def open_endpoint(side: Candidate) -> Endpoint:
        return Scripted(safe if side.source == "m" else gone)

    with pytest.raises(InfrastructureError, match="out of reach"):
        pipeline.check(inputs, tmp_path / "run", open_endpoint)


def test_failures_beside_few_unreachable_asks_stay_the_candidate_s(tmp_path: Path) -> None:
    """Where most of what is missing failed at the model itself, the run is inconclusive, not the machine's error."""
    policy = small_policy(evidence=Evidence(min_items=ITEMS, min_behaviours=30, min_judged=30, max_missing=0.1))
    inner = fails_on(ITEMS // 2, "error")

    def answer(case: AttackCase, sample: int) -> str | NoResponse:
        found = inner(case, sample)
        rare = isinstance(found, NoResponse) and chosen(case, 2)
        return no_answer("unreachable", "reset") if rare else found

    assert run(tmp_path / "run", answer, policy=policy)[0].decision is Decision.INCONCLUSIVE


def test_share_over_all_cells_is_held_to_when_all_are_read(tmp_path: Path) -> None:
    """Losses that no cell shows to be too many, but that are too many together, end with code 5 and not with a verdict."""
    first = {cell.cases[0].id for cell in pipeline.plan_of(small_policy(), small_suite())}

    def answer(case: AttackCase, _: int) -> str | NoResponse:
        return no_answer("unreachable", "reset") if case.id in first else safe(case)

    with pytest.raises(InfrastructureError, match="out of reach for 4 of"):
        run(tmp_path / "run", answer, policy=small_policy())
    assert not (tmp_path / "run" / "verdict.json").exists()
    seen = stored(tmp_path / "run")
    assert 4 < 0.02 * 4 * ITEMS < 0.04 * len(seen)
