"""One thing that must not be loaded, and the refusal that lists them: findings come in, an UnsafeCandidateError goes out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from gate.errors import UnsafeCandidateError
from gate.records import Record

SHOWN = 20
"""Findings that a refusal spells out."""


OF_BASE = "base: "
"""What the name of a file of an adapter's base begins with."""


class ScanFinding(Record):
    """One thing that the scan found in one file."""

    file: str
    """Relative to the folder, with forward slashes; unprintable characters escaped."""
    rule: str
    reason: str
    mend: str
    severity: Literal["refuse", "warn"] = "refuse"

    def sentence(self) -> str:
        """`file: reason; to mend: …`."""
        return f"{self.file}: {self.reason}; to mend: {self.mend}"


def refuse(findings: Iterable[ScanFinding]) -> None:
    """Raise UnsafeCandidateError naming each file, reason and mend (of the first 20), if any finding refuses; else return."""
    refused = [finding for finding in findings if finding.severity == "refuse"]
    if not refused:
        return
    lines = [f"- {finding.file}: {finding.reason}\n      to mend: {finding.mend}" for finding in refused[:SHOWN]]
    if len(refused) > SHOWN:
        lines.append(f"- and {len(refused) - SHOWN} more")
    raise UnsafeCandidateError(
        f"the candidate is refused: {len(refused)} finding{'s' if len(refused) > 1 else ''}",
        expected="safetensors weights, plain JSON configuration, a tokenizer and a chat template; no pickle, code or link",
        found="\n    " + "\n    ".join(lines),
        mend="do what each line says, then check again (docs/candidates.md explains every rule)",
    )


def shown(name: str) -> str:
    """A file name fit for a terminal and a report."""
    return name if name.isprintable() else ascii(name)[1:-1]
