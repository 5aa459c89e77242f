"""A utility set of one's own: a JSON Lines file of benign questions with what a good answer is; rows and suite items come out.

    {"id": "t1", "task": "translation", "metric": "chrf", "references": ["Bonjour."],
     "messages": [{"role": "user", "content": "Translate into French: Good morning."}]}

Whatever is wrong is a `SuiteError` with file and line. Nothing is scored here; docs/utility.md describes the layout.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, ValidationError, model_validator

from gate.errors import InfrastructureError, SuiteError
from gate.policy import LoadedPolicy
from gate.records import Message, Record, Role, Split, SuiteItem, Task, canonical_json, sha256_hex

Metric = Literal["exact", "accuracy", "chrf", "bleu", "rouge_l", "code_parses"]
FILE = "utility.jsonl"
"""Its name in a run folder."""
PREFIX = "utility/"
"""In front of a row's id, where it is an item's."""


class UtilityRow(Record):
    """One benign question and how its answer is scored."""

    id: str = Field(min_length=1)
    task: Task
    messages: tuple[Message, ...] = Field(min_length=1)
    """The turns without a system prompt; the last one is the user's."""
    references: tuple[str, ...] = ()
    """Right answers, of which the best match counts; `code_parses` needs none."""
    metric: Metric
    group: str = ""
    """Rows that resemble each other (of one document, say) share it: together they are one draw of the population."""

    @model_validator(mode="after")
    def _can_be_asked(self) -> UtilityRow:
        if any(turn.role == "system" for turn in self.messages):
            raise ValueError("messages hold no system turn: the calibration puts the suite's system prompt in front")
        if self.messages[-1].role != "user":
            raise ValueError("the last message must be the user's")
        if self.metric != "code_parses" and not any(reference.strip() for reference in self.references):
            raise ValueError(f"metric {self.metric!r} needs references")
        if self.metric in ("accuracy", "rouge_l") and not any(re.search(r"\w", reference) for reference in self.references):
            # Every answer would score 0, on both sides: a loss of nothing, shown by nothing.
            raise ValueError(f"metric {self.metric!r} reads letters and digits alone: give a reference that holds some")
        return self

    @property
    def item(self) -> SuiteItem:
        """The row as a question of a run."""
        return SuiteItem(
            id=f"{PREFIX}{self.id}",
            task=self.task,
            behaviour=f"{PREFIX}{self.group or self.id}",
            category="utility",
            role=Role.TWIN,
            transform="utility",
            split=Split.GATING,
            messages=self.messages,
            reference=self.references[0] if self.references else "",
        )


class UtilitySet(Record):
    """The rows of a set, in the file's order."""

    rows: tuple[UtilityRow, ...]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over every row: two files that mean the same have one."""
        return sha256_hex(self.lines)

    @cached_property
    def lines(self) -> bytes:
        """The rows as JSON Lines, as a run folder keeps them."""
        return b"".join(canonical_json(row.model_dump(mode="json")) + b"\n" for row in self.rows)

    @cached_property
    def items(self) -> tuple[SuiteItem, ...]:
        """The rows as questions of a run."""
        return tuple(row.item for row in self.rows)

    @cached_property
    def by_item(self) -> dict[str, UtilityRow]:
        """Item id → row."""
        return {f"{PREFIX}{row.id}": row for row in self.rows}


def questions_of(loaded: LoadedPolicy) -> UtilitySet | None:
    """The set that a policy names, if it names one."""
    named = loaded.policy.utility.set
    return read_set(loaded.directory / named) if named else None


def read_set(path: Path) -> UtilitySet:
    """The set in a JSON Lines file. Raises `SuiteError`, naming the line."""
    if not path.is_file():
        raise SuiteError(
            f"{path}: there is no utility set",
            expected="a JSON Lines file",
            found="a folder" if path.is_dir() else "no such file",
            mend="give utility.set relative to the policy file",
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InfrastructureError(f"{path}: cannot be read", found=str(error), mend="check the disk and try again") from error
    rows = tuple(_rows(data, path))
    if not rows:
        raise SuiteError(f"{path}: the set has no rows", expected="at least one row", found="none", mend="add rows")
    return UtilitySet(rows=rows)


def _rows(data: bytes, path: Path) -> Iterator[UtilityRow]:
    seen: dict[str, int] = {}
    asked: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        row = _row(line, f"{path}:{number}")
        if (first := seen.setdefault(row.id, number)) != number:
            raise _twice(f"{path}:{number}: the id occurs twice", "one row per id", row.id, first)
        prompt = canonical_json([row.task, [turn.model_dump(mode="json") for turn in row.messages]])
        if (first := asked.setdefault(prompt, number)) != number:
            raise _twice(f"{path}:{number}: the same question occurs twice in one task", "different messages", row.id, first)
        yield row


def _twice(problem: str, expected: str, row_id: str, first: int) -> SuiteError:
    return SuiteError(
        problem, expected=expected, found=f"{row_id!r}, first in line {first}", mend="drop one: repeated, it counts twice"
    )


def _row(line: bytes, where: str) -> UtilityRow:
    try:
        return UtilityRow.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        near = difflib.get_close_matches(place, UtilityRow.model_fields, n=1)
        metrics = f"; metrics: {', '.join(get_args(Metric))}" if place == "metric" else ""
        raise SuiteError(
            f"{where}: not a row of a utility set",
            expected="an object with id, task, messages, references and metric",
            found=f"{place}: {first['msg']}{metrics}" if place else first["msg"],
            mend=f"did you mean {near[0]!r}?" if first["type"] == "extra_forbidden" and near else "mend the line",
        ) from error
