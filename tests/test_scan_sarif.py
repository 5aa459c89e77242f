"""`gate scan` and the SARIF log: what the scan found, where, and that the log fits SARIF's own schema whatever was found."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from gate.cli import app
from gate.errors import CandidateError, UnsafeCandidateError
from gate.scan_command import ScanLog, place_of, written
from gate.scan_finding import ScanFinding
from gate.scan_sarif import RULES, Scanned, render_sarif
from tests.candidate_folders import edit_json, make_adapter, make_model
from tests.conftest import ROOT

# The schema as Microsoft's own checker ships it; its licence stands in it.
SCHEMA = jsonschema.Draft4Validator(json.loads((ROOT / "tests" / "sarif-2.1.0.schema.json").read_text(encoding="utf-8")))
TEXT = st.text(st.characters(codec=None), min_size=1, max_size=40)


def scan(*arguments: str | Path) -> Result:
    """Run `gate scan`; a refusal is an exit, any other error is raised."""
    return CliRunner().invoke(app, ["scan", *map(str, arguments)])


def log_of(text: str) -> dict[str, Any]:
    """A valid log, read."""
    found: dict[str, Any] = json.loads(text, parse_constant=pytest.fail)
    SCHEMA.validate(found)
    return found


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A whole model folder."""
    return make_model(tmp_path / "model")


def spoiled(model: Path) -> Path:
    """The folder with a pickle in a place with a space in its name, and a file of a type that nothing knows."""
    (model / "old state").mkdir()
    (model / "old state" / "optimizer.pt").write_bytes(b"\x80\x02}.")
    (model / "notes.xyz").write_text("note")
    return model


def test_a_clean_model_has_an_empty_log(model: Path) -> None:
    """Nothing found: exit code 0, a run without results, and the digest in the text."""
    found = scan(model, "--format", "sarif")
    assert found.exit_code == 0
    (run,) = log_of(found.output)["runs"]
    assert run["results"] == []
    assert run["invocations"] == [{"executionSuccessful": True}]
    assert re.search(r"nothing to refuse, 0 to warn of; digest [0-9a-f]{64}\n", scan(model).output)


def test_each_finding_is_a_result_at_its_file(model: Path) -> None:
    """A refusal is an error and a warning a warning, each at its file's URI, with its rule's words and how to mend it."""
    found = scan(spoiled(model), "--format", "sarif")
    assert found.exit_code == 3
    (run,) = log_of(found.output)["runs"]
    rules = run["tool"]["driver"]["rules"]
    told = [(rules[r["ruleIndex"]]["id"], r["ruleId"], r["level"], _uri(r)) for r in run["results"]]
    assert told == [
        ("pickle", "pickle", "error", f"{model.resolve().as_uri()}/old%20state/optimizer.pt"),
        ("unknown", "unknown", "warning", f"{model.resolve().as_uri()}/notes.xyz"),
    ]
    assert "to mend: delete it" in run["results"][0]["message"]["text"]
    assert {rule["shortDescription"]["text"] for rule in rules} == {RULES["pickle"], RULES["unknown"]}


def test_text_says_the_same(model: Path) -> None:
    """The lines name severity, file, reason, rule and mend, and the last one what they come to."""
    found = scan(spoiled(model))
    assert found.exit_code == 3
    assert "refuse  old state/optimizer.pt: pickle-format file" in found.output
    assert "warn  notes.xyz: a file of unknown type" in found.output
    assert found.output.endswith("REFUSED: 1 to refuse, 1 to warn of\n")


def test_a_folder_in_the_working_directory_is_named_relative_to_it(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code scanning shows a finding at a path of the checkout."""
    monkeypatch.chdir(model.parent)
    assert place_of("model") == "model/"
    assert place_of(str(model)) == "model/"
    monkeypatch.chdir(model)
    assert place_of(".") == ""
    assert place_of("hf://org/name@main") == "hf://org/name@main/"


def test_a_path_that_is_no_utf8_is_a_uri_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes of a folder's name that are no text are percent-encoded."""
    monkeypatch.chdir(tmp_path)
    assert place_of(os.fsdecode(b"caf\xe9 1")) == "caf%E9%201/"


def test_a_finding_about_the_base_stands_at_the_file_that_names_it(model: Path, tmp_path: Path) -> None:
    """A pickle in an adapter's base is an error at adapter_config.json, and the message says which file of the base it is."""
    adapter = make_adapter(tmp_path / "adapter", model)
    spoiled(model)
    found = scan(adapter, "--format", "sarif")
    assert found.exit_code == 3
    results = log_of(found.output)["runs"][0]["results"]
    assert {_uri(result) for result in results} == {f"{adapter.resolve().as_uri()}/adapter_config.json"}
    assert "base: old state/optimizer.pt" in results[0]["message"]["text"]


def test_what_is_found_late_is_in_the_log(model: Path) -> None:
    """A finding of the comparison after the scan (no chat template) is a result as well."""
    edit_json(model / "tokenizer_config.json", chat_template=None)
    (model / "chat_template.jinja").unlink(missing_ok=True)
    found = scan(model, "--format", "sarif")
    assert found.exit_code == 3
    assert [r["ruleId"] for r in log_of(found.output)["runs"][0]["results"]] == ["no-template"]


def test_what_leads_to_no_checkpoint_is_a_usage_error(tmp_path: Path) -> None:
    """A path to nothing is said so, and is no clean scan."""
    found = scan(tmp_path / "nothing")
    assert isinstance(found.exception, CandidateError)
    assert "nothing there" in found.exception.diagnostics()


def test_check_writes_the_log_of_a_refused_candidate(model: Path, tmp_path: Path) -> None:
    """`gate check --sarif` on a refused folder: the refusal goes on, and the file holds it; nothing else is made."""
    file = tmp_path / "out" / "scan.sarif"
    out = tmp_path / "run"
    arguments = ["check", "-p", "default", "-c", str(spoiled(model)), "--sarif", str(file), "--out", str(out)]
    found = CliRunner().invoke(app, arguments)
    assert isinstance(found.exception, UnsafeCandidateError)
    (run,) = log_of(file.read_text(encoding="utf-8"))["runs"]
    assert [result["level"] for result in run["results"]] == ["error", "warning"]
    assert run["automationDetails"] == {"id": "taskgate/scan/candidate/"}
    assert not out.exists()


def test_check_names_which_side_was_refused(model: Path, tmp_path: Path) -> None:
    """A refused baseline has its own run in the log; the candidate, which was not looked at any more, has none."""
    file = tmp_path / "scan.sarif"
    clean = make_model(tmp_path / "clean")
    arguments = ["check", "-p", "default", "-c", str(clean), "--baseline", str(spoiled(model)), "--sarif", str(file)]
    assert isinstance(CliRunner().invoke(app, arguments).exception, UnsafeCandidateError)
    runs = log_of(file.read_text(encoding="utf-8"))["runs"]
    assert [run["automationDetails"]["id"] for run in runs] == ["taskgate/scan/baseline/"]


def test_a_log_that_another_error_ended_is_no_clean_one(tmp_path: Path) -> None:
    """What was found is written, and the log says that the scan did not come to its end."""
    file = tmp_path / "scan.sarif"
    with pytest.raises(CandidateError):
        _ended_early(file)
    (run,) = log_of(file.read_text(encoding="utf-8"))["runs"]
    assert run["invocations"] == [{"executionSuccessful": False}]
    assert len(run["results"]) == 1


def test_no_file_is_written_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --sarif a refusal leaves nothing behind."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnsafeCandidateError), written(None):
        raise UnsafeCandidateError("refused")
    assert list(tmp_path.iterdir()) == []


def test_the_same_findings_give_the_same_log() -> None:
    """A finding keeps its fingerprint from run to run, and another one has another."""
    log = ScanLog()
    log.notes("candidate", "x").extend(ScanFinding(file=name, rule="pickle", reason="r", mend="m") for name in ("a", "b"))
    assert log.sarif(complete=True) == log.sarif(complete=True)
    results = log_of(log.sarif(complete=True))["runs"][0]["results"]
    assert len({result["partialFingerprints"]["taskgateFinding/v1"] for result in results}) == 2


@settings(max_examples=30, deadline=None)
@given(TEXT, TEXT, TEXT, TEXT)
def test_any_text_gives_a_valid_log(file: str, rule: str, reason: str, mend: str) -> None:
    """Whatever a finding says, the log is ASCII, parses and fits the schema."""
    finding = ScanFinding(file=file.encode("ascii", "backslashreplace").decode(), rule=rule, reason=reason, mend=mend)
    text = render_sarif([Scanned(name="candidate", place="model/", findings=(finding,), complete=True)], "1")
    assert text.isascii()
    log_of(text)


def test_every_rule_of_the_manual_is_described() -> None:
    """The rules of docs/candidates.md and those that the log describes are the same."""
    manual = (
        (ROOT / "docs" / "candidates.md").read_text(encoding="utf-8").partition("## What is refused")[2].partition("\n## ")[0]
    )
    named = {rule for row in re.findall(r"^\| (`[^|]*?) \|", manual, re.M) for rule in re.findall(r"`([a-z-]+)`", row)}
    assert named == set(RULES)


def _ended_early(file: Path) -> None:
    with written(file) as log:
        log.notes("candidate", "x").append(ScanFinding(file="a", rule="unknown", reason="r", mend="m", severity="warn"))
        raise CandidateError("no model")


def _uri(result: dict[str, Any]) -> str:
    place = result["locations"][0]["physicalLocation"]
    assert place["region"] == {"startLine": 1}
    return str(place["artifactLocation"]["uri"])
