"""The base installation: what is missing for a command is said with the extra that brings it, and the tables agree."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import pytest

from gate.extras import EXTRA_OF, missing_extra
from tests.conftest import ROOT
from tests.test_cli import environment

WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from gate.cli import main
sys.argv = ["gate", *{arguments!r}]
main()
"""
"""Runs the command line where the named modules are not installed."""


def gate_without(names: set[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """One command of a process in which the modules can't be imported."""
    script = WITHOUT.format(names=names, arguments=list(arguments))
    return subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("arguments", [("policy", "validate", "default"), ("decide", "runs/none")])
def test_a_command_of_an_extra_says_what_to_install(arguments: tuple[str, ...]) -> None:
    """Without the extra `gate`, its commands end as usage, name the module and the installation that mends it."""
    done = gate_without({"numpy", "scipy", "yaml", "jinja2", "junitparser", "filelock"}, *arguments)
    assert done.returncode == 2, done.stderr
    assert "pip install 'taskgate[gate]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_needs_the_base_alone() -> None:
    """`gate --help` imports no module of any extra."""
    done = gate_without(set(EXTRA_OF), "--help")
    assert done.returncode == 0, done.stderr
    assert "check" in done.stdout


def test_every_extra_that_is_named_brings_its_module() -> None:
    """The distributions of the modules in the table stand in the extra that the table names."""
    distribution = {"yaml": "pyyaml", "OpenSSL": "pyopenssl", "cyclonedx": "cyclonedx-python-lib", "tokenizers": "transformers"}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for module, extra in EXTRA_OF.items():
        name = distribution.get(module, module.replace("_", "-"))
        assert any(line.startswith(name) for line in extras[extra]), module


def test_a_module_of_no_extra_is_a_bug() -> None:
    """A missing module that no extra brings is not blamed on the installation."""
    assert missing_extra(ModuleNotFoundError("No module named 'gaet'", name="gaet")) is None
