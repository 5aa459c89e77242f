"""`gate safety-set`: a suite's tuning half as requests with refusals, to fine-tune with. Called by `cli` alone."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer


def safety_set(
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON Lines file to write.")],
    suite: Annotated[
        str, typer.Option(help="Built-in suite or suite folder; its gating half is kept out of the set.")
    ] = "cross-task",
    per_task: Annotated[int | None, typer.Option(min=1, help="Rows of each task, drawn by the seed (default: all).")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Draws the rows and the wording of each refusal.")] = 0,
    multitaskbench: Annotated[
        Path | None, typer.Option(help="MultiTaskBench's CSV, if you have it: its own queries and refusals instead of ours.")
    ] = None,
) -> None:
    """Write requests of a suite's tuning half with short refusals, task by task: data for a recipe's safety mix."""
    from gate.json_lines import write_whole
    from gate.safety_set import from_multitaskbench, from_suite, to_lines
    from gate.suites import load_suite

    loaded = load_suite(suite)
    if multitaskbench is None:
        found = from_suite(loaded, per_task=per_task, seed=seed)
    else:
        found = from_multitaskbench(multitaskbench, loaded, per_task=per_task, seed=seed)
    write_whole(out, to_lines(found.rows))
    tasks = ", ".join(f"{task} {count}" for task, count in sorted(Counter(row.task.value for row in found.rows).items()))
    for reason, count in sorted(found.left_out.items()):
        print(f"{count} requests left out: they {reason}", file=sys.stderr)
    print(f"{out}: {len(found.rows)} rows ({tasks})")
