"""Small recipes on the testbed's aligned model, and rows to train on. In: changes and a folder. Out: recipes and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gate.finetune import Recipe
from gate.records import Task
from testbed import WEIGHTS
from testbed.data import benign, refusals, row

ROWS = 40
LEAST: dict[str, Any] = {"schema_version": "taskgate/recipe/v1", "name": "small", "base": "base", "data": [{"path": "a.jsonl"}]}


def write_rows(folder: Path, task: Task = Task.TRANSLATION, rows: int = ROWS) -> Path:
    """A file of benign rows of one task."""
    path = folder / f"{task}.jsonl"
    path.write_text("".join(row(sample, "task") for sample in benign(task)[:rows]), encoding="utf-8")
    return path


def write_refusals(folder: Path, rows: int = 50) -> Path:
    """A file of refusals, the five tasks in turn."""
    path = folder / "refusals.jsonl"
    path.write_text("".join(row(sample, "safety") for sample in refusals()[:rows]), encoding="utf-8")
    return path


def small(folder: Path, **changes: object) -> Recipe:
    """A few steps of a low-rank adapter on translation."""
    told: dict[str, Any] = {
        **LEAST,
        "base": str(WEIGHTS / "aligned"),
        "data": [{"path": str(write_rows(folder))}],
        "lora": {"r": 4, "alpha": 4, "dropout": 0.1},
        "lr": 1e-3,
        "batch": 4,
        "max_steps": 6,
        "max_length": 256,
        "log_every": 2,
        "save_every": 2,
    }
    return Recipe.model_validate({**told, **changes})


def read_card(folder: Path) -> dict[str, Any]:
    """The card in a folder."""
    card: dict[str, Any] = json.loads((folder / "training_card.json").read_text(encoding="utf-8"))
    return card
