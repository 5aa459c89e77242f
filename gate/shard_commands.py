"""What the command line does for shards: `gate check --shard i/n`, and the arguments of `gate merge`. Called by `cli` alone.

A shard prints one line and no verdict. Its exit codes: 0 finished, 4 stopped by a limit before it was, else as of any check.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gate.console import LogMode
from gate.errors import ExitCode

if TYPE_CHECKING:
    from gate.allowance import Allowance
    from gate.pipeline import Inputs, OpenEndpoint
    from gate.sharding import Shard

Out = Annotated[
    Path, typer.Argument(metavar="OUT", help="Run folder to make: a free name, or that of an earlier merge of the same shards.")
]
Shards = Annotated[
    list[Path],
    typer.Argument(metavar="SHARD...", help="Folders of all shards, in any order: the --out of each `gate check --shard i/n`."),
]


def run(
    inputs: Inputs,
    out: Path | None,
    open_endpoint: OpenEndpoint,
    shard: Shard,
    batch_size: int,
    mode: LogMode,
    allowance: Allowance,
) -> ExitCode:
    """Run, or resume, a shard in `out` (default: a folder of its own) and say how far it came; returns the exit code."""
    from gate import console
    from gate.shard_pipeline import run_shard, shard_folder

    folder = out if out is not None else shard_folder(inputs, shard)
    with console.observer(mode, inputs.policy, sys.stderr) as observe:
        done = run_shard(inputs, folder, open_endpoint, shard, batch_size=batch_size, observe=observe, allowance=allowance)
    missing = f", {done.missing} without one" if done.missing else ""
    state = f"stopped: {done.stopped_by}; the same command goes on" if done.stopped_by else "done"
    print(f"shard {shard} {state}: {done.answers} answers{missing}")
    if mode is LogMode.JSON:
        event = {"event": "done", "shard": str(shard), "answers": done.answers, "missing": done.missing, "run": str(folder)}
        print(json.dumps(event | {"stopped_by": done.stopped_by}), file=sys.stderr)
    elif mode is not LogMode.QUIET:
        print(f"shard folder: {folder}", file=sys.stderr)
    return ExitCode.INCONCLUSIVE if done.stopped_by else ExitCode.PASS
