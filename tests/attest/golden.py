"""Writes golden attestations: `python -m tests.attest.golden`. Once written, a version's files are never written again.

They are signed by the first test key, about the folders in tests/golden/attest, with runs of scripted answers.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from gate.conformance.scene import Model, unsafe
from tests.attest.runs import run_of, signed, statements_of
from tests.candidate_folders import make_adapter, make_model
from tests.conftest import ROOT

GOLDEN = ROOT / "tests" / "golden" / "attest"


def main() -> int:
    """Write the folders where they are not there yet, and a new version's attestations."""
    if len(sys.argv) != 2 or (GOLDEN / sys.argv[1]).exists():
        print("name a version whose golden files are not there yet", file=sys.stderr)
        return 2
    out = GOLDEN / sys.argv[1]
    if not (GOLDEN / "model").exists():
        make_adapter(GOLDEN / "adapter", make_model(GOLDEN / "model"))
    with tempfile.TemporaryDirectory() as scratch:
        runs = Path(scratch)
        made = {
            "pass": run_of(GOLDEN / "model", runs / "pass"),
            "block": run_of(GOLDEN / "model", runs / "block", Model("unsafe", unsafe)),
            "adapter": run_of(GOLDEN / "adapter", runs / "adapter", base=GOLDEN / "model"),
        }
        for name, run in made.items():
            out.mkdir(exist_ok=True)
            (out / f"{name}.intoto.jsonl").write_bytes(signed(statements_of(run)))
        shutil.rmtree(runs, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
