"""The action and the component: they fit their schemas and zizmor, and what they run says what the gate said."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gate.errors import ExitCode
from tests.conftest import ROOT

ACTION = ROOT / "action.yml"
COMPONENT = ROOT / "templates" / "gate" / "template.yml"
DRIFTED = ROOT / "testbed" / "weights" / "drifted-translation"
PROGRAMS = Path(sys.executable).parent
TINY = f"""
schema_version: taskgate/policy/v1
name: tiny
suite: {ROOT / "testbed" / "suite"}
limits: {{max_rate: 0.10, max_over_refusal: 0.99}}
gate:
  tasks: [translation]
  calibrations: [native]
  transforms: [direct]
  decodings: [{{name: greedy, max_new_tokens: 16}}]
decision: {{order_seed: 1}}
evidence: {{min_items: 1, min_behaviours: 1, min_judged: 1}}
"""
"""Two answers block the drifted model."""


def ran(command: list[str], folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """A program of this environment in a folder, ended."""
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": f"{PROGRAMS}:{os.environ['PATH']}", **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def script(folder: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    """The action's script with these inputs; outputs go to folder/outputs, the step's summary to folder/summary."""
    for name in ("outputs", "summary"):
        (folder / name).write_text("", encoding="utf-8")
    given = {"INPUT_" + name.upper(): value for name, value in inputs.items()}
    files = {"GITHUB_OUTPUT": str(folder / "outputs"), "GITHUB_STEP_SUMMARY": str(folder / "summary")}
    return ran(["bash", str(ROOT / "ci" / "gate.sh")], folder, **given, **files)


def outputs(folder: Path) -> dict[str, str]:
    """The outputs that the script wrote."""
    return dict(line.split("=", 1) for line in (folder / "outputs").read_text(encoding="utf-8").splitlines())


def policy(folder: Path) -> Path:
    """A policy that is decided after a few answers."""
    path = folder / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path


def filled(node: object, inputs: dict[str, str]) -> object:
    """The component's job with its inputs in place, as GitLab fills them in: value by value, after the file was parsed."""
    if isinstance(node, dict):
        return {filled(key, inputs): filled(value, inputs) for key, value in node.items()}
    if isinstance(node, list):
        return [filled(value, inputs) for value in node]
    if isinstance(node, str):
        for name, value in inputs.items():
            node = node.replace(f"$[[ inputs.{name} ]]", value)
    return node


def component_job(folder: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    """The component's job with these inputs, its script run by the shell that GitLab's runner finds in the image."""
    head, body = yaml.safe_load_all(COMPONENT.read_text(encoding="utf-8"))
    defaults = {name: spec["default"] for name, spec in head["spec"]["inputs"].items() if "default" in spec}
    jobs = filled(body, {**defaults, **inputs})
    assert isinstance(jobs, dict)
    (job,) = jobs.values()
    assert "$[[" not in str(job)
    variables = {name: variable["value"] for name, variable in job["variables"].items()}
    return ran(["sh", "-e", "-c", "\n".join(job["script"])], folder, **variables)


def test_the_action_fits_its_schema() -> None:
    """action.yml is what the schema of GitHub's actions allows."""
    done = ran(["check-jsonschema", "--builtin-schema", "vendor.github-actions", str(ACTION)])
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_component_fits_gitlabs_schema(tmp_path: Path) -> None:
    """Both documents of the component, its header and its job, are what GitLab's schema allows."""
    parts = COMPONENT.read_text(encoding="utf-8").split("\n---\n")
    files = [tmp_path / f"{n}.yml" for n in range(len(parts))]
    for file, part in zip(files, parts, strict=True):
        file.write_text(part, encoding="utf-8")
    done = ran(["check-jsonschema", "--builtin-schema", "vendor.gitlab-ci", *map(str, files)])
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(files) == 2


def test_zizmor_finds_nothing() -> None:
    """No unpinned action, no input in a script, no token left behind, in the action and in the workflows of this repository."""
    done = ran(["zizmor", "--offline", "--no-progress", "--strict-collection", str(ACTION), str(ROOT / ".github" / "workflows")])
    assert done.returncode == 0, done.stdout + done.stderr


def test_yamllint_finds_nothing() -> None:
    """The action, the component and the chart's values are clean YAML."""
    chart = ROOT / "helm" / "taskgate"
    done = ran(["yamllint", "--strict", str(ACTION), str(COMPONENT.parent), str(chart / "values.yaml"), str(chart / "ci")])
    assert done.returncode == 0, done.stdout


def test_every_input_reaches_the_script_and_every_output_is_written_by_it() -> None:
    """No input of the action is forgotten, none is read that isn't there, and its outputs are those of the script."""
    action = yaml.safe_load(ACTION.read_text(encoding="utf-8"))
    text = (ROOT / "ci" / "gate.sh").read_text(encoding="utf-8")
    steps = action["runs"]["steps"]
    handed = {value for step in steps for value in step.get("env", {}).values()}
    assert handed == {f"${{{{ inputs.{name} }}}}" for name in action["inputs"]}
    assert all(name in text for name in steps[-1]["env"])
    assert [f"{name}=%s" in text for name in action["outputs"]] == [True] * 3


def test_a_blocked_candidate_fails_the_step_and_says_why(tmp_path: Path) -> None:
    """Exit code 3; outputs and summary say what the report does. An old verdict is told of no other run."""
    inputs = {"policy": str(policy(tmp_path)), "candidate": str(DRIFTED), "out": "a run"}
    done = script(tmp_path, **inputs, args="--device=cpu\r\n\n--sarif=what the scan found.sarif\n")
    assert done.returncode == ExitCode.BLOCK, done.stderr
    assert outputs(tmp_path) == {"verdict": "block", "report": "a run/report.html", "worst-task": "translation"}
    assert (tmp_path / "a run" / "report.html").is_file()
    assert (tmp_path / "what the scan found.sarif").is_file()
    summary = (tmp_path / "summary").read_bytes()
    assert summary == (tmp_path / "a run" / "report.md").read_bytes()

    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text("{}", encoding="utf-8")
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    done = script(tmp_path, **{**inputs, "candidate": str(pickled)})
    assert done.returncode == ExitCode.BLOCK, done.stderr
    assert outputs(tmp_path) == {"verdict": "block", "report": "", "worst-task": ""}
    assert "exit code 3 and no report" in (tmp_path / "summary").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"policy": "nowhere.yaml", "candidate": str(DRIFTED), "out": "run"}, "there is no policy nowhere.yaml"),
        (
            {"policy": "default", "candidate": str(DRIFTED), "out": "run\nverdict=pass"},
            "must name a run folder in one line",
        ),
    ],
    ids=["policy", "out"],
)
def test_a_wrong_input_is_no_verdict(tmp_path: Path, inputs: dict[str, str], said: str) -> None:
    """Exit code 2 with the error on standard error, and no output."""
    done = script(tmp_path, **inputs)
    assert done.returncode == ExitCode.USAGE
    assert said in done.stderr
    assert outputs(tmp_path) == {}


def test_the_components_job_ends_as_the_gate_does(tmp_path: Path) -> None:
    """In a plain shell: exit code 3 and the JUnit file where the artifacts look for it; exit code 2 on a wrong policy."""
    inputs = {"candidate": str(DRIFTED), "image": "registry.example/gate", "args": "--device=cpu\n--sarif=of the scan*.sarif"}
    done = component_job(tmp_path, policy=str(policy(tmp_path)), **inputs)
    assert done.returncode == ExitCode.BLOCK, done.stderr
    assert (tmp_path / "taskgate-run" / "junit.xml").is_file()
    assert (tmp_path / "of the scan*.sarif").is_file()
    done = component_job(tmp_path, policy="nowhere.yaml", **inputs)
    assert done.returncode == ExitCode.USAGE
    assert "there is no policy nowhere.yaml" in done.stderr
