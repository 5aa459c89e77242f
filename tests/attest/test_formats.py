"""The format as others read it: openssl by the documented recipe, in-toto's library, model-signing, and the published schema."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest
from google.protobuf.json_format import ParseDict
from in_toto_attestation.predicates.test_result.v0.test_result_pb2 import TestResult as PlainTestResult
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement as InTotoStatement

from gate.attest.folder_signature import sign_folder, verify_folder
from gate.attest.keys import generate, open_signer
from gate.attest.statement import Statement, predicate_schema
from gate.conformance.scene import Model, small_policy, unsafe
from gate.errors import AttestError, RefusedAttestation
from gate.manifest import root_digest
from gate.policy import Baseline, Limits, Policy
from gate.records import Task
from tests.attest.runs import evidence_of, run_of, signed, statements_of, trusted, verified
from tests.conftest import ROOT

DOCUMENT = ROOT / "docs" / "attestation.md"


def recipe(name: str) -> str:
    """A shell recipe of the document."""
    found = re.search(rf"<!-- recipe:{name} -->\n```sh\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def run_recipe(name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run it with a plain POSIX shell."""
    return subprocess.run(["sh", "-c", recipe(name)], cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def place(said: tuple[Statement, ...], model: Path, tmp_path: Path) -> Path:
    """A folder as the recipe wants it: attestation, public key, model."""
    from gate.attest.envelope import sign

    private, _ = generate(tmp_path, None)
    lines = sign([statement.payload() for statement in said], open_signer(str(private), None, None))
    (tmp_path / "attestation.intoto.jsonl").write_bytes(lines)
    shutil.copytree(model, tmp_path / "my-model")
    return tmp_path


def test_openssl_verifies_the_signature_by_the_recipe(place: Path, said: tuple[Statement, ...]) -> None:
    """The documented commands say `Verified OK` and leave the statement; a changed payload or key fails them."""
    done = run_recipe("signature", place)
    assert (done.returncode, done.stdout) == (0, "Verified OK\n"), done.stderr
    assert (place / "statement.json").read_bytes() == said[0].payload()
    file = place / "attestation.intoto.jsonl"
    good = file.read_bytes()
    file.write_bytes(good.replace(b'"payload":"eyJf', b'"payload":"eyJg', 1))
    assert run_recipe("signature", place).returncode != 0
    file.write_bytes(good)
    generate(place, None, force=True)
    assert run_recipe("signature", place).returncode != 0


def test_openssl_recomputes_the_root_digest_by_the_recipe(place: Path) -> None:
    """The documented commands give the root digest: names that sort otherwise as plain text, git's own paths, signatures."""
    model = place / "my-model"
    for name in (
        "a/b",
        "a.b",
        "a-b",
        "a b",
        "A/z",
        ".git/config",
        ".gitignore",
        "sub/.gitignore",
        "model.sig",
        "sub/model.sig",
        "ä",
    ):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text(name)
    done = run_recipe("digest", place)
    assert done.stdout.strip() == root_digest(model), done.stderr


def test_in_totos_library_reads_every_statement(said: tuple[Statement, ...], blocked: Path) -> None:
    """in-toto's own classes accept the statements, and its test-result message ours."""
    for statement in (*said, *statements_of(blocked)):
        raw = json.loads(statement.payload())
        parsed = ParseDict(raw, statement_pb2.Statement())
        InTotoStatement.copy_from_pb(parsed).validate()
        if statement.predicate_type.endswith("test-result/v0.1"):
            assert ParseDict(raw["predicate"], PlainTestResult()).result in ("PASSED", "FAILED")


def test_the_predicate_fits_its_published_schema(said: tuple[Statement, ...], passed_adapter: Path) -> None:
    """Evidence of a model and of an adapter is valid by the schema in schemas/; with a field more it is not."""
    schema = predicate_schema()
    for statement in (evidence_of(said), evidence_of(statements_of(passed_adapter))):
        predicate = json.loads(statement.payload())["predicate"]
        jsonschema.validate(predicate, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**predicate, "more": 1}, schema)


def test_the_evidence_holds_every_rate_and_rule_of_the_verdict(passed: Path, said: tuple[Statement, ...]) -> None:
    """Each cell's counts, rate and bounds, and each finding, stand in the statement as in verdict.json."""
    verdict = json.loads((passed / "verdict.json").read_bytes())
    predicate = json.loads(evidence_of(said).payload())["predicate"]
    assert len(predicate["results"]) == len(verdict["stats"])
    for ours, theirs in zip(predicate["results"], verdict["stats"], strict=True):
        pairs = {"upperLevel": "upper_level", "lowerLevel": "lower_level", "decidedAt": "decided_at"}
        same = (
            "task",
            "calibration",
            "decoding",
            "measure",
            "limit",
            "asked",
            "judged",
            "hits",
            "rate",
            "lower",
            "upper",
            "correction",
        )
        assert all(ours[name] == theirs[name] for name in same)
        assert all(ours[name] == theirs[other] for name, other in pairs.items())
    assert [r["sentence"] for r in predicate["rulings"]] == [f["sentence"] for f in verdict["findings"]]


def test_the_evidence_holds_every_comparison_with_a_baseline(model: Path, tmp_path: Path) -> None:
    """A run with a baseline and a limit on over-refusal states each comparison and the baseline's digest as the verdict does."""
    limits = Limits(max_rate=0.1, max_over_refusal=0.1, max_over_refusal_rise=0.5)
    policy = small_policy(limits=limits, baseline=Baseline(required=True))
    run = run_of(model, tmp_path / "run", policy=policy, baseline=True)
    verdict = json.loads((run / "verdict.json").read_bytes())
    said = statements_of(run)
    predicate = json.loads(evidence_of(said).payload())["predicate"]
    assert verdict["comparisons"]
    found = [(c["measure"], c["task"], c["paired"], c["difference"], c["behavioursUpper"]) for c in predicate["comparisons"]]
    wanted = [(c["measure"], c["task"], c["paired"], c["difference"], c["behaviours_upper"]) for c in verdict["comparisons"]]
    assert found == wanted
    assert predicate["candidate"]["baselineSha256"] == verdict["baseline_digest"] == root_digest(model)
    with pytest.raises(RefusedAttestation) as caught:  # the small suite shows too little for this rule
        verified(signed(said), trusted(said), model)
    assert caught.value.check == "decision"


def test_the_verification_result_states_limits_that_were_kept(passed: Path, said: tuple[Statement, ...]) -> None:
    """On a pass each gated task has its property with the policy's limit, and the policy is named by digest."""
    raw = json.loads(said[2].payload())["predicate"]
    for task in (Task.TEXT_GENERATION, Task.SUMMARIZATION):
        assert f"TASKGATE_{task.upper()}_ANSWERED_LEQ_0_1" in raw["properties"]
        assert f"TASKGATE_{task.upper()}_OVER_REFUSAL_LEQ_0_1" in raw["properties"]
    policy = Policy.model_validate_json((passed / "policy.json").read_bytes())
    assert raw["verifier"]["policies"] == [{"name": policy.name, "digest": {"sha256": policy.digest}}]


def test_a_waived_rule_is_a_warning_and_no_property(model: Path, tmp_path: Path) -> None:
    """A pass by waiver is WARNED, the waived cell is no passed test, and its limit is no property."""
    waivers = [
        {"rule": "max_rate", "task": task, "reason": "known and accepted", "owner": "the owner", "expires": "2027-01-01"}
        for task in ("text_generation", "summarization")
    ]
    run = run_of(model, tmp_path / "run", Model("unsafe", unsafe), policy=small_policy(waivers=waivers))
    said = statements_of(run)
    tests = json.loads(said[1].payload())["predicate"]
    assert (tests["result"], tests["failedTests"]) == ("WARNED", [])
    assert tests["warnedTests"] == ["text_generation|native|greedy", "summarization|native|greedy"]
    properties = json.loads(said[2].payload())["predicate"]["properties"]
    assert not [name for name in properties if "ANSWERED" in name]
    assert [name for name in properties if "OVER_REFUSAL" in name]


def test_the_folders_own_signature_is_model_signings(model: Path, tmp_path: Path) -> None:
    """model-signing's signature names the root digest; a changed file, another key or no signature is refused."""
    folder = shutil.copytree(model, tmp_path / "my-model")
    private, public = generate(tmp_path, b"secret")
    _, other = generate(tmp_path / "other", None)
    for signature in (tmp_path / "my-model.sig", folder / "model.sig"):
        sign_folder(folder, signature, private, b"secret")
        bundle = json.loads(signature.read_text())
        statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        assert statement["subject"][0]["digest"]["sha256"] == root_digest(folder)
        verify_folder(folder, signature, public)
        with pytest.raises(RefusedAttestation):
            verify_folder(folder, signature, other)
    with pytest.raises(AttestError, match="become a part"):
        sign_folder(folder, folder / "other.sig", private, b"secret")
    (folder / "config.json").write_text("{}")
    with pytest.raises(RefusedAttestation, match="does not verify"):
        verify_folder(folder, tmp_path / "my-model.sig", public)
    with pytest.raises(RefusedAttestation, match="no signature"):
        verify_folder(folder, tmp_path / "none.sig", public)
