"""Writes what is generated from the code: schemas, command lines, tables. `make schemas` runs it; a test compares."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path

import yaml
from pydantic_core import PydanticUndefined

from gate.attest.statement import predicate_schema
from gate.drift.plan import drift_plan_schema
from gate.finetune.recipe import recipe_schema
from gate.planning import plan_schema
from gate.policy import policy_schema
from gate.report.schema import report_schema
from guard_server.policy import policy_schema as guard_policy_schema
from guard_server.settings import Settings

ROOT = Path(__file__).resolve().parents[1]


def cli_reference(name: str, module: str) -> str:
    """A command line's reference in Markdown, made by typer from the program itself."""
    command = [sys.executable, "-m", "typer", module, "utils", "docs", "--name", name, "--title", f"{name}: command line"]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout


def guard_settings() -> str:
    """The guard's settings as a table: variable, default, meaning."""
    head = (
        "# Settings of the guard\n\n"
        "Environment variables, read at start. Sizes in bytes or characters, times in seconds. A switch is `true` or `false`;\n"
        "an empty default means not set. A `GUARD_` variable that is not listed here is ignored: mind the spelling.\n\n"
    )
    rows = ["| variable | default | |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=False)
        told = str(default).lower() if isinstance(default, bool) else default
        shown = f"`{told}`" if default not in (None, PydanticUndefined, "") else ""
        if isinstance(default, Path) or field.default_factory is not None:
            shown = "the shipped one"
        rows.append(f"| `GUARD_{name.upper()}` | {shown} | {' '.join((field.description or '').split())} |")
    return head + "\n".join(rows) + "\n"


def chart_values() -> str:
    """The chart's values as a table: key, default, meaning; the meaning is the `# --` comment before a key."""
    head = "# Values of the chart\n\nUnknown keys are refused (`helm/taskgate/values.schema.json`).\n\n"
    rows = ["| value | default | |", "|---|---|---|"]
    text = (ROOT / "helm" / "taskgate" / "values.yaml").read_text(encoding="utf-8")
    values, told = yaml.safe_load(text), ""
    path: list[str] = []
    for line in text.splitlines():
        bare = line.strip()
        if bare.startswith("# -- "):
            told = bare.removeprefix("# -- ")
        elif bare and not bare.startswith(("#", "-")):
            path = [*path[: (len(line) - len(line.lstrip())) // 2], bare.partition(":")[0]]
            if told:
                default = json.dumps(functools.reduce(lambda value, key: value[key], path, values), ensure_ascii=False)
                rows.append(f"| `{'.'.join(path)}` | `{default}` | {told} |")
            told = ""
    return head + "\n".join(rows) + "\n"


def generated() -> dict[Path, str]:
    """Every generated file with the text it should have."""
    return {
        ROOT / "schemas" / "policy.schema.json": json.dumps(policy_schema(), indent=2) + "\n",
        ROOT / "schemas" / "report.schema.json": report_schema(),
        ROOT / "schemas" / "recipe.schema.json": json.dumps(recipe_schema(), indent=2) + "\n",
        ROOT / "schemas" / "drift-plan.schema.json": json.dumps(drift_plan_schema(), indent=2) + "\n",
        ROOT / "schemas" / "plan.schema.json": json.dumps(plan_schema(), indent=2) + "\n",
        ROOT / "schemas" / "safety-evaluation.schema.json": json.dumps(predicate_schema(), indent=2) + "\n",
        ROOT / "schemas" / "guard-policy.schema.json": json.dumps(guard_policy_schema(), indent=2) + "\n",
        ROOT / "docs" / "cli.md": cli_reference("gate", "gate.cli"),
        ROOT / "docs" / "guard_cli.md": cli_reference("guard", "guard_server.cli"),
        ROOT / "docs" / "guard_settings.md": guard_settings(),
        ROOT / "docs" / "chart_values.md": chart_values(),
    }


if __name__ == "__main__":
    for path, text in generated().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
