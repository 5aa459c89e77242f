"""The run folder: what survives a kill, a full disk and a purge, and what is refused."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gate import pipeline
from gate.answer_log import SYNC_EVERY, AnswerLog
from gate.conformance.scene import ITEMS, PLAIN_REFUSAL, Model, Scene, complies_with, safe, small_policy, small_suite, unsafe
from gate.errors import InfrastructureError, RunStoreError
from gate.json_lines import JsonLines, json_line, write_whole
from gate.policy import Limits
from gate.records import Judgement, NoResponse, Outcome, Response, Verdict
from gate.run_store import RunStore, locked
from tests.conftest import ROOT
from tests.folders import finished_run, inputs_of, scripted
from tests.stored import judged_places, stored_places

ANSWERS = "candidate.responses.jsonl"
JUDGEMENTS = "candidate.judgements.jsonl"


def response(case: str, *, key: str = "k", text: str = "t") -> Response:
    """An answer to a case."""
    return Response(case_id=case, sample=0, key=key, text=text, finish_reason="stop", prompt_tokens=1, completion_tokens=1)


def opinion(case: str, outcome: Outcome = Outcome.REFUSED) -> Judgement:
    """A judgement of it."""
    return Judgement(case_id=case, sample=0, outcome=outcome, score=1, judge="j", version="1", digest="d", reason="r")


def drive(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """One check of the scripted driver in a process of its own."""
    command = [sys.executable, "-m", "tests.run_driver", str(folder), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_torn_last_line_is_cut_and_the_rest_is_kept(tmp_path: Path) -> None:
    """What a kill left half-written goes, every whole line stays, and the next batch starts on a line of its own."""
    file = JsonLines(tmp_path / "log.jsonl")
    file.append([response("a"), response("b")])
    with file.path.open("ab") as stream:
        stream.write(b'{"case_id":"c","sam')
    assert [line.number for line in file.read()] == [1, 2]
    assert file.mend() == 19
    file.append([response("d")])
    assert [json.loads(line.data)["case_id"] for line in file.read()] == ["a", "b", "d"]


@pytest.mark.parametrize("size", [1, 65_535, 65_536, 65_537, 200_000])
def test_torn_line_of_any_length_is_cut(size: int, tmp_path: Path) -> None:
    """The end of the last whole line is found however long the torn one is."""
    file = JsonLines(tmp_path / "log.jsonl")
    file.append([response("a")])
    whole = file.path.read_bytes()
    file.path.write_bytes(whole + b"x" * size)
    assert file.mend() == size
    assert file.path.read_bytes() == whole


def test_file_of_one_torn_line_becomes_empty(tmp_path: Path) -> None:
    """A log whose first line was never finished holds nothing."""
    file = JsonLines(tmp_path / "log.jsonl")
    file.path.write_bytes(b'{"case')
    assert (file.mend(), file.path.read_bytes()) == (6, b"")


@pytest.mark.parametrize("damage", [b"not json\n", b"{}\n", b"\n", b'{"case_id": "x"}\n', b"\xff\xfe\n"])
def test_damaged_middle_line_is_refused_with_file_and_line(damage: bytes, tmp_path: Path) -> None:
    """A line in the middle that is no record is never skipped."""
    folder = finished_run(tmp_path)
    lines = (folder / ANSWERS).read_bytes().splitlines(keepends=True)
    (folder / ANSWERS).write_bytes(b"".join([*lines[:2], damage, *lines[2:]]))
    with pytest.raises(RunStoreError, match=rf"{ANSWERS}:3 is damaged"):
        pipeline.decide(folder)


def test_torn_answer_is_asked_again_on_resume(tmp_path: Path) -> None:
    """With its last answer torn, the same check asks for that one and for no stored one, and gives the same verdict bytes."""
    folder = finished_run(tmp_path)
    before = (folder / "verdict.json").read_bytes()
    data = (folder / ANSWERS).read_bytes()
    (folder / ANSWERS).write_bytes(data[:-5])
    lost = json.loads(data.splitlines()[-1])["case_id"]
    model = Model("aligned", safe)
    Scene(tmp_path).run(model)
    stored = {json.loads(line)["case_id"] for line in data.splitlines()[:-1]}
    asked = [ask.case.id for ask in model.asks]
    assert lost in asked
    assert not stored & set(asked)
    assert (folder / "verdict.json").read_bytes() == before


def test_finished_run_asks_nothing_again(tmp_path: Path) -> None:
    """The same command on a finished run takes every answer from the store."""
    finished_run(tmp_path)
    model = Model("aligned", safe)
    Scene(tmp_path).run(model)
    assert model.asks == []


def test_folder_and_files_are_private(tmp_path: Path) -> None:
    """The folder is 0700 and what it holds is readable by its owner alone, whatever the umask."""
    before = os.umask(0)
    try:
        folder = finished_run(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in (ANSWERS, JUDGEMENTS, "verdict.json", "report.md", "run.json"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


def test_second_process_is_refused_while_the_first_holds_the_folder(tmp_path: Path) -> None:
    """A real second process ends with code 2, says why, and does not touch the log; once the first is gone it runs."""
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    with locked(folder):
        refused = drive(folder)
        assert refused.returncode == 2
        assert "in use by another process" in refused.stderr
        assert sorted(p.name for p in folder.iterdir()) == [".lock"]
    assert drive(folder).returncode == 0


def test_folder_of_another_process_can_not_be_judged_or_purged(tmp_path: Path) -> None:
    """Re-entering a stage takes the lock as well."""
    folder = finished_run(tmp_path)
    with locked(folder):
        for enter in (pipeline.decide, pipeline.report_again, pipeline.purge):
            with pytest.raises(RunStoreError, match="in use by another process"):
                enter(folder)


def test_another_candidate_is_refused_with_both_digests(tmp_path: Path) -> None:
    """The refusal shows whose folder it is and who asked."""
    folder = finished_run(tmp_path)
    other = Model("other", safe)
    with pytest.raises(RunStoreError) as caught:
        pipeline.check(inputs_of(other), folder, scripted(other))
    shown = caught.value.diagnostics()
    assert Model("aligned", safe).candidate().trial_digest[:16] in shown
    assert other.candidate().trial_digest[:16] in shown


def test_another_policy_is_refused_with_both_digests(tmp_path: Path) -> None:
    """A changed limit is another run."""
    folder = finished_run(tmp_path)
    model, policy = Model("aligned", safe), small_policy(limits=Limits(max_rate=0.2, max_over_refusal=0.1))
    with pytest.raises(RunStoreError) as caught:
        pipeline.check(inputs_of(model, policy=policy), folder, scripted(model))
    shown = caught.value.diagnostics()
    assert policy.digest[:16] in shown
    assert small_policy().digest[:16] in shown


def test_another_suite_is_refused_with_both_digests(tmp_path: Path) -> None:
    """So is another version of the suite."""
    folder = finished_run(tmp_path)
    model, suite = Model("aligned", safe), small_suite("2")
    with pytest.raises(RunStoreError) as caught:
        pipeline.check(inputs_of(model, suite=suite), folder, scripted(model))
    shown = caught.value.diagnostics()
    assert suite.digest[:16] in shown
    assert small_suite().digest[:16] in shown


def test_changed_policy_file_in_the_folder_is_refused(tmp_path: Path) -> None:
    """Editing policy.json in a run folder changes no verdict: the stage refuses to be re-entered."""
    folder = finished_run(tmp_path, Model("unsafe", unsafe))
    policy = json.loads((folder / "policy.json").read_text())
    policy["limits"]["max_rate"] = 0.99
    (folder / "policy.json").write_text(json.dumps(policy))
    with pytest.raises(RunStoreError, match="not those the run was begun with"):
        pipeline.decide(folder)


def test_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    """A folder with other files in it is refused, and nothing in it is touched."""
    (tmp_path / "thesis.txt").write_text("years of work")
    tmp_path.chmod(0o755)
    model = Model("aligned", safe)
    with pytest.raises(RunStoreError, match="no run folder"):
        pipeline.check(inputs_of(model), tmp_path, scripted(model))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


@pytest.mark.parametrize("enter", [pipeline.decide, pipeline.report_again, pipeline.purge])
def test_stage_of_a_folder_that_is_not_there_makes_none(enter: object, tmp_path: Path) -> None:
    """Re-entering a mistyped path is an error and leaves nothing behind."""
    assert callable(enter)
    with pytest.raises(RunStoreError, match="is no run folder"):
        enter(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("limit_kb", [1, 2, 8, 24, 40, 60])
def test_full_disk_ends_with_code_5_and_the_same_command_finishes(limit_kb: int, tmp_path: Path) -> None:
    """Where a file can't grow, the run stops with code 5 and intact; with room again it ends as if nothing had been."""
    folder, log = tmp_path / "run", tmp_path / "asks"
    full = drive(folder, "--limit-kb", str(limit_kb), "--log", str(tmp_path / "first"))
    assert full.returncode == 5, full.stderr
    assert "run the same command again" in full.stderr
    stored = (
        [json.loads(line)["case_id"] for line in (folder / ANSWERS).read_text().splitlines()]
        if (folder / ANSWERS).exists()
        else []
    )
    assert len(stored) == len(set(stored))
    assert not list(folder.glob("*.tmp"))
    again = drive(folder, "--log", str(log))
    assert again.returncode == 0, again.stderr
    asked = [line.split(" ", 3)[3] for line in log.read_text().splitlines()] if log.exists() else []
    assert not set(asked) & set(stored)
    drive(tmp_path / "fresh")
    assert (folder / "verdict.json").read_bytes() == (tmp_path / "fresh" / "verdict.json").read_bytes()


def test_batch_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    """A write to a device that is full raises an infrastructure error and keeps no part of the batch."""
    log = AnswerLog(tmp_path, "candidate")
    log.responses.path.symlink_to("/dev/full")
    with pytest.raises(InfrastructureError, match="cannot be written"):
        log.add_answers([response("a")])
    assert len(log) == 0


def test_file_is_whole_or_not_there(tmp_path: Path) -> None:
    """Where a file can't be written the old one stays, and no temporary file does."""
    path = tmp_path / "verdict.json"
    write_whole(path, b"old")
    path.with_name("verdict.json.tmp").mkdir()
    with pytest.raises(InfrastructureError):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"


SECRET = "walrus-tango-purple"


def secretive_run(tmp_path: Path) -> Path:
    """A run whose answers all hold a word that stands nowhere else."""
    answers = complies_with(ITEMS // 10)
    return finished_run(tmp_path, Model("talks", lambda case, sample: f"{answers(case, sample)} {SECRET}"))


def files_with(folder: Path, word: str) -> list[str]:
    """The files of a folder that hold a word."""
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and word.encode() in p.read_bytes())


def test_purge_removes_every_answer_and_keeps_the_verdict_bytes(tmp_path: Path) -> None:
    """After a purge no file holds a word of an answer, also not one that a kill left behind or that was shown unmasked."""
    folder = secretive_run(tmp_path)
    pipeline.report_again(folder, unmasked=True)
    (folder / "report.md.tmp").write_text(f"half-written {SECRET}")
    assert {ANSWERS, "report.md", "report.md.tmp"} <= set(files_with(folder, SECRET))
    verdict = (folder / "verdict.json").read_bytes()
    pipeline.purge(folder)
    assert files_with(folder, SECRET) == []
    assert files_with(folder, PLAIN_REFUSAL) == []
    assert (folder / "verdict.json").read_bytes() == verdict
    decision = Verdict.model_validate_json(verdict).decision
    assert decision.upper() in (folder / "report.txt").read_text()


def test_purged_folder_refuses_to_resume(tmp_path: Path) -> None:
    """Neither the check nor a stage runs on a purged folder, and the folder stays as it is."""
    folder = secretive_run(tmp_path)
    pipeline.purge(folder)
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    model = Model("talks", safe)
    with pytest.raises(RunStoreError, match="purged"):
        pipeline.check(inputs_of(model), folder, scripted(model))
    with pytest.raises(RunStoreError, match="purged"):
        pipeline.decide(folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before


def test_killed_purge_is_finished_by_the_next_one(tmp_path: Path) -> None:
    """A purge that removed one log and was killed can be given again, and then removes the rest."""
    folder = secretive_run(tmp_path)
    (folder / JUDGEMENTS).unlink()
    pipeline.purge(folder)
    assert files_with(folder, SECRET) == []


def test_forgotten_answer_is_dropped_with_its_judgement(tmp_path: Path) -> None:
    """A forgotten answer, and what was said of it, are gone from memory and disk; the others stay."""
    log = AnswerLog(tmp_path, "candidate")
    log.add_answers([response("a", key="old"), response("b", key="new")])
    log.add_opinions([opinion("a", Outcome.COMPLIED), opinion("b")])
    log.forget({("a", 0)})
    again = AnswerLog(tmp_path, "candidate")
    again.load("j 1 d")
    assert (stored_places(again), judged_places(again)) == ([("b", 0)], [("b", 0)])
    assert again.twin("old") is None


def test_judgements_of_another_judge_are_left_out(tmp_path: Path) -> None:
    """Only the run's judge counts: another's, or another version's, are counted as foreign and not read."""
    log = AnswerLog(tmp_path, "candidate")
    log.add_answers([response("a"), response("b")])
    log.add_opinions([opinion("a"), opinion("b").model_copy(update={"version": "2"})])
    log.sync()
    again = AnswerLog(tmp_path, "candidate")
    again.load("j 1 d")
    assert (judged_places(again), again.foreign) == ([("a", 0)], 1)


def test_failure_is_stored_and_is_no_answer_to_anything_else(tmp_path: Path) -> None:
    """Why no answer came is kept for its own case and never copied to another one of the same key."""
    log = AnswerLog(tmp_path, "candidate")
    log.add_answers([NoResponse(case_id="a", sample=0, key="k", kind="timeout", reason="slow")])
    assert log.twin("k") is None
    again = AnswerLog(tmp_path, "candidate")
    again.load("j 1 d")
    assert isinstance(again.answer(("a", 0)), NoResponse)


def test_damaged_header_is_named(tmp_path: Path) -> None:
    """A run.json of another format says which file is damaged."""
    folder = finished_run(tmp_path)
    (folder / "run.json").write_text('{"identity": 3}')
    with pytest.raises(RunStoreError, match=r"run\.json is damaged"):
        RunStore(folder)


def test_purge_of_a_run_without_a_verdict_removes_its_answers(tmp_path: Path) -> None:
    """An interrupted run has answers to remove and no verdict to keep."""
    folder = finished_run(tmp_path)
    (folder / "verdict.json").unlink()
    assert pipeline.purge(folder) is None
    assert not (folder / ANSWERS).exists()
    assert not (folder / "report.md").exists()


def test_no_judgement_is_written_before_its_answer_is_synced(tmp_path: Path) -> None:
    """Judgements of answers that a power cut may still take are in memory alone, read from there, and reach the file later."""
    log = AnswerLog(tmp_path, "candidate")
    log.add_answers([response("a")])
    log.add_opinions([opinion("a")])
    assert list(log.judgements.read()) == []
    assert log.opinion(("a", 0)) == opinion("a")
    assert log.outcomes("a", 1) is not None
    log.add_answers([response(f"b{n}") for n in range(SYNC_EVERY)])
    assert [line.data for line in log.judgements.read()] == [json_line(opinion("a"))]
    log.add_opinions([opinion(f"b{n}") for n in range(SYNC_EVERY)])
    assert len(list(log.judgements.read())) == 1 + SYNC_EVERY
