"""A run in shards: whatever the split, the merged verdict is the single process's, and what is no whole split is refused."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from gate import pipeline, shard_commands
from gate.allowance import Allowance
from gate.cells import plan
from gate.cli import EXIT_OF, app
from gate.conformance.scene import (
    ITEMS,
    PLAIN_REFUSAL,
    Model,
    complies_with,
    comply,
    fails_on,
    safe,
    small_policy,
    small_suite,
    unsafe,
)
from gate.console import LogMode
from gate.endpoints.base import Endpoint
from gate.endpoints.scripted import Answer, Scripted, no_answer, uniform
from gate.errors import ExitCode, InfrastructureError, RunStoreError, UsageError
from gate.judges import make_judge
from gate.policy import Evidence, Gated, Policy, Reported
from gate.records import AttackCase, Calibration, Candidate, Decision, Decoding, EngineInfo, NoResponse, Role, Task
from gate.run_store import RunStore
from gate.shard_pipeline import ShardDone, merge, run_shard, shard_folder
from gate.sharding import INDEX_VARIABLE, MOST, Shard, parse_shard
from gate.suites.base import Suite
from tests.conftest import ROOT
from tests.folders import inputs_of, scripted

POLICY = small_policy(
    gate=Gated(
        tasks=(Task.TEXT_GENERATION,),
        calibrations=(Calibration.NATIVE,),
        decodings=(Decoding(name="greedy"), Decoding(name="drawn", temperature=1.0, samples=2)),
    ),
    report=Reported(calibrations=(Calibration.RAW,), items_per_cell=17),
    evidence=Evidence(min_items=ITEMS, min_behaviours=1, min_judged=20),
)


def drawn(seed: int, rate: float) -> Answer:
    """Complies at a true rate, fails a little, by seed, case and sample alone."""

    def answer(case: AttackCase, sample: int) -> str | NoResponse:
        draw = uniform(seed, case.id, sample)
        if draw > 0.99:
            return no_answer("error", "scripted failure")
        if case.item.role is Role.TWIN:
            return PLAIN_REFUSAL if draw < rate / 2 else comply(case)
        return comply(case) if draw < rate else safe(case)

    return answer


def shards_of(inputs: pipeline.Inputs, folder: Path, count: int, open_endpoint: pipeline.OpenEndpoint) -> list[Path]:
    """Run all shards of a split; returns their folders."""
    folders = [folder / f"shard-{i}" for i in range(1, count + 1)]
    for i, own in enumerate(folders, start=1):
        run_shard(inputs, own, open_endpoint, Shard(i, count), batch_size=64)
    return folders


def verdict_in(folder: Path) -> bytes:
    """The bytes of a run's verdict."""
    return (folder / "verdict.json").read_bytes()


def opening(*models: Model) -> pipeline.OpenEndpoint:
    """Opens whichever of the models is named, and writes down its asks."""
    by_name = {model.name: model for model in models}

    def open_endpoint(found: Candidate) -> Endpoint:
        model = by_name[found.source]

        def answer(case: AttackCase, sample: int) -> str | NoResponse:
            asked.append((found.source, case.id, sample))
            return model.answer(case, sample)

        return Scripted(answer)

    asked: list[tuple[str, str, int]] = []
    return open_endpoint


@pytest.mark.parametrize(("seed", "rate"), [(1, 0.04), (2, 0.12), (3, 0.3)])
def test_merged_verdict_is_the_single_process_s(seed: int, rate: float, tmp_path: Path) -> None:
    """For 1 to 5 shards in any order, verdict and stopping index are the same bytes as those of one process."""
    model = Model("m", drawn(seed, rate))
    inputs = inputs_of(model, policy=POLICY)
    pipeline.check(inputs, tmp_path / "whole", scripted(model), batch_size=64)
    for count in range(1, 6):
        folders = shards_of(inputs, tmp_path / str(count), count, scripted(model))
        random.Random(seed).shuffle(folders)
        merge(tmp_path / f"merged-{count}", folders)
        assert verdict_in(tmp_path / f"merged-{count}") == verdict_in(tmp_path / "whole")


def test_merged_verdict_against_a_baseline_is_the_single_process_s(tmp_path: Path) -> None:
    """The regression is found on the items that the decision read, though the shards asked the baseline more."""
    candidate, baseline = Model("candidate", complies_with(ITEMS // 3)), Model("baseline", complies_with(2))
    inputs = replace(inputs_of(candidate), baseline=baseline.candidate())
    whole = pipeline.check(inputs, tmp_path / "whole", opening(candidate, baseline))
    folders = shards_of(inputs, tmp_path, 3, opening(candidate, baseline))
    merge(tmp_path / "merged", folders)
    assert verdict_in(tmp_path / "merged") == verdict_in(tmp_path / "whole")
    assert any(stats.regression_hits for stats in whole.stats)


def test_shards_split_every_cell_without_overlap(tmp_path: Path) -> None:
    """Each item of every cell belongs to one shard alone, and sizes differ by one at most."""
    suite = small_suite()
    cells = plan(POLICY, suite.items, suite.system_prompt, suite.digest)
    for count in (1, 2, 7, 100):
        parts = [Shard(i, count).of(cells) for i in range(1, count + 1)]
        for n, cell in enumerate(cells):
            slices = [part[n].cases for part in parts]
            assert sorted(case.id for own in slices for case in own) == sorted(case.id for case in cell.cases)
            assert max(map(len, slices)) - min(map(len, slices)) <= 1


def test_more_shards_than_items_still_make_the_run(tmp_path: Path) -> None:
    """A shard without items is finished at once, asks nothing, and is needed none the less."""
    suite = small_suite()
    few = Suite.model_validate(
        {**suite.model_dump(), "items": [i for i in suite.items if i.behaviour == suite.items[0].behaviour]}
    )
    model = Model("m", unsafe)
    policy = small_policy(evidence=Evidence(min_items=1, min_behaviours=1, min_judged=1))
    inputs = inputs_of(model, policy=policy, suite=few)
    pipeline.check(inputs, tmp_path / "whole", scripted(model))
    folders = shards_of(inputs, tmp_path, 5, scripted(model))
    assert run_shard(inputs, folders[4], scripted(model), Shard(5, 5)) == ShardDone(Shard(5, 5), answers=0, missing=0)
    merge(tmp_path / "merged", folders)
    assert verdict_in(tmp_path / "merged") == verdict_in(tmp_path / "whole")
    with pytest.raises(UsageError, match="1 of 5 shards are missing: 5/5"):
        merge(tmp_path / "short", folders[:4])


def dying(answer: Answer, after: int) -> pipeline.OpenEndpoint:
    """An endpoint whose machine fails after so many answers."""
    left = [after]

    def die(case: AttackCase, sample: int) -> str | NoResponse:
        left[0] -= 1
        if left[0] < 0:
            raise InfrastructureError("the machine is gone")
        return answer(case, sample)

    return lambda _: Scripted(die)


def test_killed_shard_is_refused_and_resumes(tmp_path: Path) -> None:
    """An unfinished shard is named, nothing is merged; its command run again asks what is missing alone."""
    model = Model("m", complies_with(5))
    inputs = inputs_of(model)
    pipeline.check(inputs, tmp_path / "whole", scripted(model))
    (first, second) = (tmp_path / "1", tmp_path / "2")
    run_shard(inputs, first, scripted(model), Shard(1, 2))
    with pytest.raises(InfrastructureError):
        run_shard(inputs, second, dying(model.answer, 50), Shard(2, 2), batch_size=8)
    stored = len((second / "candidate.responses.jsonl").read_text().splitlines())
    with pytest.raises(UsageError, match="2: shard 2/2 is not finished"):
        merge(tmp_path / "merged", [first, second])
    assert not (tmp_path / "merged").exists()
    asked: list[str] = []

    def counting(case: AttackCase, sample: int) -> str | NoResponse:
        asked.append(case.id)
        return model.answer(case, sample)

    done = run_shard(inputs, second, lambda _: Scripted(counting), Shard(2, 2))
    assert 0 < stored == done.answers - len(asked)
    merge(tmp_path / "merged", [first, second])
    assert verdict_in(tmp_path / "merged") == verdict_in(tmp_path / "whole")


def test_finished_shard_asks_nothing_again(tmp_path: Path) -> None:
    """A shard's command may be run any number of times: the second time it finds everything there."""
    inputs = inputs_of(Model("m", safe))
    done = run_shard(inputs, tmp_path / "1", scripted(Model("m", safe)), Shard(1, 3))
    again = run_shard(inputs, tmp_path / "1", dying(safe, 0), Shard(1, 3))
    assert (done, done.missing) == (again, 0)
    assert done.answers == 2 * 2 * ITEMS // 3


def test_shard_says_how_many_answers_are_missing(tmp_path: Path) -> None:
    """Failures are counted apart, and weigh in the merged verdict as they do in one process."""
    model = Model("m", fails_on(6, "error"))
    inputs = inputs_of(model)
    pipeline.check(inputs, tmp_path / "whole", scripted(model))
    dones = [run_shard(inputs, tmp_path / str(i), scripted(model), Shard(i, 2)) for i in (1, 2)]
    assert sum(done.missing for done in dones) == 2 * 6
    merge(tmp_path / "merged", [tmp_path / "2", tmp_path / "1"])
    assert verdict_in(tmp_path / "merged") == verdict_in(tmp_path / "whole")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The two shards of a run, which no test changes."""
    model = Model("m", complies_with(3))
    return shards_of(inputs_of(model), tmp_path_factory.mktemp("pair"), 2, scripted(model))


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ((0,), "1 of 2 shards are missing: 2/2"),
        ((0, 1, 1), "given twice"),
        ((1, 1), "given twice"),
        ((), "no shards are given"),
    ],
)
def test_incomplete_or_doubled_split_is_refused(chosen: tuple[int, ...], message: str, pair: list[Path], tmp_path: Path) -> None:
    """All shards, each once: anything else is no run, and no folder is made."""
    with pytest.raises(UsageError, match=message):
        merge(tmp_path / "merged", [pair[n] for n in chosen])
    assert not (tmp_path / "merged").exists()


def test_shards_of_two_splits_are_refused(pair: list[Path], tmp_path: Path) -> None:
    """1/2 and 2/3 share items, whatever their number."""
    model = Model("m", complies_with(3))
    run_shard(inputs_of(model), tmp_path / "2", scripted(model), Shard(2, 3))
    with pytest.raises(UsageError, match="different splits"):
        merge(tmp_path / "merged", [pair[0], tmp_path / "2"])


class _Other(Scripted):
    @property
    def info(self) -> EngineInfo:
        return super().info.model_copy(update={"version": "2"})


def other_policy(inputs: pipeline.Inputs) -> pipeline.Inputs:
    """Another order seed alone."""
    return replace(inputs, policy=small_policy(decision={"order_seed": 7}))


FOREIGN: dict[str, tuple[Callable[[pipeline.Inputs], pipeline.Inputs], type[Scripted]]] = {
    "candidate": (lambda i: replace(i, candidate=Model("n", safe).candidate()), Scripted),
    "baseline": (lambda i: replace(i, baseline=Model("n", safe).candidate()), Scripted),
    "policy, order": (other_policy, Scripted),
    "suite, order": (lambda i: replace(i, suite=small_suite("2")), Scripted),
    "engine": (lambda i: i, _Other),
}


@pytest.mark.parametrize("part", FOREIGN)
def test_shard_of_another_run_is_refused_with_what_differs(part: str, pair: list[Path], tmp_path: Path) -> None:
    """Candidate, baseline, policy, suite, order and engine are one run's, or the error names what is not."""
    change, engine = FOREIGN[part]
    run_shard(change(inputs_of(Model("m", safe))), tmp_path / "2", lambda _: engine(safe), Shard(2, 2))
    with pytest.raises(UsageError, match=f"differ in {part}$"):
        merge(tmp_path / "merged", [pair[0], tmp_path / "2"])


@pytest.mark.parametrize(("part", "value"), [("tool_version", "0.0.1"), ("judge_calibrated", True)])
def test_shards_of_two_versions_of_the_program_are_refused(part: str, value: object, pair: list[Path], tmp_path: Path) -> None:
    """Another version may have asked other prompts: the error names what differs."""
    other = tmp_path / "2"
    shutil.copytree(pair[1], other)
    header = json.loads((other / "run.json").read_text())
    assert header[part] != value
    (other / "run.json").write_text(json.dumps(header | {part: value}))
    with pytest.raises(UsageError, match=f"differ in {part}$"):
        merge(tmp_path / "merged", [pair[0], other])


def test_one_prompt_out_of_reach_ends_no_shard(tmp_path: Path) -> None:
    """A loss that is too large for a shard's slice of a cell, and small in the run: the shard finishes, and the merge decides."""
    lost = pipeline.plan_of(POLICY, small_suite())[0].cases[0].id

    def answer(case: AttackCase, _: int) -> str | NoResponse:
        return no_answer("unreachable", "status 503") if case.id == lost else safe(case)

    model = Model("m", answer)
    inputs = inputs_of(model)
    assert 2 / ITEMS > inputs.policy.evidence.max_missing >= 1 / ITEMS
    whole = pipeline.check(inputs, tmp_path / "whole", scripted(model))
    merged = merge(tmp_path / "merged", shards_of(inputs, tmp_path, 2, scripted(model)))
    assert whole.decision is merged.decision is Decision.PASS
    gone = Model("m", lambda case, _: no_answer("unreachable", "status 503") if case.item.role is Role.TWIN else safe(case))
    with pytest.raises(InfrastructureError, match="out of reach"):
        run_shard(inputs_of(gone), tmp_path / "gone", scripted(gone), Shard(1, 2))


def test_whole_run_is_no_shard(pair: list[Path], tmp_path: Path) -> None:
    """A folder of a whole run is refused among shards, though it holds the answers."""
    model = Model("m", complies_with(3))
    pipeline.check(inputs_of(model), tmp_path / "whole", scripted(model))
    with pytest.raises(UsageError, match="whole is no shard"):
        merge(tmp_path / "merged", [pair[0], tmp_path / "whole"])


@pytest.mark.parametrize(
    "stage", [pipeline.decide, lambda folder: pipeline.judge(folder, make_judge("rules")), pipeline.report_again]
)
def test_nothing_is_decided_on_a_shard(stage: Callable[[Path], object], pair: list[Path]) -> None:
    """A shard's folder is never taken for a run: the stages that give or show a verdict refuse it, and say what it is."""
    with pytest.raises(RunStoreError, match="holds shard 1/2 of a run"):
        stage(pair[0])
    assert not (pair[0] / "verdict.json").exists()


def test_shard_s_folder_is_refused_to_the_whole_run_and_to_another_shard(pair: list[Path]) -> None:
    """The same candidate and policy in a folder that holds a part of it is another run."""
    inputs = inputs_of(Model("m", safe))
    with pytest.raises(RunStoreError, match="belongs to another run"):
        pipeline.check(inputs, pair[0], scripted(Model("m", safe)))
    with pytest.raises(RunStoreError, match="belongs to another run"):
        run_shard(inputs, pair[0], scripted(Model("m", safe)), Shard(2, 2))


def test_merging_again_changes_nothing(pair: list[Path], tmp_path: Path) -> None:
    """A merge that was killed, or a second one, ends in the same bytes, with no answer twice."""
    out = tmp_path / "merged"
    merge(out, pair)
    before = {name: (out / name).read_bytes() for name in ("verdict.json", "candidate.responses.jsonl")}
    (out / "verdict.json").unlink()
    lines = before["candidate.responses.jsonl"].splitlines(keepends=True)
    (out / "candidate.responses.jsonl").write_bytes(b"".join(lines[: len(lines) // 2]))
    merge(out, pair[::-1])
    assert verdict_in(out) == before["verdict.json"]
    found = (out / "candidate.responses.jsonl").read_bytes().splitlines(keepends=True)
    assert sorted(found) == sorted(lines)


def test_merged_run_resumes_without_asking(pair: list[Path], tmp_path: Path) -> None:
    """The merged folder is the run's own: `check` on it finds every answer there."""
    merge(tmp_path / "merged", pair)
    before = verdict_in(tmp_path / "merged")
    pipeline.check(inputs_of(Model("m", safe)), tmp_path / "merged", dying(safe, 0))
    assert verdict_in(tmp_path / "merged") == before


def test_merged_run_holds_what_one_process_would_have_asked(tmp_path: Path) -> None:
    """Cells beside a task that can't be evaluated are left out, though the shards asked them."""

    def gibberish(case: AttackCase, _: int) -> str:
        return "" if case.item.task is Task.TRANSLATION else safe(case)

    model = Model("broken", gibberish)
    gate = POLICY.gate.model_copy(update={"tasks": (Task.TEXT_GENERATION, Task.TRANSLATION)})
    inputs = inputs_of(model, policy=POLICY.model_copy(update={"gate": gate}))
    verdict = pipeline.check(inputs, tmp_path / "whole", scripted(model))
    merge(tmp_path / "merged", shards_of(inputs, tmp_path, 2, scripted(model)))
    assert verdict_in(tmp_path / "merged") == verdict_in(tmp_path / "whole")
    beside = {s.task: s.asked for s in verdict.stats if not s.gated}
    assert beside == {Task.TEXT_GENERATION: 17, Task.TRANSLATION: 0}


def test_merged_run_began_on_the_last_shard_s_day(tmp_path: Path) -> None:
    """A waiver that expired before the last shard began lifts nothing."""
    waiver = {"rule": "max_rate", "task": "text_generation", "expires": "2026-01-10"}
    waiver |= {"reason": "accepted for the pilot", "owner": "release team"}
    policy: Policy = small_policy(gate=Gated(tasks=(Task.TEXT_GENERATION,)), waivers=[waiver])
    model = Model("m", unsafe)
    for i, day in ((1, "2026-01-05"), (2, "2026-01-11")):
        inputs = replace(inputs_of(model, policy=policy), today=day)
        run_shard(inputs, tmp_path / str(i), scripted(model), Shard(i, 2))
    verdict = merge(tmp_path / "merged", [tmp_path / "1", tmp_path / "2"])
    assert verdict.evaluated_on == "2026-01-11"
    assert [f.waived_by for f in verdict.findings if f.rule == "max_rate"] == ["", ""]


def test_default_folder_is_the_shard_s_own() -> None:
    """Every shard, and the whole run, has a folder of its own that the same command finds again."""
    inputs = inputs_of(Model("m", safe))
    names = [shard_folder(inputs, shard) for shard in (Shard(1, 2), Shard(2, 2), Shard(1, 3), Shard(1, 2))]
    assert len({*names, pipeline.default_folder(inputs)}) == 4
    assert names[0] == names[3]


@pytest.mark.parametrize(("allowance", "code"), [(Allowance(), ExitCode.PASS), (Allowance(10), ExitCode.INCONCLUSIVE)])
def test_command_says_how_far_a_shard_came(
    allowance: Allowance, code: ExitCode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A finished shard ends with 0 and its number of answers; one that a limit stopped ends with 4 and is not merged."""
    inputs, opener = inputs_of(Model("m", safe)), scripted(Model("m", safe))
    found = shard_commands.run(inputs, tmp_path / "1", opener, Shard(1, 2), 5, LogMode.JSON, allowance)
    out, err = capsys.readouterr()
    told = json.loads(err.splitlines()[-1])
    assert (found, out.split(":")[0]) == (code, "shard 1/2 done" if code is ExitCode.PASS else "shard 1/2 stopped")
    assert told["answers"] == len((tmp_path / "1" / "candidate.responses.jsonl").read_text().splitlines())
    assert bool(told["stopped_by"]) == (code is ExitCode.INCONCLUSIVE)
    run_shard(inputs, tmp_path / "2", opener, Shard(2, 2))
    if code is ExitCode.INCONCLUSIVE:
        with pytest.raises(UsageError, match="shard 1/2 is not finished"):
            merge(tmp_path / "merged", [tmp_path / "1", tmp_path / "2"])
    else:
        merge(tmp_path / "merged", [tmp_path / "1", tmp_path / "2"])


def test_merge_command_exits_with_the_verdict(pair: list[Path], tmp_path: Path) -> None:
    """`gate merge` gives the code of the decision, and prints the report that the folder holds."""
    result = CliRunner().invoke(app, ["merge", str(tmp_path / "merged"), *map(str, pair), "--format", "json"])
    decision = json.loads(verdict_in(tmp_path / "merged"))["decision"]
    assert result.exit_code == EXIT_OF[Decision(decision)]
    assert json.loads(result.stdout) == json.loads((tmp_path / "merged" / "report.json").read_text())


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "-1/2", "1/0", "1/2/3", "a/2", "1/b", "1.0/2", "¹/2", f"1/{MOST + 1}"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    """Only i/n with i from 1 to n is one; the error shows the form."""
    with pytest.raises(UsageError, match="is no shard"):
        parse_shard(text, {INDEX_VARIABLE: "0"})


def test_job_index_counts_from_zero() -> None:
    """The pods 0 to 3 of an Indexed Job are the shards 1 to 4."""
    found = [parse_shard("auto/4", {INDEX_VARIABLE: str(pod)}) for pod in range(4)]
    assert found == [Shard(1, 4), Shard(2, 4), Shard(3, 4), Shard(4, 4)]


@pytest.mark.parametrize("index", ["", "4", "x", "-1"])
def test_job_index_outside_the_split_is_refused(index: str) -> None:
    """A Job with other completions than n, or none, is told so."""
    with pytest.raises(UsageError, match="does not say which shard"):
        parse_shard("auto/4", {INDEX_VARIABLE: index})


def test_header_of_a_shard_says_which_it_is(pair: list[Path]) -> None:
    """`run.json` names the shard, in words that the command line reads back."""
    found = json.loads((pair[1] / "run.json").read_text())["identity"]["shard"]
    assert parse_shard(found, {}) == Shard(2, 2)
    assert RunStore(pair[0]).header.identity.shard == "1/2"


def test_example_job_runs_and_merges_the_same_shards() -> None:
    """The Indexed Job of examples/ has as many pods as its split has shards, and its merge names the folder of each."""
    shards, merging = yaml.safe_load_all((ROOT / "examples" / "indexed-job.yaml").read_text(encoding="utf-8"))
    count, spec = shards["spec"]["completions"], shards["spec"]["template"]["spec"]
    command, *arguments = spec["containers"][0]["args"]
    given = dict(argument.split("=", 1) for argument in arguments)
    own = [given["--out"].replace("$(JOB_COMPLETION_INDEX)", str(pod)) for pod in range(count)]
    assert {str(parse_shard(given["--shard"], {INDEX_VARIABLE: str(pod)})) for pod in range(count)} == {
        f"{i}/{count}" for i in range(1, count + 1)
    }
    verb, _out, *merged = merging["spec"]["template"]["spec"]["containers"][0]["args"]
    assert (command, verb, merged) == ("check", "merge", own)
    known = {option for parameter in get_command(app).commands["check"].params for option in parameter.opts}  # type: ignore[attr-defined]
    assert set(given) <= known
