"""Compares a training card's data with a suite by word 13-grams: card, files and items go in, an `Overlap` comes out.

A file is believed to be the one that the card names only if its SHA-256 agrees. An item overlaps when one of the grams that are
its own (`suites.particular`) stands in a turn or cell of a training row. The suite's grams are held; the rows go by in batches.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from gate.contamination import Overlap, TaskOverlap
from gate.errors import InfrastructureError, SuiteError, UsageError
from gate.ngrams import Grams, among, gram_set, grams
from gate.records import Candidate, SuiteItem, Task
from gate.suites.loaders.tables import Table, read_table
from gate.suites.particular import particular, texts_of

BATCH: Final = 2_000
"""Texts whose grams are looked up at once."""
HUB: Final = "hf://"


class _Named(NamedTuple):
    """A file as the card names it."""

    path: str
    sha256: str


def overlap_of(
    candidate: Candidate, suite: Sequence[SuiteItem], asked: Iterable[SuiteItem], places: Sequence[Path] = ()
) -> Overlap | None:
    """The overlap of the candidate's training data with the `asked` items of a suite; null where nothing says what it was.

    `places`: files and folders in which the data may lie, beside the working directory. `UsageError` for one that is not there.
    """
    for place in places:
        if not place.exists():
            raise UsageError(f"--training-data {place}: not there", expected="a file or folder", mend="check the path")
    card = candidate.training_card
    if card is None:
        return _none("the candidate has no training card that names it") if places else None
    named = list(_named(card))
    if not named:
        return _none("the training card names no data files")
    tables: list[Table] = []
    reasons: list[str] = []
    files: list[str] = []
    for file in named:
        found = _table(file, places)
        if isinstance(found, str):
            reasons.append(f"{file.path}: {found}")
        else:
            tables.append(found)
            files.append(file.path)
    items = list({item.id: item for item in asked}.values())
    tasks = _compare(suite, items, tables) if tables else ()
    return Overlap(files=tuple(files), rows=sum(len(t.rows) for t in tables), tasks=tasks, not_compared=tuple(reasons))


def _none(reason: str) -> Overlap:
    return Overlap(files=(), rows=0, tasks=(), not_compared=(reason,))


def _named(card: Mapping[str, Any]) -> Iterator[_Named]:
    """The files of the card's `data`, each once; entries that name no file and digest are not believed."""
    entries = card.get("data")
    found: dict[_Named, None] = {}
    for entry in entries if isinstance(entries, list) else ():
        path, digest = (entry.get("path"), entry.get("sha256")) if isinstance(entry, dict) else (None, None)
        if isinstance(path, str) and isinstance(digest, str) and path:
            found[_Named(path, digest)] = None
    yield from found


def _table(file: _Named, places: Sequence[Path]) -> Table | str:
    """The table whose digest is the card's, or why there is none."""
    there = False
    try:
        for path in _candidates(file.path, places):
            there = True
            with path.open("rb") as stream:
                agrees = hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256
            if agrees:
                return read_table(path)
    except (OSError, InfrastructureError):  # a name that no file can have is one too: the card may say anything
        return "the file cannot be read"
    except SuiteError:
        return "the file is no table that can be read"
    return "digest differs from the card's" if there else "file not found (--training-data says where it lies)"


def _candidates(name: str, places: Sequence[Path]) -> Iterator[Path]:
    """Where a file of the card may lie: as given, under the folders given, and as named from the working directory."""
    last = Path(name).name
    for place in places:
        if place.is_dir():
            yield from (path for path in sorted(place.rglob("*")) if path.name == last and path.is_file())
        else:
            yield place
    if not name.startswith(HUB) and Path(name).is_file():
        yield Path(name)


def _compare(suite: Sequence[SuiteItem], items: Sequence[SuiteItem], tables: Iterable[Table]) -> tuple[TaskOverlap, ...]:
    """Per task: items asked, and those of which a gram of their own occurs in a row."""
    requests = particular(suite)
    own = {item.id: _own(item, requests) for item in items}
    known = np.unique(np.concatenate([*own.values(), np.zeros(0, dtype=np.uint64)]))
    seen = np.zeros(known.size, dtype=np.bool_)
    texts = (text for table in tables for row in table.rows for cell in row.cells.values() for text in _texts(cell))
    while batch := list(islice(texts, BATCH)):
        found = gram_set(batch)
        seen[np.searchsorted(known, found[among(found, known)])] = True
    shared = {item.id for item in items if seen[np.searchsorted(known, own[item.id])].any()}
    counts = [
        TaskOverlap(
            task=task,
            items=sum(item.task is task for item in items),
            shared=sum(item.task is task and item.id in shared for item in items),
        )
        for task in Task
    ]
    return tuple(count for count in counts if count.items)


def _own(item: SuiteItem, requests: Grams) -> Grams:
    """The item's grams that no frame accounts for; all of them where there is none."""
    found = np.concatenate([grams(text) for text in texts_of(item)])
    mine = found[among(found, requests)]
    return mine if mine.size else found


def _texts(cell: str) -> Iterator[str]:
    """The texts of a cell: the turns of a list of messages, else the cell itself."""
    if cell.startswith("[{"):
        try:
            turns = json.loads(cell)
        except (ValueError, RecursionError):
            turns = None
        if isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns):
            yield from (str(turn.get("content", "")) for turn in turns)
            return
    yield cell
