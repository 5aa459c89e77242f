"""Tables of a user's own: a CSV, JSON, JSON-lines or Parquet file comes in, rows of text with their line numbers go out.

Every cell becomes text (a missing one the empty string); what is not a flat table is a `SuiteError` with file and line.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from gate.errors import InfrastructureError, SuiteError


class Row(NamedTuple):
    """One row: where it stands, and its cells by column."""

    where: str
    """`file:line` (`file:row` for Parquet and JSON)."""
    cells: dict[str, str]


class Table(NamedTuple):
    """A file's columns and rows."""

    path: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def require(self, *columns: str) -> None:
        """Raise a `SuiteError` that names the nearest column when one of `columns` is missing."""
        for column in columns:
            if column not in self.columns:
                near = difflib.get_close_matches(column, self.columns, n=1, cutoff=0.4)
                raise SuiteError(
                    f"{self.path}: no column {column!r}",
                    expected=f"the columns {', '.join(columns)}",
                    found=", ".join(self.columns) or "no columns",
                    mend=f"the nearest is {near[0]!r}: rename it, or map it to {column!r}" if near else f"add {column!r}",
                )


def read_table(path: Path) -> Table:
    """The table in `path`, its format told by the name's ending. Raises `SuiteError`, naming the line."""
    readers = {".csv": _csv_rows, ".jsonl": _jsonl_rows, ".json": _json_rows, ".parquet": _parquet_rows}
    reader = readers.get(path.suffix.lower())
    if reader is None or not path.is_file():
        raise SuiteError(
            f"{path}: not a table that can be read",
            expected=f"a file ending in {', '.join(readers)}",
            found=("no such file" if not path.exists() else "a folder") if not path.is_file() else f"ending {path.suffix!r}",
            mend="check the path, or convert the file",
        )
    try:
        rows = tuple(Row(where, cells) for where, cells in reader(path))
    except OSError as error:
        raise InfrastructureError(f"{path}: cannot be read", found=str(error), mend="check the disk and try again") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise SuiteError(
            f"{path}: not readable as text in a table",
            expected="UTF-8, values below 131,072 characters",
            found=str(error),
            mend="save the file as UTF-8",
        ) from error
    if not rows:
        raise SuiteError(f"{path}: no rows", expected="at least one row", found="none", mend="check the file")
    columns = tuple(dict.fromkeys(column for row in rows for column in row.cells))
    return Table(str(path), columns, tuple(Row(row.where, dict.fromkeys(columns, "") | row.cells) for row in rows))


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    # utf-8-sig: spreadsheets put a byte-order mark in front, which would become a part of the first column's name.
    reader = csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""), strict=True)
    header = next(reader, [])
    if len(set(header)) != len(header):
        raise SuiteError(
            f"{path}:1: a column occurs twice", expected="different names", found=", ".join(header), mend="rename one"
        )
    line = reader.line_num + 1
    for values in reader:
        where, line = f"{path}:{line}", reader.line_num + 1
        if not values:
            continue
        if len(values) != len(header):
            raise SuiteError(
                f"{where}: the row does not fit the header",
                expected=f"{len(header)} values",
                found=f"{len(values)}",
                mend="quote values that hold commas or line breaks",
            )
        yield where, dict(zip(header, values, strict=True))


def _jsonl_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if line.strip():
            where = f"{path}:{number}"
            yield where, _cells(_json(line, where), where)


def _json_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    entries = _json(path.read_bytes(), str(path))
    if not isinstance(entries, list):
        raise SuiteError(
            f"{path}: not a list", expected="a list of objects", found=type(entries).__name__, mend="wrap it in a list"
        )
    for number, entry in enumerate(entries, start=1):
        yield f"{path}:row {number}", _cells(entry, f"{path}:row {number}")


def _json(data: bytes, where: str) -> object:
    try:
        value: object = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SuiteError(f"{where}: not JSON", expected="valid JSON", found=str(error), mend="mend the line") from error
    return value


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise SuiteError(
            f"{path}: Parquet needs pyarrow", expected="pyarrow", found="not installed", mend="pip install 'taskgate[data]'"
        ) from error
    data = pyarrow.BufferReader(path.read_bytes())  # pyarrow calls a damaged page an OSError: what the disk says is said before
    try:
        entries: Iterable[object] = pyarrow.parquet.read_table(data, page_checksum_verification=True).to_pylist()
    except (pyarrow.ArrowException, OSError, OverflowError, ValueError) as error:  # a date beyond the year 9999 overflows
        raise SuiteError(
            f"{path}: not Parquet, or damaged",
            expected="a whole Parquet file",
            found=str(error)[:300],
            mend="fetch or write the file again",
        ) from error
    for number, entry in enumerate(entries, start=1):
        yield f"{path}:row {number}", _cells(entry, f"{path}:row {number}")


def _cells(entry: object, where: str) -> dict[str, str]:
    """The entry's values as text. A nested value is kept as JSON: a column that nobody maps does no harm."""
    if not isinstance(entry, dict):
        raise SuiteError(f"{where}: not an object", expected="an object per row", found=type(entry).__name__, mend="mend the row")
    cells = {str(column): _text(value) for column, value in entry.items()}
    try:
        "".join(cells.values()).encode()
    except UnicodeEncodeError as error:
        raise SuiteError(
            f"{where}: half of a surrogate pair", expected="text", found=str(error), mend="mend the escape sequence"
        ) from error
    return cells


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str | int | float):
        return str(value)
    return json.dumps(value, ensure_ascii=False, default=str)
