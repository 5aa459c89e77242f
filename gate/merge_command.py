"""`gate merge OUT SHARD...`: all shards of a run → one run folder with its verdict. Registered by `cli` alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gate.records import Verdict

Out = Annotated[
    Path, typer.Argument(metavar="OUT", help="Run folder to make: a free name, or that of an earlier merge of the same shards.")
]
Shards = Annotated[
    list[Path],
    typer.Argument(
        metavar="SHARD...", help="The folders of all shards, in any order: the --out of each `gate check --shard i/n`."
    ),
]


def merge_shards(out: Path, shards: list[Path]) -> Verdict:
    """Merge and decide. Raises `UsageError` where the folders are not the shards of one run, each once and finished."""
    from gate.shard_pipeline import merge

    return merge(out, shards)
