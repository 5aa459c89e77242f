"""The documents say what the program does: generated files are current, examples parse, links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from gate.errors import ExitCode
from gate.policy import load_policy, parse_policy
from gate.suites import load_suite
from tests.conftest import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("policies/*.md")])


def generated() -> dict[Path, str]:
    """What docs/generate.py would write."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return cast("Callable[[], dict[Path, str]]", module.generated)()


def test_generated_files_are_current() -> None:
    """Schemas and the command line's reference are what the code generates; `make schemas` writes them again."""
    for path, text in generated().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is stale: run make schemas"


def test_the_readmes_policy_is_valid() -> None:
    """The policy in the README parses, and its suite is built in."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert [load_suite(parse_policy(block).suite).name for block in blocks] == ["cross-task"]


def test_the_readmes_exit_codes_are_the_programs() -> None:
    """The table of exit codes lists every code of `ExitCode` and no other."""
    rows = re.findall(r"^\| (\d+) \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(map(int, rows)) == sorted(ExitCode)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_that_a_document_names_is_there(document: Path) -> None:
    """Paths in backticks and relative links of the documents exist."""
    text = document.read_text(encoding="utf-8")
    named = re.findall(r"`((?:docs|policies|schemas|bench|tests|testbed|gate|examples)/[\w./-]+\.\w+)`", text)
    linked = [t for t in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in t]
    missing = [n for n in named if not (ROOT / n).exists() and "*" not in n]
    missing += [t for t in linked if not (document.parent / t).exists()]
    assert not missing


@pytest.mark.parametrize("name", ["default", "strict", "demo"])
def test_a_shipped_policy_has_the_evidence_it_asks_for(name: str) -> None:
    """Each shipped policy's suite holds the items and behaviours that the policy requires, in every gated cell."""
    from gate.cells import plan

    loaded = load_policy(name)
    suite = load_suite(loaded.policy.suite, relative_to=loaded.directory)
    cells = [c for c in plan(loaded.policy, suite.items, suite.system_prompt, suite.digest) if c.gated]
    assert len(cells) == 2 * 5 * len(loaded.policy.gate.calibrations)
    assert min(c.population for c in cells) >= loaded.policy.evidence.min_items
    assert min(c.clusters for c in cells) >= loaded.policy.evidence.min_behaviours


def test_the_readme_tells_the_numbers_of_the_policies() -> None:
    """policies/README.md's table holds the limits and minimums that the policy files hold."""
    text = (ROOT / "policies" / "README.md").read_text(encoding="utf-8")
    for key in (
        "limits.max_rate",
        "limits.max_over_refusal",
        "limits.max_invalid",
        "evidence.min_items",
        "evidence.min_behaviours",
    ):
        row = re.search(rf"^\| `{re.escape(key)}` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|", text, re.MULTILINE)
        assert row is not None, key
        part, field = key.split(".")
        found = [getattr(getattr(load_policy(n).policy, part), field) for n in ("default", "strict", "demo")]
        assert [float(cell) for cell in row.groups()] == found, key
