"""A safetensors file's header, read without trusting it: a path comes in, tensors' names, dtypes and shapes go out, or why not.

The format (huggingface/safetensors, README "Format"): 8 bytes little-endian header length, a JSON header, the buffer. Every byte
of the buffer belongs to exactly one tensor. The safetensors package checks much of this when a file is loaded; the gate checks
it before anything is loaded, and needs the shapes to compare an adapter with its base.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

from gate.records import Record

MAX_HEADER = 100_000_000
"""Bytes; the format's own limit on the header."""
MAX_DIMENSIONS = 64
MAX_EXTENT = 2**63 - 1

DTYPE_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


class TensorInfo(Record):
    """One tensor as the header declares it."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int
    """Byte range in the buffer, end excluded."""


class HeaderError(ValueError):
    """The header does not describe the file it stands in; the message says how."""


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Name → tensor of the safetensors file at `path`. Raises HeaderError for any lie, OSError when the file can't be read."""
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        prefix = stream.read(8)
        if len(prefix) < 8:
            raise HeaderError(f"the file has {size} bytes; a header length alone takes 8")
        length = int.from_bytes(prefix, "little")
        if length > MAX_HEADER:
            raise HeaderError(f"the header claims {length} bytes; the format allows {MAX_HEADER}")
        if 8 + length > size:
            raise HeaderError(f"the header claims {length} bytes; the file has {size - 8} after the length")
        raw = stream.read(length)
    return parse_header(raw, size - 8 - length)


def parse_header(raw: bytes, buffer_size: int) -> dict[str, TensorInfo]:
    """Name → tensor of a header's bytes over a buffer of `buffer_size` bytes. Raises HeaderError."""
    if not raw.startswith(b"{"):
        raise HeaderError("the header does not begin with '{'")
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except HeaderError:
        raise
    except (ValueError, RecursionError) as error:
        raise HeaderError(f"the header is not JSON ({type(error).__name__})") from error
    _check_metadata(header.pop("__metadata__", {}))
    tensors = {name: _tensor(name, entry) for name, entry in header.items()}
    _check_layout(tensors, buffer_size)
    return tensors


def _short(name: str) -> str:
    # A name may be as long as the header and hold anything; a message may not.
    return ascii(name[:80])


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise HeaderError(f"the header names {_short(twice)} twice")
    return found


def _check_metadata(metadata: object) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise HeaderError("__metadata__ is not a map of strings")


def _extent(value: object) -> bool:
    # bool is an int to Python, and not an extent.
    return type(value) is int and 0 <= value <= MAX_EXTENT


def _tensor(name: str, entry: object) -> TensorInfo:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise HeaderError(f"the entry of {_short(name)} is not dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise HeaderError(f"{_short(name)} has the unknown dtype {_short(str(dtype))}")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(map(_extent, shape)):
        raise HeaderError(f"{_short(name)} has a shape that is none")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_extent, offsets)) or offsets[0] > offsets[1]:
        raise HeaderError(f"{_short(name)} has data_offsets that are no range")
    declared = math.prod(shape) * DTYPE_BITS[dtype]
    if declared != 8 * (offsets[1] - offsets[0]):
        raise HeaderError(
            f"{_short(name)}: {dtype} {shape} takes {declared / 8:g} bytes; data_offsets give {offsets[1] - offsets[0]}"
        )
    return TensorInfo(dtype=dtype, shape=tuple(shape), begin=offsets[0], end=offsets[1])


def _check_layout(tensors: dict[str, TensorInfo], buffer_size: int) -> None:
    position = 0
    for name, tensor in sorted(tensors.items(), key=lambda pair: (pair[1].begin, pair[1].end)):
        if tensor.end > buffer_size:
            raise HeaderError(f"{_short(name)} ends at byte {tensor.end} of a buffer of {buffer_size}")
        if tensor.begin != position:
            what = "overlaps the tensor before it" if tensor.begin < position else "leaves a hole before it"
            raise HeaderError(f"{_short(name)} {what}: begins at {tensor.begin}, expected {position}")
        position = tensor.end
    if position != buffer_size:
        raise HeaderError(f"{buffer_size - position} bytes after the last tensor belong to none")
