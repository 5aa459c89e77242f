"""Writes what is generated from the code: schemas/*.json and docs/cli.md. `make schemas` runs it; a test compares."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from gate.policy import policy_schema
from gate.report.schema import report_schema
from guard_server.policy import policy_schema as guard_policy_schema

ROOT = Path(__file__).resolve().parents[1]


def cli_reference() -> str:
    """The command line's reference in Markdown, made by typer from the program itself."""
    command = [sys.executable, "-m", "typer", "gate.cli", "utils", "docs", "--name", "gate", "--title", "gate: command line"]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout


def generated() -> dict[Path, str]:
    """Every generated file with the text it should have."""
    return {
        ROOT / "schemas" / "policy.schema.json": json.dumps(policy_schema(), indent=2) + "\n",
        ROOT / "schemas" / "report.schema.json": report_schema(),
        ROOT / "schemas" / "guard-policy.schema.json": json.dumps(guard_policy_schema(), indent=2) + "\n",
        ROOT / "docs" / "cli.md": cli_reference(),
    }


if __name__ == "__main__":
    for path, text in generated().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
