"""The Dockerfile, read by stage; and the RUN lines of a stage carried out in a folder that stands for the image's root.

The stages that make packages name every folder by a variable (`$VENV`, `$WHEELS`). Here the variables point below a folder,
`python` is a fresh environment with pip as in the base image, and each RUN line runs as it stands, but for its `--mount`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile_parse import DockerfileParser

from tests.conftest import ROOT

DOCKERFILE = ROOT / "Dockerfile"


@dataclass
class Stage:
    """One stage: its base, and its lines as (instruction, value)."""

    name: str
    base: str
    lines: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        """Values of one instruction, in order."""
        return [value for found, value in self.lines if found == instruction]

    def last_list(self, instruction: str) -> list[str]:
        """The last ENTRYPOINT or CMD, in its exec form."""
        found: list[str] = json.loads(self.all(instruction)[-1])
        return found


def stages() -> dict[str, Stage]:
    """Every stage by its name."""
    found: dict[str, Stage] = {}
    current: Stage | None = None
    with DOCKERFILE.open("rb") as file:
        lines = DockerfileParser(fileobj=file).structure
    for line in lines:
        if line["instruction"] == "FROM":
            base, name = re.split(r"\s+AS\s+", line["value"])
            current = found[name] = Stage(name, base)
        elif current is not None and line["instruction"] != "COMMENT":
            current.lines.append((line["instruction"], line["value"]))
    return found


def environment_of(stage: Stage, table: dict[str, Stage]) -> dict[str, str]:
    """The ENV of a stage and of those it is made from."""
    inherited = environment_of(table[stage.base], table) if stage.base in table else {}
    pairs = [re.findall(r"(\w+)=(\S+)", value) for value in stage.all("ENV")]
    return inherited | {name: value for found in pairs for name, value in found}


@dataclass(frozen=True)
class Replay:
    """What a stage left behind: the folder that stands for the image's root, and the environment of its programs."""

    root: Path
    env: dict[str, str]

    @property
    def packages(self) -> Path:
        """The site-packages folder."""
        (found,) = (Path(self.env["VENV"]) / "lib").glob("python3*/site-packages")
        return found

    def run(self, *command: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """A command as the final stage runs it, outside the checkout."""
        return subprocess.run(
            command, cwd=self.root, env={**self.env, **(env or {})}, capture_output=True, text=True, timeout=600, check=False
        )


def replay(target: str, root: Path) -> Replay:
    """Carry out the stages that make the packages of `target`: `wheel`, `environment` and `<target>-packages`."""
    table = stages()
    python = root / "python"
    subprocess.run([sys.executable, "-m", "venv", str(python)], check=True, timeout=600)
    base = environment_of(table["base"], table)
    moved = {name: str(root) + value if value.startswith("/") else value for name, value in base.items()}
    outside = {
        k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME"} and not k.startswith("GUARD_")
    }
    env = {**outside, **moved, "PATH": f"{python / 'bin'}:{os.environ['PATH']}"}
    for stage in (table["wheel"], table["environment"], table[f"{target}-packages"]):
        folder = root / stage.name
        folder.mkdir()
        for instruction, value in stage.lines:
            if instruction == "COPY" and "--from=" not in value:
                _copy(value.split(), folder)
            elif instruction == "RUN":
                line = re.sub(r"--mount=\S+\s*", "", value)
                done = subprocess.run(
                    ["sh", "-ec", line], cwd=folder, env=env, capture_output=True, text=True, timeout=600, check=False
                )
                assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    venv_bin = Path(env["VENV"]) / "bin"
    return Replay(root, {**env, "PATH": f"{venv_bin}:{os.environ['PATH']}", "HOME": str(root)})


def _copy(words: list[str], folder: Path) -> None:
    """COPY from the checkout: files into the folder, a folder under its new name."""
    *sources, target = words
    for source in sources:
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, folder / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, folder / target)
