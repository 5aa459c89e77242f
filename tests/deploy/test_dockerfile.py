"""The Dockerfile as it is written: clean for two linters, pinned, without root, and each stage leaves its tools behind."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.deploy.chart import checkov
from tests.deploy.dockerfile import DOCKERFILE, stages

STAGES = stages()
TARGETS = ("verify", "exporter", "gate", "guard-gpu", "guard")


def hadolint(path: Path) -> subprocess.CompletedProcess[str]:
    """One run of hadolint."""
    program = Path(sys.executable).parent / "hadolint"
    return subprocess.run([str(program), str(path)], capture_output=True, text=True, timeout=300, check=False)


def test_hadolint_finds_nothing(tmp_path: Path) -> None:
    """No warning, and one for a file that has a fault: an unpinned, unclean apt-get."""
    done = hadolint(DOCKERFILE)
    assert done.returncode == 0, done.stdout
    broken = tmp_path / "Dockerfile"
    broken.write_text("FROM debian:12\nRUN apt-get install gcc\n", encoding="utf-8")
    assert hadolint(broken).returncode != 0


def test_checkov_finds_nothing(tmp_path: Path) -> None:
    """No failed check, and one for a file that has a fault: no user."""
    done = checkov("dockerfile", DOCKERFILE)
    assert done.returncode == 0, done.stdout
    broken = tmp_path / "Dockerfile"
    broken.write_text("FROM debian:12\nHEALTHCHECK NONE\n", encoding="utf-8")
    done = checkov("dockerfile", broken)
    assert done.returncode != 0
    assert "CKV_DOCKER_3" in done.stdout


def test_the_base_is_pinned_by_a_digest_that_must_be_given() -> None:
    """The one base image is named with a digest whose argument has no default, so a build without it fails."""
    text = DOCKERFILE.read_text(encoding="utf-8")
    assert re.search(r"^ARG PYTHON_DIGEST$", text, re.MULTILINE)
    assert [s.base for s in STAGES.values() if s.base not in STAGES] == ["${PYTHON_IMAGE}@${PYTHON_DIGEST}"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_runs_without_root_and_without_installers(target: str) -> None:
    """A numeric user, a health check or the word that there is none, an exec entry point, and pip removed below it."""
    stage = STAGES[target]
    assert stage.all("USER") == ["10001:10001"]
    assert len(stage.all("HEALTHCHECK")) == 1
    assert stage.last_list("ENTRYPOINT")[0] == ("guard" if target.startswith("guard") else "gate")
    assert stage.base == "runtime"
    assert "uninstall --yes pip setuptools wheel" in STAGES["runtime"].all("RUN")[0]
    (copied,) = stage.all("COPY")
    assert copied == f"--from={target}-packages ${{VENV}} ${{VENV}}"


def test_only_the_gate_keeps_a_compiler() -> None:
    """Triton compiles at run time; no other final stage installs anything."""
    assert [t for t in TARGETS if STAGES[t].all("RUN")] == ["gate"]


@pytest.mark.parametrize("target", ["guard", "guard-gpu"])
def test_the_guards_bundle_is_verified_while_it_is_built(target: str) -> None:
    """A bundle that does not match its manifest ends the build."""
    assert '"$VENV/bin/guard" verify' in STAGES[f"{target}-packages"].all("RUN")


def test_every_extra_that_an_image_installs_is_one() -> None:
    """The names in brackets are extras of pyproject.toml; guard-gpu has not both runtimes."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for target in TARGETS:
        text = " ".join(STAGES[f"{target}-packages"].all("RUN"))
        (named,) = re.findall(r"\.whl\)\[([\w,-]+)\]", text)
        assert set(named.split(",")) <= set(extras)
    assert "onnxruntime>=" not in " ".join(extras["guard-gpu"] + extras["guard-server"])


def test_the_context_holds_what_is_copied_and_nothing_else() -> None:
    """.dockerignore lets in exactly the COPY sources: no key, run or environment of the checkout reaches the builder."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    copied = {word for value in STAGES["wheel"].all("COPY") for word in value.split()[:-1]}
    assert "*" in lines
    assert {line[1:] for line in lines if line.startswith("!")} == copied


def test_a_bare_build_makes_the_guard() -> None:
    """The last stage is the guard without torch."""
    assert list(STAGES)[-1] == "guard"
