"""One labelled text, in the layout of the evaluation data (JSON Lines), and a reader of such a folder.

In: a folder of `*.jsonl` files. Out: `Row` records. Our own generated material yields the same records, so that everything
after it (selection, training, thresholds, evaluation) knows one shape.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from guard_server.labels import Task

PromptLabel = Literal["harmful", "benign"]
ResponseLabel = Literal["complied", "refused", "partial", "harmful", "safe"]


class Row(BaseModel):
    """One text with its labels."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    dataset: str
    """The set it came from; for our own material `own_<family>`: the unit that is left out as a whole."""
    text: str = Field(min_length=1)
    """The prompt."""
    response: str | None = None
    task: Task
    label: PromptLabel | None = None
    """Of the prompt."""
    response_label: ResponseLabel | None = None
    """Of the answer: what the model did (complied, refused, partial) or whether the answer does harm (harmful, safe)."""
    category: str | None = None
    """As the source gives it; for our own material a `guard_server.labels.Category` value."""
    lang: str = "en"
    meta: dict[str, Any] = Field(default_factory=dict)
    """`pair`: a key shared with the twin of the other label, where there is one."""


def read_file(path: Path) -> Iterator[Row]:
    """The rows of one file; raises `ValueError` naming the file and the line of the first bad row."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield Row.model_validate(json.loads(line))
            except (ValidationError, ValueError) as error:
                msg = f"{path}, line {number}: not a row of labelled text ({error})"
                raise ValueError(msg) from error


def read_folder(folder: Path) -> dict[str, list[Row]]:
    """All `*.jsonl` of a folder by file stem, sorted; raises `FileNotFoundError` where there is none."""
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        msg = f"no *.jsonl in {folder}: expected a folder of labelled JSON Lines"
        raise FileNotFoundError(msg)
    return {path.stem: list(read_file(path)) for path in files}
