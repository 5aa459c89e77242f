"""What a folder holds: a path comes in; every file with size and SHA-256, and one root digest over them, go out.

The root digest is the one that model-signing's signature names as its subject, computed with hashlib: the library takes seconds
to import and reports neither sizes nor progress. A test compares the two. Needs nothing but the standard library and pydantic,
so that a deployment can check a folder without the gate's other dependencies.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from gate.errors import InfrastructureError
from gate.records import ManifestFile, sha256_hex
from gate.scan_finding import ScanFinding, refuse, shown

GIT_PATHS = frozenset({".git", ".github", ".gitattributes", ".gitignore"})
"""Top-level paths that model-signing's manifest ignores."""
SIGNATURE = "model.sig"
"""model-signing's default signature; when it lies at the top of the folder, model-signing leaves it out of what it signs."""
_CHUNK = 1024 * 1024

Progress = Callable[[int], None]
"""Is told the number of bytes hashed since the last call, from several threads."""


def root_digest(path: Path) -> str:
    """The folder's root digest, hexadecimal SHA-256: what model-signing's signature of it names as its subject."""
    return manifest(path)[1]


def manifest(path: Path, *, progress: Progress | None = None) -> tuple[tuple[ManifestFile, ...], str]:
    """Every file with size and SHA-256, in order of path components, and the root digest over their digests.

    Left out, as model-signing does: git's own paths and a `model.sig` at the top. Everything else counts. Raises
    UnsafeCandidateError for a link or special file, InfrastructureError when a file can't be read.
    """
    try:
        entries = list(walk(path))
        refuse(_irregular(entries))
        names = sorted((name for name, _ in entries if name != SIGNATURE), key=lambda name: PurePosixPath(name).parts)
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            files = tuple(pool.map(lambda name: _hash(path, name, progress), names))
    except OSError as error:
        raise InfrastructureError(f"{path} can't be read: {error}", mend="make the folder readable and run again") from error
    return files, digest_of(files)


def digest_of(files: Iterable[ManifestFile]) -> str:
    """The root digest of a folder with these files, in `manifest`'s order."""
    return sha256_hex(b"".join(bytes.fromhex(file.sha256) for file in files))


def _hash(folder: Path, name: str, progress: Progress | None) -> ManifestFile:
    hasher = hashlib.sha256()
    size = 0
    with (folder / name).open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            hasher.update(chunk)
            size += len(chunk)
            if progress is not None:
                progress(len(chunk))
    return ManifestFile(path=name, size=size, sha256=hasher.hexdigest())


def file_digest(folder: Path, name: str) -> ManifestFile:
    """Size and SHA-256 of one file of the folder."""
    return _hash(folder, name, None)


def walk(folder: Path) -> Iterator[tuple[str, int]]:
    """(relative path, mode) of everything but directories and git's own paths, links not followed, in sorted order."""
    pending = [""]
    found: list[tuple[str, int]] = []
    while pending:
        inside = pending.pop()
        with os.scandir(folder / inside) as entries:
            for entry in entries:
                name = f"{inside}/{entry.name}" if inside else entry.name
                if name in GIT_PATHS:
                    continue
                mode = entry.stat(follow_symlinks=False).st_mode
                if stat.S_ISDIR(mode):
                    pending.append(name)
                else:
                    found.append((name, mode))
    yield from sorted(found)


def odd_entry(name: str, mode: int) -> Iterator[ScanFinding]:
    """What is wrong with an entry by its name and kind alone: nothing of a plain file with a plain name."""
    if not name.isprintable() or ".." in PurePosixPath(name).parts or "\\" in name or name.startswith("/"):
        yield _finding(name, "name", "a file name with control characters, backslashes or `..`", "rename the file")
    if stat.S_ISLNK(mode):
        mend = "copy the folder with its links resolved (`cp -rL`), or give the model as hf://org/name@commit"
        yield _finding(name, "link", "a symbolic link: what it leads to is not in the folder's digest", mend)
    elif not stat.S_ISREG(mode):
        yield _finding(name, "special", "a device, pipe or socket, not a file", "remove it")


def _irregular(entries: Iterable[tuple[str, int]]) -> tuple[ScanFinding, ...]:
    """The links and special files among `walk`'s entries."""
    return tuple(f for name, mode in entries if not stat.S_ISREG(mode) for f in odd_entry(name, mode))


def _finding(name: str, rule: str, reason: str, mend: str) -> ScanFinding:
    return ScanFinding(file=shown(name), rule=rule, reason=reason, mend=mend)
