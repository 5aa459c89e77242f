"""The answers and judgements of one side of a run, appended to two files of JSON lines and read back from them.

The files alone hold what is known; a log can hold millions of answers because none of their texts stays in memory. Beside the
files there are two aids, both made anew whenever the log is loaded, so that no kill and no copy of a folder can leave them stale:

    marks    one byte per sample of a case, in memory: whether it was answered, and what its judgement's outcome is
    index    place → offset of answer and of judgement, key → offset of an answer: an SQLite file that has no name in the folder
             any longer once it is open, and so ends with the process; small ones never leave SQLite's cache
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import weakref
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final, Literal, TypeVar, overload

from pydantic import TypeAdapter

from gate.errors import RunStoreError
from gate.json_lines import JsonLines, Line, disk_failed, json_line, write_whole
from gate.records import MAX_SAMPLES, Judgement, NoJudgement, NoResponse, Outcome, Response

Side = Literal["candidate", "baseline"]
Answer = Response | NoResponse
Opinion = Judgement | NoJudgement
Place = tuple[str, int]
"""Case id and sample number."""

_ANSWERS: TypeAdapter[Answer] = TypeAdapter(Answer)
_OPINIONS: TypeAdapter[Opinion] = TypeAdapter(Opinion)
T = TypeVar("T", Answer, Opinion)
_CHUNK = 1000
"""Records noted in the index at once while a file is read."""

# A mark: its two low bits say what answer there is, the bits above what was said of it.
_ANSWERED, _FAILED, _ANSWER_BITS = 1, 2, 3
_OUTCOMES: tuple[Outcome | None, ...] = (*Outcome, None)
_OPINION = {outcome: number << 2 for number, outcome in enumerate(_OUTCOMES, start=1)}
"""Outcome of a judgement, or null of a `NoJudgement` → its bits."""
_OPEN = 255


def _reading(mark: int) -> int:
    """What a mark means for the evidence: a place in `_OUTCOMES`, or `_OPEN` where answer or judgement is still to come."""
    if mark & _ANSWER_BITS == _FAILED:
        return _OUTCOMES.index(None)
    said = mark >> 2
    return said - 1 if mark & _ANSWER_BITS and 0 < said <= len(_OUTCOMES) else _OPEN


_READINGS = bytes(map(_reading, range(256)))


class SampleOutcomes(Sequence[Outcome | None]):
    """The outcome of each sample of a case, one byte each; null where no answer or no judgement came."""

    __slots__ = ("_readings",)

    def __init__(self, readings: bytes) -> None:
        self._readings = readings

    def __len__(self) -> int:
        return len(self._readings)

    def __iter__(self) -> Iterator[Outcome | None]:
        return map(_OUTCOMES.__getitem__, self._readings)

    @overload
    def __getitem__(self, at: int) -> Outcome | None: ...
    @overload
    def __getitem__(self, at: slice) -> SampleOutcomes: ...
    def __getitem__(self, at: int | slice) -> Outcome | SampleOutcomes | None:
        if isinstance(at, slice):
            return SampleOutcomes(self._readings[at])
        return _OUTCOMES[self._readings[at]]

    def __contains__(self, outcome: object) -> bool:
        return outcome in _OUTCOMES and _OUTCOMES.index(outcome) in self._readings

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and not isinstance(other, str | bytes) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash(self._readings)

    def __repr__(self) -> str:
        return f"SampleOutcomes({list(self)})"


class _Index:
    """Where in the files what stands. A scratch file: it loses its name as it is opened, and no transaction of it ever ends."""

    _TABLES = ("answers", "opinions", "keys")
    _CACHE_KIB = 4096

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def put(self, table: Literal["answers", "opinions", "keys"], rows: Sequence[tuple[int, int]]) -> None:
        """Note (number, offset) pairs; the last one for a number counts."""
        if not rows:
            return
        try:
            self._opened.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", rows)  # noqa: S608  (one of three names)
        except sqlite3.Error as error:
            raise disk_failed(self._path, error) from error

    def offset(self, table: Literal["answers", "opinions", "keys"], number: int) -> int | None:
        """The offset noted for a number."""
        if self._connection is None:  # nothing was put in yet
            return None
        try:
            row = self._opened.execute(f"SELECT at FROM {table} WHERE id = ?", (number,)).fetchone()  # noqa: S608
        except sqlite3.Error as error:
            raise disk_failed(self._path, error) from error
        return None if row is None else int(row[0])

    def clear(self, *tables: Literal["answers", "opinions", "keys"]) -> None:
        """Forget what was noted."""
        if self._connection is None:
            return
        try:
            for table in tables:
                self._connection.execute(f"DELETE FROM {table}")  # noqa: S608
        except sqlite3.Error as error:
            raise disk_failed(self._path, error) from error

    @property
    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._open()
            weakref.finalize(self, self._connection.close)
        return self._connection

    def _open(self) -> sqlite3.Connection:
        try:
            os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
            connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            self._path.unlink()
        except (OSError, sqlite3.Error) as error:
            raise disk_failed(self._path, error) from error
        for setting in (
            "journal_mode = OFF",
            "synchronous = OFF",
            "locking_mode = EXCLUSIVE",
            f"cache_size = -{self._CACHE_KIB}",
        ):
            connection.execute(f"PRAGMA {setting}")
        connection.execute("BEGIN EXCLUSIVE")
        for table in self._TABLES:
            connection.execute(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, at INTEGER NOT NULL)")
        return connection


SYNC_EVERY: Final = 64
"""Answers between two syncs: who answers one by one does not wait for the disk each time. A killed process loses none of them."""


class AnswerLog:
    """The answers and judgements of one side (candidate or baseline) of a run."""

    def __init__(self, folder: Path, side: Side) -> None:
        self.responses = JsonLines(folder / f"{side}.responses.jsonl")
        self.judgements = JsonLines(folder / f"{side}.judgements.jsonl")
        self.foreign = 0
        """Stored judgements left out, since another judge than the run's made them."""
        self._index = _Index(folder / f"{side}.index.tmp")
        self._marks: dict[str, tuple[int, bytearray]] = {}
        """Case id → its number in the index, and a mark per sample."""
        self._count = 0
        self._unsynced = 0
        self._held: dict[Place, Opinion] = {}
        """Judgements that wait for their answers to be synced."""

    def load(self, judge: str) -> None:
        """Read what is there, judgements of `judge` (its label) alone; a line that is no record is an error that names it."""
        self._marks.clear()
        self._read_answers()
        self.foreign = self._read_opinions(judge)

    def mend(self) -> None:
        """Cut off what a kill left half-written."""
        self.responses.mend()
        self.judgements.mend()

    def __len__(self) -> int:
        """How many places (case id, sample) have an answer or a reason for none."""
        return self._count

    def has_answer(self, place: Place) -> bool:
        """Whether an answer, or a reason for none, is stored."""
        return bool(self._mark(place) & _ANSWER_BITS)

    def answer(self, place: Place) -> Answer | None:
        """What is stored at a place."""
        if not self.has_answer(place):
            return None
        return self._fetch(_ANSWERS, self.responses, place, self._index.offset("answers", self._number(place)))

    def opinion(self, place: Place) -> Opinion | None:
        """The run's judge on the answer at a place."""
        if place in self._held:
            return self._held[place]
        if not self._mark(place) & ~_ANSWER_BITS:
            return None
        return self._fetch(_OPINIONS, self.judgements, place, self._index.offset("opinions", self._number(place)))

    def twin(self, key: str) -> Response | None:
        """A stored response with this key: the answer to the same question."""
        offset = self._index.offset("keys", _key_number(key))
        if offset is None:
            return None
        found = _parse(_ANSWERS, self.responses.at(offset), self.responses.path, f"offset {offset}")
        return found if isinstance(found, Response) and found.key == key else None

    def answers(self) -> Iterator[Answer]:
        """All that is stored when reading begins, in the order it came; the last at a place counts."""
        for _, _, answer in self._current_answers():
            yield answer

    def unjudged(self) -> Iterator[Response]:
        """Responses without an opinion of the run's judge."""
        for answer in self.answers():
            if isinstance(answer, Response) and not self._mark((answer.case_id, answer.sample)) & ~_ANSWER_BITS:
                yield answer

    def outcomes(self, case_id: str, samples: int) -> Sequence[Outcome | None] | None:
        """Outcome of each sample; null while one of them has neither an answer nor a reason for none."""
        known = self._marks.get(case_id)
        if known is None or len(known[1]) < samples:
            return None
        readings = bytes(known[1][:samples]).translate(_READINGS)
        return None if _OPEN in readings else SampleOutcomes(readings)

    def add_answers(self, batch: Sequence[Answer]) -> None:
        """Store a batch of answers; with every `SYNC_EVERY` of them, the disk is made to keep them."""
        self._unsynced += len(batch)
        sync = self._unsynced >= SYNC_EVERY
        self._note_answers(list(zip(batch, self.responses.append(batch, sync=sync), strict=True)))
        if sync:
            self._unsynced = 0
            self._write_held()

    def add_opinions(self, batch: Sequence[Opinion]) -> None:
        """Store a batch of judgements. None is written before the answer that it is on is synced."""
        self._mark_opinions(batch)  # a power cut could else take the answer and leave the judgement, for another answer to meet
        self._held |= {(opinion.case_id, opinion.sample): opinion for opinion in batch}
        if not self._unsynced:
            self._write_held()

    def sync(self) -> None:
        """Have the disk keep all that was stored."""
        self.responses.sync()
        self._unsynced = 0
        self._write_held()
        self.judgements.sync()

    def _write_held(self) -> None:
        held = list(self._held.values())
        self._note_opinions(list(zip(held, self.judgements.append(held, sync=False), strict=True)))
        self._held.clear()

    def forget(self, places: Collection[Place]) -> None:
        """Remove the answers at these places and their judgements: they are asked again, never graded."""
        self.sync()
        # Judgements first: killed in between, an answer is judged again; the other way round, the judgement of a removed
        # answer could meet the new one.
        write_whole(self.judgements.path, (line.data for line, place in self._current_opinions() if place not in places))
        write_whole(self.responses.path, (line.data for line, place, _ in self._current_answers() if place not in places))
        self._marks.clear()
        self._read_answers()
        self._read_opinions(None)

    def cut(self, responses: int, judgements: int) -> None:
        """Remove what stands behind these lengths in bytes; `load` afterwards.

        Judgements first, as in `forget`: killed in between, no judgement meets an answer that it is not on.
        """
        self._held.clear()
        self.judgements.cut(judgements)
        self.responses.cut(responses)

    def replace_opinions(self, opinions: Iterable[Opinion]) -> None:
        """Write the judgements again, whole or not at all; they are written as they come."""
        self._held.clear()
        write_whole(self.judgements.path, map(json_line, opinions))
        for _, marks in self._marks.values():
            marks[:] = bytes(mark & _ANSWER_BITS for mark in marks)
        self._read_opinions(None)

    def _read_answers(self) -> None:
        """Note every stored answer; the marks are empty before."""
        self._index.clear("answers", "keys")
        self._count = 0
        rows = ((_parse_line(_ANSWERS, line, self.responses), line.offset) for line in self.responses.read())
        while chunk := list(islice(rows, _CHUNK)):
            self._note_answers(chunk)

    def _read_opinions(self, judge: str | None) -> int:
        """Note every stored judgement, of `judge` or (null) of any; returns how many were left out."""
        self._index.clear("opinions")
        foreign = 0
        rows = ((_parse_line(_OPINIONS, line, self.judgements), line.offset) for line in self.judgements.read())
        while chunk := list(islice(rows, _CHUNK)):
            own = [(o, at) for o, at in chunk if judge is None or f"{o.judge} {o.version} {o.digest}" == judge]
            foreign += len(chunk) - len(own)
            self._note_opinions(own)
        return foreign

    def _note_answers(self, rows: Sequence[tuple[Answer, int]]) -> None:
        """Mark and index answers that stand at these offsets."""
        for answer, _ in rows:
            marks = self._marks_of(answer.case_id, answer.sample)
            before = marks[answer.sample]
            self._count += not before & _ANSWER_BITS
            marks[answer.sample] = before & ~_ANSWER_BITS | (_ANSWERED if isinstance(answer, Response) else _FAILED)
        self._index.put("answers", [(self._number((a.case_id, a.sample)), at) for a, at in rows])
        self._index.put("keys", [(_key_number(a.key), at) for a, at in rows if isinstance(a, Response)])

    def _note_opinions(self, rows: Sequence[tuple[Opinion, int]]) -> None:
        """Mark and index judgements that stand at these offsets."""
        self._mark_opinions(opinion for opinion, _ in rows)
        self._index.put("opinions", [(self._number((o.case_id, o.sample)), at) for o, at in rows])

    def _mark_opinions(self, opinions: Iterable[Opinion]) -> None:
        for opinion in opinions:
            marks = self._marks_of(opinion.case_id, opinion.sample)
            outcome = opinion.outcome if isinstance(opinion, Judgement) else None
            marks[opinion.sample] = marks[opinion.sample] & _ANSWER_BITS | _OPINION[outcome]

    def _current_answers(self) -> Iterator[tuple[Line, Place, Answer]]:
        """The answers that no later one at their place has replaced."""
        for line in self.responses.read():
            answer = _parse_line(_ANSWERS, line, self.responses)
            place = (answer.case_id, answer.sample)
            if self.has_answer(place) and self._index.offset("answers", self._number(place)) == line.offset:
                yield line, place, answer

    def _current_opinions(self) -> Iterator[tuple[Line, Place]]:
        """Line and place of the judgements that count: of the run's judge, and the last at their place."""
        for line in self.judgements.read():
            opinion = _parse_line(_OPINIONS, line, self.judgements)
            place = (opinion.case_id, opinion.sample)
            if self._mark(place) and self._index.offset("opinions", self._number(place)) == line.offset:
                yield line, place

    def _mark(self, place: Place) -> int:
        """The mark at a place; 0 where nothing is known."""
        case_id, sample = place
        known = self._marks.get(case_id)
        return known[1][sample] if known is not None and 0 <= sample < len(known[1]) else 0

    def _marks_of(self, case_id: str, sample: int) -> bytearray:
        """The marks of a case, long enough for this sample."""
        known = self._marks.get(case_id)
        if known is None:
            known = self._marks[case_id] = (len(self._marks), bytearray(sample + 1))
        elif len(known[1]) <= sample:
            known[1].extend(bytes(sample + 1 - len(known[1])))
        return known[1]

    def _number(self, place: Place) -> int:
        """What the index knows a marked place by."""
        case_id, sample = place
        return self._marks[case_id][0] * MAX_SAMPLES + sample

    @staticmethod
    def _fetch(adapter: TypeAdapter[T], file: JsonLines, place: Place, offset: int | None) -> T:
        assert offset is not None, "what is marked is in the index"
        found = _parse(adapter, file.at(offset), file.path, f"offset {offset}")
        if (found.case_id, found.sample) != place:
            raise RunStoreError(
                f"{file.path} was changed while it was in use",
                expected=f"{place[0]}, sample {place[1]}, at offset {offset}",
                found=f"{found.case_id}, sample {found.sample}",
                mend="run the same command again",
            )
        return found


def _key_number(key: str) -> int:
    """What the index knows a key by: 63 bits of a digest; two keys that share them are told apart by the record itself."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) >> 1


def _parse_line(adapter: TypeAdapter[T], line: Line, file: JsonLines) -> T:
    return _parse(adapter, line.data, file.path, line.number)


def _parse(adapter: TypeAdapter[T], data: bytes, path: Path, where: int | str) -> T:
    try:
        record = adapter.validate_json(data)
        if not 0 <= record.sample < MAX_SAMPLES:
            raise ValueError(f"sample {record.sample}")
    except ValueError as error:  # pydantic's is one
        raise RunStoreError(
            f"{path}:{where} is damaged",
            expected=f"one record a line, of sample 0 to {MAX_SAMPLES - 1}",
            found=repr(data[:60]),
            mend="remove that line and run the same command again",
        ) from error
    return record
