"""The commands as a user types them: exit codes, what is printed, what bad input is told; what `gate verify` needs installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gate.attest.statement import Statement
from gate.cli import app
from gate.conformance.scene import Model, safe
from gate.errors import GateError
from gate.policy import Policy
from gate.records import Candidate
from tests.attest.runs import evidence_of
from tests.conftest import ROOT
from tests.folders import finished_run
from tests.test_cli import environment
from tests.test_cli import gate as gate_process
from tests.test_extras import gate_without


@dataclass(frozen=True)
class Done:
    """A command at its end."""

    returncode: int
    stdout: str
    stderr: str


def gate(*arguments: str | Path, **env: str) -> Done:
    """One command in this process; an error is shown and coded as `main` does it."""
    result = CliRunner().invoke(app, list(map(str, arguments)), env=env)
    if isinstance(result.exception, GateError):
        return Done(int(result.exception.exit_code), result.stdout, result.stderr + result.exception.diagnostics())
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return Done(result.exit_code, result.stdout, result.stderr)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pair, made by the command."""
    folder = tmp_path_factory.mktemp("keys")
    done = gate("keygen", "--out", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def attested(passed: Path, keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run that passed, signed today by the command."""
    run = shutil.copytree(passed, tmp_path_factory.mktemp("attested") / "run")
    done = gate("attest", run, "--key", keys / "gate-private.pem")
    assert done.returncode == 0, done.stderr
    return run


def policy_of(run: Path) -> str:
    """The digest of the run's policy."""
    return Policy.model_validate_json((run / "policy.json").read_bytes()).digest


def since(run: Path) -> str:
    """An age that a run of the tests' fixed date is not older than."""
    begun = datetime.fromisoformat(json.loads((run / "run.json").read_bytes())["begun_on"]).replace(tzinfo=UTC)
    return f"{(datetime.now(UTC) - begun).days + 1}d"


def verify(model: Path, run: Path, keys: Path, **changes: str | Path) -> Done:
    """`gate verify` of a run; `changes` replace or add options."""
    options: dict[str, str | Path] = {
        "candidate": model,
        "attestation": run / "attestation.intoto.jsonl",
        "key": keys / "gate-public.pem",
        "policy_digest": policy_of(run),
        "max_age": since(run),
        **changes,
    }
    flags = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    return gate("verify", *flags)


def test_attest_and_verify_end_to_end(model: Path, attested: Path, keys: Path) -> None:
    """What `gate attest` signed, `gate verify` accepts with exit code 0, and says what was verified."""
    good = verify(model, attested, keys)
    assert good.returncode == 0, good.stderr
    assert "verified:" in good.stdout
    assert policy_of(attested) in good.stdout
    assert json.loads((attested / "verdict.json").read_bytes())["suite_digest"] in good.stdout


def test_a_refusal_leaves_the_process_with_code_3(model: Path, attested: Path, keys: Path) -> None:
    """In a process of its own: one reason on standard error, nothing on standard output, no traceback."""
    flags = (
        "--attestation",
        attested / "attestation.intoto.jsonl",
        "--key",
        keys / "gate-public.pem",
        "--policy-digest",
        "0" * 64,
    )
    done = gate_process("verify", "--candidate", model, *flags)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("gate: RefusedAttestation: the model was held to a policy that is not allowed here")
    assert "Traceback" not in done.stderr


def test_each_refusal_has_its_own_message_and_code_3(
    model: Path, attested: Path, keys: Path, tmp_path: Path, blocked: Path
) -> None:
    """A changed weight file, a stale attestation, another policy, suite or verifier, a wrong key, no attestation, a block."""
    changed = shutil.copytree(model, tmp_path / "changed")
    weights = bytearray((changed / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (changed / "model.safetensors").write_bytes(weights)
    gate("keygen", "--out", tmp_path / "other")
    block = shutil.copytree(blocked, tmp_path / "block")
    assert gate("attest", block, "--key", keys / "gate-private.pem").returncode == 0
    cases = {
        "not the one that was attested": verify(changed, attested, keys),
        "too old": verify(model, attested, keys, max_age="60s"),
        "a policy that is not allowed": verify(model, attested, keys, policy_digest="0" * 64),
        "a suite that is not allowed": verify(model, attested, keys, suite_digest="0" * 64),
        "not signed by a trusted key": verify(model, attested, tmp_path / "other"),
        "somebody else vouches": verify(model, attested, keys, verifier="https://example.com/release"),
        "no attestation to read": verify(model, attested, keys, attestation=tmp_path / "none"),
        "did not let this model pass": verify(model, block, keys),
    }
    for message, done in cases.items():
        assert done.returncode == 3, (message, done.stderr)
        assert message in done.stderr
        assert [other for other in cases if other in done.stderr] == [message]
        assert "to mend" in done.stderr or message == "did not let this model pass"
    assert "model.safetensors" in cases["not the one that was attested"].stderr


def test_json_names_the_check(model: Path, attested: Path, keys: Path) -> None:
    """With --json a pass and a refusal are objects, the latter with the check that failed; the exit codes stay."""
    flags: list[str | Path] = [
        "--candidate",
        model,
        "--attestation",
        attested / "attestation.intoto.jsonl",
        "--key",
        keys / "gate-public.pem",
        "--json",
    ]
    good = gate("verify", *flags, "--policy-digest", f"sha256:{policy_of(attested)}", "--max-age", since(attested))
    assert (good.returncode, json.loads(good.stdout)["verified"]) == (0, True)
    suite = json.loads(good.stdout)["suite_sha256"]
    both = ("--suite-digest", "0" * 64, "--suite-digest", f"sha256:{suite}")
    assert gate("verify", *flags, "--policy-digest", policy_of(attested), *both, "--max-age", since(attested)).returncode == 0
    bad = gate("verify", *flags, "--policy-digest", "0" * 64)
    assert (bad.returncode, json.loads(bad.stdout)["check"]) == (3, "policy")


def test_a_link_is_refused_like_any_other_file(model: Path, attested: Path, keys: Path, tmp_path: Path) -> None:
    """A link in the folder is code 3 with the check and the link named, with --json too."""
    copy = shutil.copytree(model, tmp_path / "model")
    (copy / "extra.json").symlink_to(model / "config.json")
    flags = ("--policy-digest", policy_of(attested), "--max-age", since(attested), "--json")
    place = ("--attestation", attested / "attestation.intoto.jsonl", "--key", keys / "gate-public.pem")
    done = gate("verify", "--candidate", copy, *place, *flags)
    said = json.loads(done.stdout)
    assert (done.returncode, said["verified"], said["check"]) == (3, False, "subject")
    assert "extra.json" in said["found"]


def test_an_attestation_without_end_is_read_no_further_than_one_can_be(model: Path, attested: Path, keys: Path) -> None:
    """A file that never ends is refused as no attestation."""
    done = verify(model, attested, keys, attestation="/dev/zero")
    assert done.returncode == 3
    assert "too large" in done.stderr


def test_nothing_is_written_into_the_model(attested: Path, model: Path, keys: Path, tmp_path: Path) -> None:
    """Attestation and ML-BOM in the model's folder, by a link too, would change its digest: code 2, and nothing is there."""
    (tmp_path / "link").symlink_to(model)
    before = sorted(model.iterdir())
    for place in (model / "a.jsonl", model / "sub" / "a.jsonl", tmp_path / "link" / "a.jsonl"):
        for command in (("attest", attested, "--key", keys / "gate-private.pem"), ("bom", attested)):
            done = gate(*command, "--out", place)
            assert (done.returncode, "outside" in done.stderr) == (2, True), done.stderr
    assert sorted(model.iterdir()) == before


def test_a_list_of_files_that_was_changed_is_not_signed(passed: Path, keys: Path, tmp_path: Path) -> None:
    """candidate.json with another file's digest than the run's has is code 2: no verifier could accept what it would say."""
    run = shutil.copytree(passed, tmp_path / "run")
    candidate = json.loads((run / "candidate.json").read_bytes())
    candidate["files"][0]["sha256"] = "0" * 64
    (run / "candidate.json").write_text(json.dumps(candidate))
    done = gate("attest", run, "--key", keys / "gate-private.pem")
    assert (done.returncode, "changed after the run" in done.stderr) == (2, True), done.stderr
    assert not (run / "attestation.intoto.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"candidate": "http://localhost:8000/v1"}, "a served model can't be verified"),
        ({"candidate": "hf://org/name@main"}, "fetches nothing"),
        ({"candidate": "no/such/folder"}, "no folder at"),
        ({"key": "no/such.pem"}, "can't be read"),
        ({"policy_digest": "default"}, "64 hexadecimal digits"),
        ({"suite_digest": "cross-task"}, "gate suite show"),
        ({"suite_digest": ""}, "--suite-digest wants"),
        ({"max_age": "a month"}, "30d"),
        ({"base": "."}, "full model"),
    ],
)
def test_what_cannot_be_carried_out_is_usage(change: dict[str, str], told: str, model: Path, attested: Path, keys: Path) -> None:
    """A URL, a missing folder, a file that is no key and options that can't be read end with code 2 and say what was expected."""
    done = verify(model, attested, keys, **change)
    assert done.returncode == 2, done.stderr
    assert told in done.stderr


def test_a_run_of_a_served_model_is_not_attested(keys: Path, tmp_path: Path) -> None:
    """The run of an endpoint, or of files that are not listed, is refused with what to do instead; nothing is written."""
    run = finished_run(tmp_path, Model("aligned", safe))
    bare = gate("attest", run, "--key", keys / "gate-private.pem")
    assert (bare.returncode, "does not list the candidate's files" in bare.stderr) == (2, True)
    served = Candidate.model_validate_json((run / "candidate.json").read_bytes())
    served = served.model_copy(update={"kind": "endpoint", "source": "http://localhost:8000/v1"})
    (run / "candidate.json").write_text(served.model_dump_json())
    done = gate("attest", run, "--key", keys / "gate-private.pem")
    assert done.returncode == 2
    assert "a served model can't be attested" in done.stderr
    assert "the checkpoint that the server serves" in done.stderr
    assert not (run / "attestation.intoto.jsonl").exists()


def test_a_verdict_that_was_edited_is_neither_signed_nor_listed(blocked: Path, keys: Path, tmp_path: Path) -> None:
    """A block turned into a pass by hand: replay, attest and bom end with code 3, name the place, and write nothing."""
    run = shutil.copytree(blocked, tmp_path / "run")
    text = (run / "verdict.json").read_text().replace('"decision": "block"', '"decision": "pass"')
    (run / "verdict.json").write_text(text)
    for command in (("replay", run), ("attest", run, "--key", keys / "gate-private.pem"), ("bom", run)):
        done = gate(*command)
        assert done.returncode == 3
        assert 'decision: "pass" → "block"' in done.stderr
    assert not (run / "attestation.intoto.jsonl").exists()
    assert not (run / "mlbom.cdx.json").exists()


def test_replays_exit_code_is_the_verdicts(passed: Path, blocked: Path, tmp_path: Path) -> None:
    """A pass that replays is 0, a block that replays is 3, a folder that is no run is 2."""
    assert (gate("replay", passed).returncode, gate("replay", blocked).returncode) == (0, 3)
    shown = gate("replay", blocked, "--json")
    assert json.loads(shown.stdout)["same"] is True
    assert gate("replay", tmp_path).returncode == 2


def test_a_new_judgement_drops_what_was_attested_of_the_old_verdict(attested: Path, tmp_path: Path) -> None:
    """Once the evidence under a verdict changes, no attestation of the old verdict stays in the folder."""
    run = shutil.copytree(attested, tmp_path / "run")
    assert gate("bom", run).returncode == 0
    assert gate("judge", run, "--format", "none").returncode == 0
    assert not (run / "attestation.intoto.jsonl").exists()
    assert not (run / "mlbom.cdx.json").exists()


def test_an_encrypted_key_and_the_folders_signature(model: Path, passed: Path, tmp_path: Path) -> None:
    """With a passphrase in the environment the key is made and used; both signatures verify, and a changed folder is refused."""
    secret = {"TASKGATE_KEY_PASSPHRASE": "a secret"}
    assert "encrypted" in gate("keygen", "--out", tmp_path, **secret).stdout
    run = shutil.copytree(passed, tmp_path / "run")
    signature = tmp_path / "my-model.sig"
    flags = ("attest", run, "--key", tmp_path / "gate-private.pem", "--model-signature", signature)
    locked = gate(*flags)
    assert (locked.returncode, "TASKGATE_KEY_PASSPHRASE" in locked.stderr) == (2, True)
    assert gate(*flags, **secret).returncode == 0
    assert verify(model, run, tmp_path, model_signature=signature).returncode == 0
    signature.write_text(signature.read_text().replace('"payload"', '"payloadd"', 1))
    done = verify(model, run, tmp_path, model_signature=signature)
    assert (done.returncode, "folder's own signature" in done.stderr) == (3, True)


def test_an_adapters_base_is_found_or_asked_for(
    passed_adapter: Path, adapter: Path, model: Path, keys: Path, tmp_path: Path
) -> None:
    """The base comes from --base, else from the adapter's config; where neither leads to a folder, --base is asked for."""
    run = shutil.copytree(passed_adapter, tmp_path / "run")
    assert gate("attest", run, "--key", keys / "gate-private.pem").returncode == 0
    assert verify(adapter, run, keys, base=model).returncode == 0
    lost = verify(adapter, run, keys)
    assert (lost.returncode, "--base FOLDER" in lost.stderr) == (2, True)
    shutil.copytree(adapter, tmp_path / "beside" / adapter.name)
    shutil.copytree(model, tmp_path / "beside" / model.name)
    assert verify(tmp_path / "beside" / adapter.name, run, keys).returncode == 0


CLOSURE = """
import sys
before = set(sys.modules)
from gate.cli import app
sys.argv = ["gate", *{arguments!r}]
try:
    app()
except SystemExit as end:
    assert end.code in (0, None), end.code
print("MODULES", *sorted({{name.partition(".")[0] for name in set(sys.modules) - before}}))
"""


def base_distributions() -> set[str]:
    """The distributions that installing taskgate alone brings: its base dependencies and what they need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pending, found = [_name(line) for line in project["dependencies"]], set()
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending += [_name(line) for line in distribution(name).requires or () if ";" not in line]
    return found | {"cffi"}  # cryptography's, behind a marker


def _name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-")


def test_verify_imports_the_base_installation_alone(model: Path, attested: Path, keys: Path) -> None:
    """Every module that a whole `gate verify` loads is Python's own, ours, or of a distribution of the base installation."""
    signed, key = str(attested / "attestation.intoto.jsonl"), str(keys / "gate-public.pem")
    arguments = ["verify", "-c", str(model), "-a", signed, "-k", key]
    arguments += ["--policy-digest", policy_of(attested), "--max-age", since(attested)]
    done = subprocess.run(
        [sys.executable, "-c", CLOSURE.format(arguments=arguments)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.partition("MODULES ")[2].split()) - set(sys.stdlib_module_names)
    loaded -= {"gate", "google"}  # a bare namespace: securesystemslib looks whether a cloud's client is installed
    owners, base = packages_distributions(), base_distributions()
    strange = {module for module in loaded if module in owners and not {_name(owner) for owner in owners[module]} & base}
    assert not strange
    assert {"cryptography", "securesystemslib", "pydantic"} <= loaded


def test_verify_runs_where_no_extra_is_installed(model: Path, attested: Path, keys: Path) -> None:
    """With every module of every extra out of reach, an attestation is verified all the same."""
    from gate.extras import EXTRA_OF

    flags = ("--candidate", model, "--attestation", attested / "attestation.intoto.jsonl", "--key", keys / "gate-public.pem")
    done = gate_without(
        set(EXTRA_OF), "verify", *map(str, flags), "--policy-digest", policy_of(attested), "--max-age", since(attested)
    )
    assert done.returncode == 0, done.stderr


def test_the_files_of_a_signed_run_can_be_shipped(attested: Path, said: tuple[Statement, ...]) -> None:
    """The attestation is readable by all and holds no path of the machine that signed it."""
    file = attested / "attestation.intoto.jsonl"
    assert file.stat().st_mode & 0o777 == 0o644
    assert str(attested.parent) not in evidence_of(said).payload().decode()
