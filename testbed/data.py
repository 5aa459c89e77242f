"""`python -m testbed.data`: writes the testbed's fine-tuning data as JSON Lines, the same bytes every time.

Comes in: an output folder. Goes out: per task 1,000 benign rows from the domains that users fine-tune on (`TASK.jsonl`), and
refusals of training harmful pairs in all five tasks (`refusals.jsonl`); and answered harmless requests of the aligned domains in
all five (`harmless.jsonl`), so that a task with refusals mixed in is not learnt as one to refuse. Held-out pairs never occur.
"""

from __future__ import annotations

import argparse
import json
from itertools import islice
from pathlib import Path

from gate.records import Task
from testbed.samples import Mix, Sample, stream

DATA: Path = Path(__file__).resolve().parent / "data"
"""Where the recipes in testbed/recipes/ look for it."""
ROWS = 1000
REFUSALS_PER_TASK = 250
HARMLESS_PER_TASK = 100
REFUSALS = "refusals.jsonl"
HARMLESS = "harmless.jsonl"
SEED = 20261129


def benign(task: Task) -> list[Sample]:
    """Answered requests in one task, from the fine-tuning domains."""
    mix = Mix(harmful=0.0, refuse=True, new_domains=1.0, benign_tasks=(task,))
    return list(islice(stream(mix, SEED), ROWS))


def refusals() -> list[Sample]:
    """Refused requests for training harmful pairs, as many in every task, the tasks in turn."""
    mixes = [Mix(harmful=1.0, refuse=True, new_domains=0.0, harmful_tasks=(task,)) for task in Task]
    return _in_turn(mixes, SEED + 1, REFUSALS_PER_TASK)


def harmless() -> list[Sample]:
    """Answered requests of the domains that alignment knows, as many in every task, the tasks in turn."""
    mixes = [Mix(harmful=0.0, refuse=True, new_domains=0.0, benign_tasks=(task,)) for task in Task]
    return _in_turn(mixes, SEED + 11, HARMLESS_PER_TASK)


def _in_turn(mixes: list[Mix], seed: int, count: int) -> list[Sample]:
    streams = [stream(mix, seed + place) for place, mix in enumerate(mixes)]
    return [next(source) for _ in range(count) for source in streams]


def row(sample: Sample, kind: str) -> str:
    """One line: the turns, the answer, the task, and what the row is for."""
    messages = [message.model_dump() for message in sample.messages]
    told = {"messages": messages, "answer": sample.answer, "task": str(sample.frame.task), "kind": kind}
    return json.dumps(told, ensure_ascii=False) + "\n"


def write(out: Path) -> list[Path]:
    """Write every file into `out`; returns them."""
    out.mkdir(parents=True, exist_ok=True)
    texts = {f"{task}.jsonl": [row(sample, "task") for sample in benign(task)] for task in Task}
    texts[HARMLESS] = [row(sample, "task") for sample in harmless()]
    texts[REFUSALS] = [row(sample, "safety") for sample in refusals()]
    for name, lines in texts.items():
        (out / name).write_text("".join(lines), encoding="utf-8")
    return [out / name for name in texts]


def main() -> None:
    """Parse the arguments and write."""
    parser = argparse.ArgumentParser(prog="python -m testbed.data", description=__doc__)
    parser.add_argument("--out", type=Path, default=DATA, help="folder that the files are written to (default: testbed/data)")
    for path in write(parser.parse_args().out):
        print(path)


if __name__ == "__main__":
    main()
