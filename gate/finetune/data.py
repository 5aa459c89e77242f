"""Training rows: a recipe's tables come in, examples with their cell go out, and of every file its digest.

A cell is a task with what is wanted in it: `translation/task` to answer, `translation/safety` to refuse. Bad rows are errors
with file and line; nothing is guessed.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from pydantic import ValidationError

from gate.errors import RecipeError
from gate.finetune.recipe import LABEL, Columns, Recipe, Source
from gate.records import Message, Record
from gate.suites.loaders.hub_datasets import SCHEME, fetch
from gate.suites.loaders.tables import Row, Table, read_table

Kind = Literal["task", "safety"]
T = TypeVar("T")
ALL = "all"
"""The task of refusals that are one cell over all tasks."""
_FIELDS = ("prompt", "answer", "system", "messages", "task", "kind")


class Example(NamedTuple):
    """One conversation to learn the last turn of."""

    where: str
    """`file:line`, for errors."""
    messages: tuple[Message, ...]
    answer: str
    cell: str
    """`task/kind`."""
    source: int
    """Its table's place among the recipe's."""


class DataFile(Record):
    """A table as the training card names it."""

    path: str
    """As the recipe gives it; of an absolute path the file's name alone."""
    sha256: str
    rows: int
    """Rows that are used."""
    task: str
    """Its tasks, joined by + where there are several."""
    kind: Kind


class Loaded(NamedTuple):
    """All that the recipe's tables hold."""

    examples: tuple[Example, ...]
    files: tuple[DataFile, ...]


def load_data(recipe: Recipe) -> Loaded:
    """Read every table. Raises `RecipeError` or `SuiteError` with file and line, `InfrastructureError` for a hub or disk."""
    examples: list[Example] = []
    files: list[DataFile] = []
    for place, (source, kind) in enumerate(recipe.sources):
        path = locate(source, recipe.directory)
        table = read_table(path)
        pooled = kind == "safety" and recipe.safety is not None and not recipe.safety.per_task
        found = [_example(row, table, source, kind, place) for row in table.rows]
        kept = drawn(found, source.limit, f"{recipe.seed}:{place}:{source.path}")
        tasks = "+".join(sorted({example.cell.split("/")[0] for example in kept}))
        files.append(DataFile(path=shown(source.path), sha256=sha256_of(path), rows=len(kept), task=tasks, kind=kind))
        examples += [example._replace(cell=f"{ALL}/safety") if pooled else example for example in kept]
    return Loaded(tuple(examples), tuple(files))


def locate(source: Source, directory: Path) -> Path:
    """The table's file, fetched if it stands on a hub."""
    return fetch(source.path) if source.path.startswith(SCHEME) else directory / Path(source.path).expanduser()


def shown(path: str) -> str:
    """A path for the card: what would name the machine is left out."""
    return Path(path).name if Path(path).expanduser().is_absolute() else path


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def drawn(rows: Sequence[T], limit: int | None, seed: str) -> list[T]:
    """At most `limit` rows, drawn by the seed, in their own order."""
    if limit is None or limit >= len(rows):
        return list(rows)
    return [rows[i] for i in sorted(random.Random(seed).sample(range(len(rows)), limit))]


def _example(row: Row, table: Table, source: Source, kind: Kind, place: int) -> Example:
    names = _columns(table, source.columns)
    cells = {field: row.cells[column] for field, column in names.items()}
    messages, answer = _turns(cells, row.where) if "messages" in cells else _pair(cells, row.where)
    task = cells.get("task", "").strip() or source.task or ""
    if not task:
        raise RecipeError(
            f"{row.where}: the row's task is not named",
            expected="a column task, or task: in the recipe's source",
            found="neither",
            mend="write task: translation (or a word of your own) beside the source's path",
        )
    if re.fullmatch(LABEL, task) is None:
        raise _bad(row.where, "task", "a word of small letters, digits, _ and -", task)
    own = cells.get("kind", "").strip() or kind
    if own not in ("task", "safety"):
        raise _bad(row.where, "kind", "task or safety", own)
    if kind == "safety" and own != "safety":
        raise _bad(row.where, "kind", "safety, since the file stands under the recipe's safety", own)
    return Example(row.where, messages, answer, f"{task}/{own}", place)


def _columns(table: Table, columns: Columns) -> dict[str, str]:
    """Field → column, of those that the table has; what the recipe names must be there, and one of the two layouts."""
    given = columns.model_dump(exclude_none=True)
    table.require(*given.values())
    names = {field: given.get(field, field) for field in _FIELDS}
    there = {field: column for field, column in names.items() if column in table.columns}
    turns = "messages" in there and "prompt" not in given
    if not turns:
        there.pop("messages", None)
        table.require(names["prompt"], names["answer"])
        return there
    return {field: column for field, column in there.items() if field not in ("prompt", "system")}


def _pair(cells: dict[str, str], where: str) -> tuple[tuple[Message, ...], str]:
    prompt, answer, system = cells["prompt"], cells["answer"], cells.get("system", "")
    if not prompt.strip():
        raise _bad(where, "prompt", "text", "nothing")
    turns = (Message(role="user", content=prompt),)
    return ((Message(role="system", content=system), *turns) if system else turns), _answered(answer, where)


def _turns(cells: dict[str, str], where: str) -> tuple[tuple[Message, ...], str]:
    expected = 'a list like [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]'
    try:
        raw = json.loads(cells["messages"])
        messages = tuple(Message.model_validate(turn) for turn in raw)
    except (ValueError, TypeError, RecursionError) as error:
        found = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise _bad(where, "messages", expected, found) from error
    answer = cells.get("answer", "")
    if not answer and messages and messages[-1].role == "assistant":
        messages, answer = messages[:-1], messages[-1].content
    if not messages or messages[-1].role != "user" or not messages[-1].content.strip():
        raise _bad(where, "messages", "turns of which the last one before the answer is the user's", f"{len(messages)} turns")
    return messages, _answered(answer, where)


def _answered(answer: str, where: str) -> str:
    if not answer.strip():
        raise _bad(where, "answer", "text", "nothing")
    return answer


def _bad(where: str, field: str, expected: str, found: str) -> RecipeError:
    return RecipeError(
        f"{where}: {field} can't be trained on", expected=expected, found=found[:120], mend="mend the row, or drop it"
    )
