"""A suite on disk: `suite.json` beside a file with one item per line; a folder comes in, a `Suite` goes out, and back.

    suite.json   {"format": "taskgate/suite/v1", "name", "version", "languages", "system_prompt",
                 "items", "items_sha256", "counts"}
    items.jsonl  one `SuiteItem` as JSON per line, fields at their default left out; or items.jsonl.gz

`items_sha256` is taken of the uncompressed lines, so recompressing a file changes nothing. Writing is deterministic: the
same suite gives the same bytes. Whatever is wrong is a `SuiteError` that names the file and the line.
"""

from __future__ import annotations

import difflib
import gzip
import json
import zlib
from collections import Counter
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from gate.errors import SuiteError
from gate.records import Record, SuiteItem, canonical_json, sha256_hex
from gate.suites.base import Suite

FORMAT = "taskgate/suite/v1"
HEADER_FILE = "suite.json"
MAX_BYTES = 1 << 30
"""Largest items file read, uncompressed: a guard against a file that unpacks without end."""


class SuiteHeader(Record):
    """What `suite.json` says."""

    format: Literal["taskgate/suite/v1"]
    name: str = Field(min_length=1)
    version: str = Field(min_length=1)
    languages: tuple[str, ...]
    system_prompt: str = Field(min_length=1)
    items: Literal["items.jsonl", "items.jsonl.gz"]
    items_sha256: str
    """SHA-256 of the uncompressed items file."""
    counts: dict[str, int] = Field(default_factory=dict)
    """`items`, `behaviours`, and items per task, role and split; checked on reading."""


def read_suite(folder: Path) -> Suite:
    """The suite in `folder`, digest and counts checked. Raises `SuiteError`."""
    header = _read_header(folder / HEADER_FILE)
    path = folder / header.items
    data = _read_bytes(path)
    found = sha256_hex(data)
    if found != header.items_sha256:
        raise SuiteError(
            f"{path}: the items are not those that {HEADER_FILE} names",
            expected=f"SHA-256 {header.items_sha256}",
            found=f"SHA-256 {found}",
            mend="restore the file, or write the suite again with `gate suite build`",
        )
    items = parse_items(data, str(path))
    _check_counts(folder / HEADER_FILE, header.counts, count_items(items))
    return Suite(
        name=header.name,
        version=header.version,
        languages=header.languages,
        system_prompt=header.system_prompt,
        items=items,
    )


def write_suite(suite: Suite, folder: Path, *, compress: bool = False) -> Path:
    """Write `suite` into `folder` (made if need be); the same suite gives the same bytes. Returns the header's path.

    Raises `SuiteError` for a suite that could not be read back, and whatever `OSError` the disk gives.
    """
    check_unique(suite.items, suite.name)
    folder.mkdir(parents=True, exist_ok=True)
    data = b"".join(canonical_json(item.model_dump(mode="json", exclude_defaults=True)) + b"\n" for item in suite.items)
    header = SuiteHeader(
        format="taskgate/suite/v1",
        name=suite.name,
        version=suite.version,
        languages=suite.languages,
        system_prompt=suite.system_prompt,
        items="items.jsonl.gz" if compress else "items.jsonl",
        items_sha256=sha256_hex(data),
        counts=count_items(suite.items),
    )
    for stale in {"items.jsonl", "items.jsonl.gz"} - {header.items}:
        (folder / stale).unlink(missing_ok=True)
    # A fixed modification time keeps the gzip header, hence the file, the same on every write.
    (folder / header.items).write_bytes(gzip.compress(data, mtime=0) if compress else data)
    path = folder / HEADER_FILE
    path.write_text(json.dumps(header.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def count_items(items: tuple[SuiteItem, ...]) -> dict[str, int]:
    """`items`, `behaviours`, and the number of items per task, role and split."""
    counts: Counter[str] = Counter()
    for item in items:
        counts.update((item.task.value, item.role.value, item.split.value))
    return {"items": len(items), "behaviours": len({item.behaviour for item in items}), **dict(sorted(counts.items()))}


def parse_items(data: bytes, where: str) -> tuple[SuiteItem, ...]:
    """The items in JSON lines; `where` names the file in errors. Raises `SuiteError` with the line."""
    items = tuple(
        _parse_line(line, f"{where}:{number}") for number, line in enumerate(data.splitlines(), start=1) if line.strip()
    )
    check_unique(items, where, lines=True)
    return items


def check_unique(items: tuple[SuiteItem, ...], where: str, *, lines: bool = False) -> None:
    """Refuse an empty suite, an id that occurs twice, and a prompt that a task asks twice in one role. Raises `SuiteError`."""
    if not items:
        raise SuiteError(f"{where}: the suite has no items", expected="at least one item", found="none", mend="add items")
    ids: dict[str, int] = {}
    prompts: dict[tuple[str, ...], int] = {}
    for number, item in enumerate(items, start=1):
        place = f"{where}:{number}" if lines else f"{where}: item {number}"
        if (first := ids.setdefault(item.id, number)) != number:
            raise SuiteError(
                f"{place}: the id occurs twice",
                expected="one item per id",
                found=f"{item.id!r}, first in item {first}",
                mend="give one of them another id",
            )
        prompt = (item.task, item.role, item.prefill, *(text for turn in item.messages for text in (turn.role, turn.content)))
        if (first := prompts.setdefault(prompt, number)) != number:
            raise SuiteError(
                f"{place}: the same prompt occurs twice in one task and role",
                expected="different messages or prefill",
                found=f"{item.id!r} asks what item {first} ({items[first - 1].id!r}) asks",
                mend="drop one of them: a repeated question counts as evidence twice",
            )


def _read_bytes(path: Path) -> bytes:
    """The file's bytes, unpacked when its name ends in .gz."""
    try:
        if path.suffix != ".gz":
            data = path.read_bytes()
        else:
            with gzip.open(path) as stream:
                data = stream.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise SuiteError(
            f"{path}: cannot be read", expected="a readable file", found=str(error), mend="restore the file"
        ) from error
    if len(data) > MAX_BYTES:
        raise SuiteError(f"{path}: too large", expected=f"at most {MAX_BYTES} bytes", found="more", mend="split the suite")
    return data


def _read_header(path: Path) -> SuiteHeader:
    """`suite.json`, every key known and of its type."""
    raw = parse_object(_read_bytes(path), str(path))
    if raw.get("format") != FORMAT:
        raise SuiteError(
            f"{path}: not a suite format that this version reads",
            expected=FORMAT,
            found=repr(raw.get("format")),
            mend="write the suite again with this version's `gate suite build`",
        )
    try:
        return SuiteHeader.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        raise _invalid(error, str(path), tuple(SuiteHeader.model_fields)) from error


def parse_object(data: bytes, where: str) -> dict[str, object]:
    """The JSON object in `data`; anything else is a `SuiteError` that names `where`."""
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SuiteError(f"{where}: not JSON", expected="a JSON object", found=str(error), mend="mend or rewrite it") from error
    if not isinstance(raw, dict):
        raise SuiteError(f"{where}: not a JSON object", expected="an object", found=type(raw).__name__, mend="mend or rewrite it")
    return raw


def _parse_line(line: bytes, where: str) -> SuiteItem:
    try:
        return SuiteItem.model_validate_json(line)
    except ValidationError as error:
        parse_object(line, where)  # JSON that does not parse gets the plainer error
        raise _invalid(error, where, tuple(SuiteItem.model_fields)) from error


def _invalid(error: ValidationError, where: str, known: tuple[str, ...]) -> SuiteError:
    """The first thing pydantic found, in this project's words; an unknown key names the nearest known one."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        mend = f"did you mean {near[0]!r}?" if near else f"the known keys are {', '.join(known)}"
        return SuiteError(f"{where}: unknown key {field!r}", expected="known keys only", found=repr(field), mend=mend)
    if first["type"] == "missing":
        return SuiteError(f"{where}: {field!r} is missing", expected=field, found="nothing", mend=f"add {field!r}")
    return SuiteError(
        f"{where}: {field!r} is not valid", expected=first["msg"], found=repr(first["input"])[:200], mend=f"mend {field!r}"
    )


def _check_counts(path: Path, stated: dict[str, int], counted: dict[str, int]) -> None:
    """Counts stated in the header must be those of the items."""
    for key, number in stated.items():
        if counted.get(key, 0) != number:
            raise SuiteError(
                f"{path}: counts.{key} is not what the items hold",
                expected=f"{counted.get(key, 0)}",
                found=f"{number}",
                mend="write the suite again with `gate suite build`",
            )
