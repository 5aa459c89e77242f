"""Files of a run folder that a kill or a full disk leaves whole: lines of JSON that grow, and files replaced at once.

In: records or bytes, and a path. Out: files of mode 0600. What can't be written is an `InfrastructureError`; none of it stays.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from gate.errors import InfrastructureError
from gate.records import Record

_FLUSH_AT = 1 << 20
"""Bytes gathered before a write of many lines goes to the file."""


class Line(NamedTuple):
    """One whole line of a file."""

    number: int
    """From 1."""
    offset: int
    """Bytes before it."""
    data: bytes
    """With its newline."""


class JsonLines:
    """An append-only file of records: a batch is written at once, or not at all; synced with it or by a later one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Iterator[Line]:
        """Every line that is whole when reading begins: neither an unfinished last one nor what is added meanwhile."""
        if not self.path.exists():
            return
        offset = 0
        with self.path.open("rb") as file:
            end = os.fstat(file.fileno()).st_size
            for number, line in enumerate(file, start=1):
                if offset + len(line) > end or not line.endswith(b"\n"):
                    return
                yield Line(number, offset, line)
                offset += len(line)

    def at(self, offset: int) -> bytes:
        """The line that begins at an offset."""
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.readline()

    def mend(self) -> int:
        """Cut off an unfinished last line (a write that a kill interrupted); returns the bytes removed."""
        if not self.path.exists():
            return 0
        with self.path.open("rb+") as file:
            data_end = file.seek(0, os.SEEK_END)
            keep = _end_of_last_line(file.fileno(), data_end)
            file.truncate(keep)
        return data_end - keep

    def append(self, records: Sequence[Record], *, sync: bool = True) -> list[int]:
        """Write a batch, and sync all that was written so far where told to; returns the offset of each record.

        What is written outlives the process, what is synced the machine's power. On a full disk nothing of the batch stays and
        `InfrastructureError` is raised.
        """
        if not records:
            return []
        lines = list(map(json_line, records))
        data = b"".join(lines)
        descriptor = size = -1
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            size = os.fstat(descriptor).st_size
            written = 0
            while written < len(data):
                written += os.write(descriptor, data[written:])
            if sync:
                os.fsync(descriptor)
        except OSError as error:
            if size >= 0:
                with suppress(OSError):  # what is left of the batch is a torn line, cut at the next opening
                    os.ftruncate(descriptor, size)
            raise disk_failed(self.path, error) from error
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        offsets = [size]
        for line in lines[:-1]:
            offsets.append(offsets[-1] + len(line))
        return offsets

    def size(self) -> int:
        """Bytes in the file; 0 where there is none."""
        return self.path.stat().st_size if self.path.exists() else 0

    def cut(self, size: int) -> None:
        """Remove what stands behind the first `size` bytes, for good: the disk keeps it so."""
        if self.size() <= size:
            return
        try:
            with self.path.open("rb+") as file:
                file.truncate(size)
                os.fsync(file.fileno())
        except OSError as error:
            raise disk_failed(self.path, error) from error

    def sync(self) -> None:
        """Have the disk keep what was appended."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return
        try:
            os.fsync(descriptor)
        except OSError as error:
            raise disk_failed(self.path, error) from error
        finally:
            os.close(descriptor)


def write_whole(path: Path, data: bytes | Iterable[bytes]) -> Path:
    """Write a file so that it is there whole or not at all (temporary file, fsync, rename); pieces are written as they come."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A new file: not through a link that somebody left in a shared folder, nor into a file that others may read.
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb", buffering=_FLUSH_AT) as file:
            for piece in (data,) if isinstance(data, bytes) else data:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:  # a piece may fail to come as well: then, too, the old file stays and the new one goes
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise disk_failed(path, error) from error
        raise
    return path


def json_line(record: Record) -> bytes:
    """One record as a line of JSON."""
    return record.model_dump_json().encode() + b"\n"


def disk_failed(path: Path, error: Exception) -> InfrastructureError:
    """The disk is full or refuses: nothing is lost, and the same command resumes."""
    return InfrastructureError(
        f"{path} cannot be written",
        found=getattr(error, "strerror", None) or str(error),
        mend="free the disk or mend its permissions, then run the same command again",
    )


def _end_of_last_line(descriptor: int, end: int) -> int:
    """Offset just after the last newline before `end`."""
    block = 65_536
    while end > 0:
        start = max(0, end - block)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
