"""`make drift`: the drift matrix of the testbed in one command, written into docs/results.md with its heat map.

Comes in: testbed/drift.yaml. Goes out: runs/drift, the tables between the marks of docs/results.md, docs/heat_map.svg. Exits as
`gate drift` does. Killed, the same command goes on.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

from bench.results import ROOT, into_document, machine, stated
from testbed.data import DATA, write

PLAN = ROOT / "testbed" / "drift.yaml"
DOCUMENT = ROOT / "docs" / "results.md"


def main() -> int:
    """Make the matrix and write the document; returns the exit code of `gate drift`."""
    parser = argparse.ArgumentParser(prog="python -m testbed.results", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "drift")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    write(DATA)
    resumed = (arguments.out / "plan.json").exists()
    begun = time.monotonic()
    command = [sys.executable, "-m", "gate.cli", "drift", str(PLAN), "--out", str(arguments.out), "--format", "none"]
    code = subprocess.run([*command, "--workers", str(arguments.workers)], check=False).returncode
    if code in (0, 3):
        seconds = time.monotonic() - begun
        took = f"It took {seconds / 60:.0f} minutes" + (", going on from an earlier call" if resumed else "")
        foot = f"{took}, with {arguments.workers} workers. {stated(machine('torch', 'transformers', 'peft'))}"
        _, _, body = (arguments.out / "drift.md").read_text(encoding="utf-8").partition("\n")  # the document has a title
        into_document(DOCUMENT, "drift", f"{body.strip().replace('## ', '### ')}\n\n{foot}")
        shutil.copyfile(arguments.out / "heat_map.svg", DOCUMENT.parent / "heat_map.svg")
    return code


if __name__ == "__main__":
    sys.exit(main())
