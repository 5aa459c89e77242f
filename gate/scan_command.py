"""`gate scan`, which looks at a candidate's files and loads nothing; and the file of `gate check --sarif`.

In: a source, or what a command's scans find. Out: the findings as text or SARIF. Called by `cli` and `check_options`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import quote

import typer

from gate.errors import ExitCode, GateError, UnsafeCandidateError

if TYPE_CHECKING:
    from gate.scan_finding import ScanFinding
    from gate.scan_sarif import Scanned

Sarif = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write what the scan of the files found as SARIF 2.1.0, refused or not.")
]


class ScanLog:
    """What the scans of a command's sources find, in the order in which the sources are scanned."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[str, list[ScanFinding]]] = {}

    def notes(self, name: str, source: str) -> list[ScanFinding]:
        """A list to which the scan of a source adds its findings; `name`: candidate or baseline."""
        return self.found.setdefault(name, (source, []))[1]

    def sarif(self, *, complete: bool) -> str:
        """The log as SARIF; `complete` is about the last source, since an error ends a command there."""
        from gate.pipeline import tool_version
        from gate.scan_sarif import Scanned, render_sarif

        last = next(reversed(self.found), "")
        scans: Sequence[Scanned] = [
            Scanned(name=name, place=place_of(source), findings=tuple(notes), complete=complete or name != last)
            for name, (source, notes) in self.found.items()
        ]
        return render_sarif(scans, tool_version())


@contextmanager
def written(file: Path | None) -> Iterator[ScanLog]:
    """A scan log that is written to `file` at the end, also of a refusal or another error, which goes on; null: not at all."""
    from gate.json_lines import write_whole

    log = ScanLog()
    try:
        yield log
    except GateError as error:
        if file is not None:
            write_whole(file, log.sarif(complete=isinstance(error, UnsafeCandidateError)).encode())
        raise
    if file is not None:
        write_whole(file, log.sarif(complete=True).encode())


def place_of(source: str) -> str:
    """The URI of a source's folder: relative where it lies in the working directory, as code scanning wants; else absolute."""
    if "://" in source:
        return source.rstrip("/") + "/"
    folder = Path(source).expanduser().resolve()
    here = Path.cwd().resolve()
    if folder == here:
        return ""
    # As bytes: a path may hold some that are no UTF-8.
    return f"{quote(os.fsencode(folder.relative_to(here)))}/" if folder.is_relative_to(here) else f"{folder.as_uri()}/"


def scan(
    candidate: Annotated[str, typer.Argument(help="Model folder, adapter folder or hf://org/name@revision.")],
    base: Annotated[str | None, typer.Option(help="Base model of an adapter (default: the one its config names).")] = None,
    format_: Annotated[Literal["text", "sarif"], typer.Option("--format", "-f", help="Form of the findings.")] = "text",
) -> None:
    """Look at a candidate's files without loading it: what `gate check` would refuse. Exit code 0: nothing, 3: refused."""
    from gate.candidate import load_candidate

    log = ScanLog()
    notes = log.notes("candidate", candidate)
    refused = False
    digest = ""
    try:
        digest = load_candidate(candidate, base=base, notes=notes).digest
    except UnsafeCandidateError:
        if not any(finding.severity == "refuse" for finding in notes):
            raise  # changed while it was read: no finding says so
        refused = True
    print(log.sarif(complete=True) if format_ == "sarif" else _text(notes, digest), end="")
    raise typer.Exit(ExitCode.BLOCK if refused else ExitCode.PASS)


def _text(notes: Sequence[ScanFinding], digest: str) -> str:
    """Every finding in two lines, and one line for what they come to."""
    lines = [f"{f.severity}  {f.file}: {f.reason} [{f.rule}]\n        to mend: {f.mend}" for f in notes]
    refusals = sum(finding.severity == "refuse" for finding in notes)
    count = f"{refusals} to refuse, {len(notes) - refusals} to warn of"
    lines.append(f"REFUSED: {count}" if refusals else f"nothing to refuse, {len(notes)} to warn of; digest {digest}")
    return "\n".join(lines) + "\n"
