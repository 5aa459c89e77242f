"""What a file's bytes are, whatever its name says: its first bytes come in, a kind goes out. Nothing is unpickled or unpacked.

picklescan and its like list which *imports* of a pickle are dangerous; here any pickle is refused, so a look at the opcodes with
the standard library's pickletools (which reads and never runs them) is enough, and one dependency less.
"""

from __future__ import annotations

import ast
import io
import pickletools
from enum import StrEnum
from pathlib import Path

HEAD = 256 * 1024
"""Bytes of a file that are looked at."""


class Kind(StrEnum):
    """What must not be loaded, by content; OTHER is everything else."""

    PICKLE = "pickle"
    ARCHIVE = "archive"
    PROGRAM = "program"
    FORMAT = "format"
    LFS_POINTER = "lfs_pointer"
    OTHER = "other"


_ARCHIVES = (
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"\x1f\x8b",
    b"\xfd7zXZ\x00",
    b"\x28\xb5\x2f\xfd",
    b"\x04\x22\x4d\x18",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!\x1a\x07",
    b"x\x9c",
)
_PROGRAMS = (
    b"\x7fELF",
    b"\xfe\xed\xfa\xce",
    b"\xfe\xed\xfa\xcf",
    b"\xce\xfa\xed\xfe",
    b"\xcf\xfa\xed\xfe",
    b"\xca\xfe\xba\xbe",
    b"\0asm",
    b"#!",
)
_FORMATS = (b"\x89HDF\r\n\x1a\n", b"GGUF", b"GGML", b"lmgg", b"tjgg")
_NAMED_OPCODES = frozenset({"GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"})


def sniff(path: Path) -> Kind:
    """The kind of the file at `path` by its first 256 KiB. Raises OSError when it can't be read."""
    with path.open("rb") as stream:
        return sniff_bytes(stream.read(HEAD))


def sniff_bytes(head: bytes) -> Kind:
    """The kind of a file that begins with `head`."""
    if is_pickle(head):
        return Kind.PICKLE
    if head.startswith(b"\x93NUMPY"):
        return Kind.PICKLE if _holds_objects(head) else Kind.OTHER
    if head.startswith(_ARCHIVES) or head[257:262] == b"ustar" or (head.startswith(b"BZh") and head[4:10] == b"1AY&SY"):
        return Kind.ARCHIVE
    # "MZ" alone begins ordinary words; a Windows program has zero bytes behind it.
    if head.startswith(_PROGRAMS) or (head.startswith(b"MZ") and b"\0" in head[:64]):
        return Kind.PROGRAM
    if head.startswith(_FORMATS) or head[4:8] == b"TFL3":
        return Kind.FORMAT
    if head.startswith(b"version https://git-lfs"):
        return Kind.LFS_POINTER
    return Kind.OTHER


def is_pickle(head: bytes) -> bool:
    """Whether `head` begins a pickle: protocol 2 and later by their mark, older by opcodes that import and then STOP."""
    if len(head) > 1 and head[0] == 0x80 and 1 <= head[1] <= 5:
        return True
    named = False
    try:
        for opcode, _, _ in pickletools.genops(io.BytesIO(head)):
            named = named or opcode.name in _NAMED_OPCODES
    except (ValueError, IndexError, OverflowError, MemoryError, EOFError):
        return False
    return named


def _holds_objects(head: bytes) -> bool:
    """Whether a NumPy file's dtype holds Python objects, which NumPy keeps as a pickle. An unreadable header counts as yes."""
    start = 10 if head[6:7] == b"\x01" else 12
    length = int.from_bytes(head[8:start], "little")
    try:
        header = ast.literal_eval(head[start : start + length].decode("latin-1").strip())
        return not isinstance(header, dict) or "O" in repr(header["descr"])
    except (ValueError, SyntaxError, KeyError, TypeError, RecursionError, MemoryError):
        return True
