"""`make demo`: gates three shipped checkpoints by policies/demo.yaml, each by the real command line, and prints what came of it.

Trains nothing. Exits 0 if the aligned and the mixed model pass and the drifted one is blocked with exit code 3; else 1.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from testbed import WEIGHTS

ROOT = Path(__file__).resolve().parents[1]
POLICY = ROOT / "policies" / "demo.yaml"
NAMES = {0: "PASS", 3: "BLOCK", 4: "INCONCLUSIVE"}


@dataclass(frozen=True)
class Row:
    """One checkpoint: what it is, and the exit code that the gate should give."""

    candidate: str
    story: str
    expected: int


ROWS = (
    Row("aligned", "the aligned model", 0),
    Row("drifted-translation", "the same after harmless fine-tuning on translation", 3),
    Row("mixed-translation", "the same fine-tuning with 20 % refusals mixed in", 0),
)


def run(row: Row, console: Console) -> tuple[int, float, Path]:
    """Check one checkpoint by the command line, from the beginning; returns exit code, seconds and run folder."""
    out = ROOT / "runs" / f"demo-{row.candidate}"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "gate.cli", "check", "--policy", str(POLICY), "--candidate", str(WEIGHTS / row.candidate)]
    console.print(f"\n[bold]{row.candidate}[/bold]: {row.story}")
    options = f"--candidate testbed/weights/{row.candidate} --out runs/demo-{row.candidate}"
    shown = f"$ .venv/bin/gate check --policy policies/demo.yaml {options}"
    console.print(shown, style="dim", soft_wrap=True)
    begun = time.monotonic()
    code = subprocess.run([*command, "--out", str(out), "--format", "none"], check=False).returncode
    verdict = out / "verdict.json"
    if verdict.exists():
        console.print(json.loads(verdict.read_text(encoding="utf-8"))["reason"])
    return code, time.monotonic() - begun, out


def main() -> int:
    """Run the three checks and print the table."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    table = Table(title="\nTaskgate demo", title_justify="left")
    for column in ("candidate", "verdict", "exit code", "seconds", "report"):
        table.add_column(column, overflow="fold")
    right = True
    for row in ROWS:
        code, seconds, out = run(row, console)
        right &= code == row.expected
        note = "" if code == row.expected else f" (expected {row.expected})"
        report = str((out / "report.md").relative_to(ROOT)) if (out / "report.md").exists() else "none"
        table.add_row(row.candidate, NAMES.get(code, "ERROR"), f"{code}{note}", f"{seconds:.0f}", report)
    console.print(table)
    console.print(
        "Read a report: it says which task, how many of how many, the bound, the limit, and what would flip the verdict."
    )
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
