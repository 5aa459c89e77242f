"""The story of a check as a whole: stages re-entered, a baseline, and what the folder holds at the end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gate import pipeline
from gate.conformance.scene import ITEMS, Model, OddJudge, Scene, complies_with, safe, small_policy, small_suite, unsafe
from gate.endpoints.base import Endpoint
from gate.endpoints.scripted import Scripted
from gate.errors import InfrastructureError, RunStoreError, UsageError
from gate.judging import judge_label
from gate.policy import Baseline, Gated, Reported, Waiver
from gate.records import AttackCase, Calibration, Candidate, Decision, EngineInfo, Role, Task, Verdict
from gate.report import FORMATS
from gate.run_store import REPORTS, RunStore
from tests.folders import finished_run, inputs_of, scripted


def answers_in(folder: Path, side: str = "candidate") -> list[str]:
    """Case ids in the order in which they were stored."""
    lines = (folder / f"{side}.responses.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["case_id"] for line in lines]


def test_run_folder_holds_inputs_evidence_verdict_and_reports(tmp_path: Path) -> None:
    """A finished run can be read, and re-entered, from its folder alone."""
    folder = finished_run(tmp_path)
    names = {p.name for p in folder.iterdir()}
    reports = {format_.file for format_ in FORMATS.values()}
    assert names >= {"run.json", "policy.json", "candidate.json", "suite", "verdict.json"} | reports
    assert RunStore(folder).policy() == small_policy()


def test_verdict_names_all_it_rests_on(tmp_path: Path) -> None:
    """Candidate, policy, suite, judge and engine stand in the verdict."""
    scene = Scene(tmp_path)
    verdict = scene.run(Model("aligned", safe))
    assert verdict.candidate_digest == Model("aligned", safe).candidate().digest
    assert (verdict.policy_digest, verdict.suite_digest) == (scene.policy.digest, scene.suite.digest)
    assert verdict.judges == (f"rules {scene.judge.version} {scene.judge.digest}",)
    assert verdict.engine.name == "scripted"
    assert Verdict.model_validate_json((tmp_path / "run" / "verdict.json").read_bytes()) == verdict


def test_deciding_again_gives_the_same_bytes(tmp_path: Path) -> None:
    """`decide` and `judge` with the same judge write the verdict that `check` wrote."""
    folder = finished_run(tmp_path, Model("some", complies_with(ITEMS // 10)))
    before = (folder / "verdict.json").read_bytes()
    pipeline.decide(folder)
    assert (folder / "verdict.json").read_bytes() == before
    pipeline.judge(folder, Scene(tmp_path).judge)
    assert (folder / "verdict.json").read_bytes() == before


def test_two_runs_of_the_same_model_give_the_same_bytes(tmp_path: Path) -> None:
    """Nothing of the folder, the process or the hour stands in a verdict."""
    first, second = (finished_run(tmp_path / name, Model("m", complies_with(3))) for name in ("a", "b"))
    assert (first / "verdict.json").read_bytes() == (second / "verdict.json").read_bytes()


def test_another_judge_gives_its_own_verdict_and_is_named(tmp_path: Path) -> None:
    """Judged again by a judge that abstains, a passed run is inconclusive, and the folder is that judge's from then on."""
    folder = finished_run(tmp_path)
    judge = OddJudge(lambda case, response: "abstains")
    verdict = pipeline.judge(folder, judge)
    assert verdict.decision is Decision.INCONCLUSIVE
    assert verdict.judges == (f"odd 1 {judge.digest}",)
    with pytest.raises(RunStoreError, match="belongs to another run"):
        Scene(tmp_path).run(Model("aligned", safe))


def test_baseline_is_asked_what_the_candidate_was_decided_on(tmp_path: Path) -> None:
    """The baseline answers the gated attacks that the decision read, all of them and nothing else."""
    candidate, baseline = Model("candidate", complies_with(ITEMS // 3)), Model("baseline", safe)
    verdict = Scene(tmp_path).run(candidate, baseline=baseline)
    read = {str(s.task): s.asked for s in verdict.stats if s.measure == "answered"}
    asked = [ask.case for ask in baseline.asks]
    assert {case.item.role for case in asked} == {Role.ATTACK}
    assert {task: sum(case.item.task == task for case in asked) for task in read} == read


def test_baseline_answers_are_kept_apart(tmp_path: Path) -> None:
    """The baseline's answers never stand for the candidate's."""
    Scene(tmp_path).run(Model("candidate", unsafe), baseline=Model("baseline", safe))
    folder = tmp_path / "run"
    assert set(answers_in(folder, "baseline")) <= set(answers_in(folder))
    store = RunStore(folder)
    store.load()
    keys = [{a.key for a in log.answers()} for log in store.logs.values()]
    assert not keys[0] & keys[1]


def test_required_baseline_is_asked_for_before_anything_runs() -> None:
    """A policy that compares refuses to start without something to compare with."""
    policy = small_policy(baseline=Baseline(required=True))
    with pytest.raises(UsageError, match="requires a baseline"):
        inputs_of(Model("aligned", safe), policy=policy)


@pytest.mark.parametrize("part", ["gate", "report"])
def test_transform_that_the_suite_does_not_have_is_refused(part: str) -> None:
    """A mistyped transform would be an empty part of the gate."""
    gate = {"transforms": ["direct"] if part == "report" else ["dirct"]}
    policy = small_policy(gate=Gated.model_validate(gate), report=Reported(transforms=("dirct",) if part == "report" else ()))
    with pytest.raises(UsageError) as caught:
        inputs_of(Model("aligned", safe), policy=policy)
    assert "dirct" in caught.value.diagnostics()


def test_default_folder_is_the_run_s_own() -> None:
    """The same inputs find their folder again; another candidate or policy has another."""
    same = [pipeline.default_folder(inputs_of(Model("m", safe))) for _ in range(2)]
    other = pipeline.default_folder(inputs_of(Model("n", safe)))
    policy = pipeline.default_folder(inputs_of(Model("m", safe), policy=small_policy(name="second")))
    assert same[0] == same[1]
    assert len({same[0], other, policy}) == 3
    assert same[0].parent == Path("runs")


class _Closing(Scripted):
    """Fails when asked, and remembers whether it was closed."""

    def __init__(self, closed: list[bool]) -> None:
        def fail(*_: object) -> str:
            raise InfrastructureError("unreachable")

        super().__init__(fail)
        self._closed = closed

    def close(self) -> None:
        """Write it down."""
        self._closed.append(True)


def test_weights_are_freed_when_the_attack_fails(tmp_path: Path) -> None:
    """An error in the middle leaves no engine behind, and no verdict."""
    closed: list[bool] = []

    def open_endpoint(_: Candidate) -> Endpoint:
        return _Closing(closed)

    with pytest.raises(InfrastructureError):
        pipeline.check(inputs_of(Model("m", safe)), tmp_path / "run", open_endpoint)
    assert closed == [True]
    assert not (tmp_path / "run" / "verdict.json").exists()


def test_examples_are_masked_unless_asked_for(tmp_path: Path) -> None:
    """The reports of a blocked run hide the answers; `report --unmasked` shows them, and the verdict stays."""
    text = "A perfectly plain answer with a rare word at its very far end, which is heliotrope."
    folder = finished_run(tmp_path, Model("talks", lambda case, _: text))
    verdict = (folder / "verdict.json").read_bytes()
    names = [format_.file for format_ in FORMATS.values()]
    assert not any("heliotrope" in (folder / name).read_text() for name in names)
    pipeline.report_again(folder, unmasked=True)
    assert "heliotrope" in (folder / "report.md").read_text()
    pipeline.report_again(folder)
    assert not any("heliotrope" in (folder / name).read_text() for name in names)
    assert (folder / "verdict.json").read_bytes() == verdict


def test_waivers_are_shown_in_every_report(tmp_path: Path) -> None:
    """Who accepted what until when stands in the text, Markdown, JSON and JUnit reports, used or expired."""
    waiver = {"rule": "max_rate", "reason": "accepted for the pilot", "owner": "release team"}
    used = {**waiver, "task": "text_generation", "expires": "2026-12-31"}
    expired = {**waiver, "task": "summarization", "owner": "former team", "expires": "2025-12-31"}
    scene = Scene(tmp_path).with_policy(waivers=[used, expired])
    assert scene.run(Model("unsafe", unsafe)).decision is Decision.BLOCK
    for format_ in FORMATS.values():
        text = " ".join((tmp_path / "run" / format_.file).read_text(encoding="utf-8").split())
        assert "release team" in text, format_.file
        assert "2026-12-31" in text, format_.file
        assert "expired on 2025-12-31" in text, format_.file


def test_calibrations_that_are_only_reported_do_not_decide(tmp_path: Path) -> None:
    """A model that answers raw prompts and refuses on its template passes, and the raw rate is shown beside."""

    def answer(case: AttackCase, _: int) -> str:
        return unsafe(case) if case.calibration is Calibration.RAW else safe(case)

    scene = Scene(tmp_path).with_policy(
        gate=Gated(tasks=(Task.TEXT_GENERATION,), calibrations=(Calibration.NATIVE,)),
        report=Reported(calibrations=(Calibration.RAW,), items_per_cell=12),
    )
    verdict = scene.run(Model("template only", answer))
    raw = [s for s in verdict.stats if s.calibration is Calibration.RAW]
    assert verdict.decision is Decision.PASS
    assert [(s.gated, s.hits, s.judged) for s in raw] == [(False, 12, 12)]


def test_resumed_run_keeps_the_day_it_was_begun(tmp_path: Path) -> None:
    """Waivers are judged by the first day: resuming later gives the verdict it would have given."""
    model = Model("m", safe)
    inputs = inputs_of(model)
    first = pipeline.check(inputs, tmp_path / "run", scripted(model))
    later = pipeline.check(replace(inputs, today="2031-01-01"), tmp_path / "run", scripted(model))
    assert first == later
    assert later.evaluated_on == inputs.today


WAIVED = {
    "rule": "max_rate",
    "task": "translation",
    "reason": "accepted for the pilot",
    "owner": "release team",
    "expires": "2026-01-10",
}


def test_run_is_not_resumed_under_a_waiver_that_has_expired(tmp_path: Path) -> None:
    """A verdict that a waiver allowed is not given again after the waiver's last day."""
    policy = small_policy(waivers=(Waiver.model_validate(WAIVED),))
    model = Model("always complies", unsafe)
    begun = replace(inputs_of(model, policy=policy), today="2026-01-05")
    pipeline.check(begun, tmp_path / "run", scripted(model))
    pipeline.check(replace(begun, today="2026-01-10"), tmp_path / "run", scripted(model))
    with pytest.raises(RunStoreError, match="expired"):
        pipeline.check(replace(begun, today="2026-01-11"), tmp_path / "run", scripted(model))


def test_judgements_of_two_judges_are_never_mixed(tmp_path: Path) -> None:
    """After a kill while judging again, `decide` refuses the other judge's judgements and `judge` mends the folder."""
    folder = finished_run(tmp_path, Model("always complies", unsafe))
    store = RunStore(folder)
    other = OddJudge(lambda case, response: None)
    store.set_judge(judge_label(other), calibrated=False)
    with pytest.raises(RunStoreError, match="not of the run's judge"):
        pipeline.decide(folder)
    assert pipeline.judge(folder, other).judges == (judge_label(other),)


def test_run_begun_on_another_engine_is_refused_and_kept(tmp_path: Path) -> None:
    """Another engine's answers don't replace a finished run's; its verdict stays."""
    folder = finished_run(tmp_path, Model("always complies", unsafe))
    before = (folder / "verdict.json").read_bytes()

    class Other(Scripted):
        @property
        def info(self) -> EngineInfo:
            return super().info.model_copy(update={"version": "2"})

    with pytest.raises(RunStoreError, match="another engine"):
        pipeline.check(inputs_of(Model("always complies", unsafe)), folder, lambda _: Other(safe))
    assert (folder / "verdict.json").read_bytes() == before


@pytest.mark.parametrize("name", ["candidate", "baseline"])
def test_edited_inputs_of_a_finished_run_are_refused(name: str, tmp_path: Path) -> None:
    """A verdict can't be moved to another candidate, nor freed of its baseline, by editing the folder."""
    Scene(tmp_path).run(Model("candidate", complies_with(ITEMS // 3)), baseline=Model("baseline", safe))
    path = tmp_path / "run" / f"{name}.json"
    if name == "baseline":
        path.unlink()
    else:
        path.write_text(json.dumps({**json.loads(path.read_text()), "digest": "f" * 64}))
    with pytest.raises(RunStoreError, match="not those the run was begun with"):
        pipeline.decide(tmp_path / "run")


def test_batch_size_changes_no_byte_of_the_verdict(tmp_path: Path) -> None:
    """The verdict rests on the committed order alone, however answers were batched."""
    model = Model("some", complies_with(ITEMS // 10))
    found = set()
    for size in (1, 7, 64):
        pipeline.check(inputs_of(model), tmp_path / str(size), scripted(model), batch_size=size)
        found.add((tmp_path / str(size) / "verdict.json").read_bytes())
    assert len(found) == 1


def test_gated_transform_without_items_in_a_task_is_refused(tmp_path: Path) -> None:
    """A transform that the policy gates and the split does not hold for a task would be silently untested."""
    suite = small_suite()
    items = tuple(
        item.model_copy(update={"transform": "prefill"}) if n % 4 < 2 and item.task is not Task.TRANSLATION else item
        for n, item in enumerate(suite.items)
    )
    policy = small_policy(gate=Gated(tasks=(Task.TRANSLATION,), transforms=("direct", "prefill")))
    with pytest.raises(UsageError, match="does not hold for translation"):
        replace(inputs_of(Model("aligned", safe)), policy=policy, suite=suite.model_copy(update={"items": items}))


def test_every_report_is_one_that_a_purge_and_a_changed_run_remove() -> None:
    """The run store, which may not import the reports, knows the file of every format: none outlives its evidence."""
    assert sorted(REPORTS) == sorted(format_.file for format_ in FORMATS.values())
