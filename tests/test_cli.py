"""The command line as a process: exit codes, help without the model libraries, log modes, and what bad input is told."""

from __future__ import annotations

import json
import os
import pickle
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from gate.cli import app
from gate.conformance.scene import ITEMS, Model, fails_on, safe, small_suite, unsafe
from gate.records import Verdict
from gate.suites import write_suite
from tests.conftest import ROOT
from tests.fault_server import FaultServer, running
from tests.folders import finished_run
from tests.model_zoo import build_model

HEAVY = ("torch", "transformers", "peft", "huggingface_hub", "model_signing", "pyarrow")
ESCAPE = "\x1b"
POLICY = """
schema_version: taskgate/policy/v1
name: tiny
suite: suite
limits: {max_rate: 0.1, max_over_refusal: 0.1, max_invalid: MAX_INVALID}
gate:
  tasks: [text_generation, summarization]
  calibrations: [native]
  decodings: [{name: greedy, max_new_tokens: 8}]
evidence: {min_items: 60, min_behaviours: 30, min_judged: 30}
"""


def command(*arguments: str | Path) -> list[str]:
    """The command line of a process."""
    return [sys.executable, "-m", "gate.cli", *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    """The tests' own environment, without what would force colours on or off."""
    plain = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "NO_COLOR", "PY_COLORS", "TERM")}
    return {**plain, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **more}


def gate(
    *arguments: str | Path, cwd: Path = ROOT, before: Callable[[], None] | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        preexec_fn=before,
    )


def all_commands(found: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command and group of the program."""
    yield path
    for name, inner in getattr(found, "commands", {}).items():
        yield from all_commands(inner, (*path, name))


@pytest.mark.parametrize("path", list(all_commands(typer.main.get_command(app))), ids=lambda path: " ".join(path) or "gate")
def test_every_command_explains_itself(path: tuple[str, ...]) -> None:
    """`--help` works on every command, says what it is for, and ends with code 0."""
    result = CliRunner().invoke(app, [*path, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output
    lines = [line for line in result.output.splitlines() if line.strip() and "Usage:" not in line]
    assert len(lines[0].strip()) > 20


def test_help_loads_no_model_library() -> None:
    """`gate --help` starts on a machine without torch, and names the exit codes."""
    probe = f"""
import sys
from gate.cli import main
sys.argv = ["gate", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
loaded = [name for name in {HEAVY!r} if name in sys.modules]
assert not loaded, loaded
"""
    result = subprocess.run(
        [sys.executable, "-c", probe], env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "130 interrupted" in " ".join(result.stdout.split())
    assert ESCAPE not in result.stdout


def test_told_to_end_it_ends_with_143(tmp_path: Path) -> None:
    """SIGTERM while a server does not answer ends the gate with 143 and a word that the same command resumes."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        arguments = ["check", "-p", "default", "-c", url, "--model", "m", "--out", str(tmp_path / "run"), "--quiet"]
        process = subprocess.Popen(
            [sys.executable, "-m", "gate.cli", *arguments], cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True
        )
        silent.settimeout(300)
        connection, _ = silent.accept()
        with connection:
            process.send_signal(signal.SIGTERM)
            _, told = process.communicate(timeout=300)
    assert process.returncode == 143, told
    assert "the same command resumes" in told


@pytest.mark.parametrize(
    "model",
    [
        (Model("aligned", safe), 0),
        (Model("unsafe", unsafe), 3),
        (Model("down", fails_on(ITEMS, "error")), 4),
    ],
    ids=["pass", "block", "inconclusive"],
)
def test_exit_code_is_the_verdict(model: tuple[Model, int], tmp_path: Path) -> None:
    """`gate decide` ends with the decision's code, and `gate report` with 0 whatever the decision was."""
    folder = finished_run(tmp_path, model[0])
    decided = gate("decide", folder)
    assert decided.returncode == model[1]
    decision = Verdict.model_validate_json((folder / "verdict.json").read_bytes()).decision
    assert decided.stdout.startswith(decision.upper())
    shown = gate("report", folder, "--format", "json")
    assert shown.returncode == 0
    assert json.loads(shown.stdout)["verdict"]["decision"] == decision
    assert ESCAPE not in decided.stdout + decided.stderr + shown.stdout


def test_judging_again_gives_the_same_verdict(tmp_path: Path) -> None:
    """`gate judge` with the same judge changes no byte of the verdict."""
    folder = finished_run(tmp_path)
    before = (folder / "verdict.json").read_bytes()
    assert gate("judge", folder, "--format", "none").returncode == 0
    assert (folder / "verdict.json").read_bytes() == before


def test_purge_is_said_and_done(tmp_path: Path) -> None:
    """`gate purge` names the verdict that stays, and the folder can't be judged again."""
    folder = finished_run(tmp_path)
    purged = gate("purge", folder)
    assert (purged.returncode, "the verdict (pass) stays" in purged.stdout) == (0, True)
    again = gate("judge", folder)
    assert (again.returncode, "purged" in again.stderr) == (2, True)


def told(result: subprocess.CompletedProcess[str], *texts: str) -> None:
    """A usage error: code 2, the texts on standard error, no traceback, nothing on standard output."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    for text in texts:
        assert text in result.stderr


def test_missing_policy_is_answered_with_the_nearest_name() -> None:
    """A mistyped policy name is met before the candidate is looked at."""
    told(gate("check", "-p", "strickt", "-c", "nowhere"), "there is no policy strickt", "did you mean strict?")


def test_policy_in_another_encoding_is_refused(tmp_path: Path) -> None:
    """A policy file that is not UTF-8 is named."""
    path = tmp_path / "p.yaml"
    path.write_bytes(b"name: caf\xe9\n")
    told(gate("policy", "validate", path), "p.yaml", "UTF-8")


def test_unknown_key_of_a_policy_is_refused(tmp_path: Path) -> None:
    """`gate policy validate` names the key and the nearest known one."""
    path = tmp_path / "p.yaml"
    path.write_text(POLICY.replace("MAX_INVALID", "0.1").replace("evidence:", "evidense:"), encoding="utf-8")
    told(gate("policy", "validate", path), "evidense: unknown key; the nearest known key is 'evidence'")


def test_missing_candidate_is_a_usage_error(tmp_path: Path) -> None:
    """A candidate that is not there is named, and no run folder is made."""
    told(gate("check", "-p", "default", "-c", "no-such-folder", cwd=tmp_path), "no-such-folder")
    assert list(tmp_path.iterdir()) == []


def test_damaged_run_folder_is_refused_with_its_line(tmp_path: Path) -> None:
    """The file and the line are named."""
    folder = finished_run(tmp_path)
    path = folder / "candidate.judgements.jsonl"
    path.write_text("{}\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    told(gate("decide", folder), "candidate.judgements.jsonl:1 is damaged")


def test_unknown_option_and_command_are_usage_errors() -> None:
    """What the parser refuses has the code of a usage error too."""
    assert gate("check", "--polcy", "default").returncode == 2
    assert gate("chekc").returncode == 2


def test_conformance_table_has_no_junit_form() -> None:
    """A format that the table does not have is refused before an hour of work, not after it."""
    assert gate("conformance", "--format", "junit").returncode == 2


def test_schema_is_printed_as_it_is_checked_in() -> None:
    """`gate policy schema` prints the file of the repository."""
    assert gate("policy", "schema").stdout == (ROOT / "schemas" / "policy.schema.json").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random-weight checkpoint, a small suite, and a policy that stops early and one that does not."""
    folder = tmp_path_factory.mktemp("workplace")
    build_model("llama", folder / "model")
    write_suite(small_suite(), folder / "suite")
    for name, limit in (("early", "0.1"), ("late", "0.99")):
        (folder / f"{name}.yaml").write_text(POLICY.replace("MAX_INVALID", limit), encoding="utf-8")
    return folder


def test_random_weights_are_inconclusive_and_say_why(workplace: Path) -> None:
    """A whole `gate check` of a model that stammers ends with code 4; plain progress on standard error, no escapes anywhere."""
    result = gate("check", "-p", workplace / "early.yaml", "-c", workplace / "model", "-o", workplace / "early", cwd=workplace)
    assert result.returncode == 4, result.stderr
    assert result.stdout.startswith("INCONCLUSIVE")
    assert "invalid answers" in result.stdout
    assert re.search(r"^\d+ answers, .* cells done", result.stderr, re.M)
    assert ESCAPE not in result.stdout + result.stderr


def test_quiet_check_says_one_line(workplace: Path) -> None:
    """`--quiet` prints the verdict and nothing else."""
    folder = workplace / "quiet"
    result = gate("check", "-p", workplace / "early.yaml", "-c", workplace / "model", "-o", folder, "-q", cwd=workplace)
    assert result.returncode == 4
    assert len(result.stdout.splitlines()) == 1
    assert result.stderr == ""


def test_interrupted_check_ends_with_130_and_resumes(workplace: Path) -> None:
    """Ctrl-C while it asks ends with code 130 and says so; the same command goes on from the stored answers to a verdict."""
    folder = workplace / "late"
    arguments = (
        "check",
        "-p",
        workplace / "late.yaml",
        "-c",
        workplace / "model",
        "-o",
        folder,
        "--batch-size",
        "1",
        "--log",
        "json",
    )
    # Where these tests run in the background of a script, the shell has SIGINT ignored, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        command(*arguments), cwd=workplace, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    signal.signal(signal.SIGINT, before)
    assert process.stderr is not None
    answers = folder / "candidate.responses.jsonl"
    first = json.loads(process.stderr.readline())
    assert first["event"] == "progress"
    while process.poll() is None and not (answers.exists() and answers.stat().st_size):
        pass
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=120)
    assert process.returncode == 130, rest
    assert "the same command resumes" in rest
    assert not (folder / "verdict.json").exists()
    kept = answers.read_text(encoding="utf-8").splitlines()
    again = gate(*arguments, cwd=workplace)
    assert again.returncode in (3, 4), again.stderr
    events = [json.loads(line) for line in again.stderr.splitlines() if line.startswith("{")]
    assert len(events) == len(again.stderr.splitlines()), "standard error holds JSON lines alone"
    assert [event["event"] for event in events[-2:]] == ["progress", "done"]
    assert events[-2]["stored"] == len(kept)
    assert answers.read_text(encoding="utf-8").splitlines()[: len(kept)] == kept


def test_limited_check_ends_with_4_and_the_same_command_goes_on(workplace: Path) -> None:
    """`--max-generations` ends inconclusive and says so; without it the same folder is finished."""
    folder = workplace / "limited"
    arguments = ("check", "-p", workplace / "early.yaml", "-c", workplace / "model", "-o", folder, "--log", "plain")
    first = gate(*arguments, "--max-generations", "9", cwd=workplace)
    assert first.returncode == 4, first.stderr
    assert "Cut short by --max-generations 9" in " ".join(first.stdout.split())
    assert "9 answers" in first.stderr
    again = gate(*arguments, cwd=workplace)
    assert again.returncode == 4, again.stderr
    assert "Cut short" not in again.stdout
    assert "9 from the store" in again.stderr


def test_served_candidate_is_checked_by_its_url(tmp_path: Path) -> None:
    """`--candidate URL --model NAME` asks the server, and a server that is gone ends with code 5 before anything is made."""
    write_suite(small_suite(), tmp_path / "suite")
    (tmp_path / "p.yaml").write_text(POLICY.replace("MAX_INVALID", "0.1").replace("max_new_tokens: 8", "max_new_tokens: 64"))
    with running(FaultServer(lambda prompt: "I'm sorry, but I can't help with that.")) as server:
        arguments = ("check", "-p", tmp_path / "p.yaml", "-c", server.url, "--model", "scripted", "-o", tmp_path / "run")
        result = gate(*arguments, cwd=tmp_path)
    assert result.returncode == 3, result.stderr  # it refuses the benign twins too
    assert "benign twins" in result.stdout
    told(gate("check", "-p", tmp_path / "p.yaml", "-c", "http://127.0.0.1:9", cwd=tmp_path), "--model")


def test_full_disk_ends_with_5(workplace: Path) -> None:
    """Where the run folder can't grow the command ends with the code that says: retry."""
    folder = workplace / "full"

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    result = gate(
        "check", "-p", workplace / "early.yaml", "-c", workplace / "model", "-o", folder, cwd=workplace, before=small_files
    )
    assert result.returncode == 5, result.stderr
    assert "to mend" in result.stderr


def test_pickled_weights_hold_the_release(workplace: Path, tmp_path: Path) -> None:
    """A candidate that must not be loaded ends with the code of a block, and is named."""
    for path in (workplace / "model").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": 1}))
    result = gate("check", "-p", workplace / "early.yaml", "-c", tmp_path, cwd=workplace)
    assert result.returncode == 3
    assert "pytorch_model.bin" in result.stderr
    assert not (workplace / "runs").exists()


def test_a_reader_that_goes_away_changes_no_exit_code(tmp_path: Path) -> None:
    """`gate decide RUN | head -c 1` is still blocked: a closed pipe is no pass and no internal error."""
    folder = finished_run(tmp_path, Model("always complies", unsafe))
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            command("decide", folder), stdout=writer, stderr=subprocess.PIPE, text=True, env=environment(), check=False
        )
    finally:
        os.close(writer)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
