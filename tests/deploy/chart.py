"""The chart, rendered by Helm's own code: values in, Kubernetes objects out; and checkov, which lives in its own environment."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import helm_python
import yaml

from tests.conftest import ROOT

CHART = ROOT / "helm" / "taskgate"
CI_VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
DIGEST = "sha256:" + "1" * 64
Object = dict[str, Any]
GUARD: Object = {"image": {"repository": "registry.example/guard", "digest": DIGEST}, "keys": {"existingSecret": "keys"}}
GATE: Object = {
    "enabled": True,
    "image": {"repository": "registry.example/gate", "digest": DIGEST},
    "models": {"existingClaim": "models"},
    "runs": {"existingClaim": "runs"},
}
"""The least that the chart asks of whoever runs the gate."""


def values_of(path: Path) -> Object:
    """A values file."""
    found: Object = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def rendered(values: Object) -> dict[str, str]:
    """Template → text."""
    with helm_python.Chart.load(str(CHART)) as chart:
        return chart.render(values, name="rel", namespace="models")


def objects(values: Object) -> list[Object]:
    """Every Kubernetes object that the values give."""
    texts = [text for name, text in sorted(rendered(values).items()) if name.endswith(".yaml")]
    return [found for text in texts for found in yaml.safe_load_all(text) if found]


def of_kind(values: Object, kind: str, name: str = "") -> Object:
    """The one object of that kind whose name ends so."""
    (found,) = [o for o in objects(values) if o["kind"] == kind and o["metadata"]["name"].endswith(name)]
    return found


def pod_of(found: Object) -> Object | None:
    """The pod's spec in an object; null where it starts none."""
    spec: Object = found.get("spec", {})
    match found["kind"]:
        case "Pod":
            return spec
        case "Deployment" | "Job":
            inner: Object = spec["template"]["spec"]
            return inner
        case "CronJob":
            cron: Object = spec["jobTemplate"]["spec"]["template"]["spec"]
            return cron
        case _:
            return None


def checkov(framework: str, path: Path, *, skip: str = "") -> subprocess.CompletedProcess[str]:
    """One run of checkov, which asks no server."""
    program = os.environ.get("TASKGATE_CHECKOV", "")
    assert Path(program).is_file(), "TASKGATE_CHECKOV names no checkov; `make test` installs one"
    command = [
        program,
        "--skip-download",
        "--framework",
        framework,
        "-d" if path.is_dir() else "-f",
        str(path),
        "--compact",
        "--quiet",
    ]
    return subprocess.run(
        [*command, *(["--skip-check", skip] if skip else [])], capture_output=True, text=True, timeout=600, check=False
    )
