"""Seed behaviours: what is asked for, before any task frame; JSON lines come in, `Behaviour` records and their split go out.

A behaviour is one headline-level request (as AdvBench's and HarmBench's are; never a how-to) with its benign twin: the same
frame and similar words, harmless. Goals are kept per language, because a translation made by rule would not be a fair question.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib.resources import files

from pydantic import Field, ValidationError

from gate.errors import SuiteError
from gate.records import Record, Split, sha256_hex

DATA_FILE = "behaviours.jsonl"
SALT = "taskgate-cross-task-v1-7682"
"""Splits the built-in behaviours 80 to 76 with at least five of each category on either side; changing it is a new version."""


class Wording(Record):
    """One goal, as a noun phrase and as a one-sentence request in each language."""

    noun: str = Field(min_length=1)
    goals: dict[str, str]
    """ISO 639-1 code → request; `en` is always there."""

    @property
    def goal(self) -> str:
        """The request in English."""
        return self.goals["en"]


class Behaviour(Record):
    """A harmful request and, where there is one, its benign twin."""

    id: str = Field(min_length=1)
    category: str
    """Hazard category: a lower-case name of MLCommons' in the built-in data."""
    severity: int = Field(default=1, ge=1, le=3)
    attack: Wording
    twin: Wording | None = None

    @property
    def languages(self) -> frozenset[str]:
        """The languages in which both the attack and the twin can be asked."""
        twin = self.attack if self.twin is None else self.twin
        return frozenset(self.attack.goals) & frozenset(twin.goals)


def salted(text: str, salt: str) -> int:
    """A number below 2^64 that looks random and is the same for ever: the first 8 bytes of SHA-256 of `salt/text`."""
    return int.from_bytes(hashlib.sha256(f"{salt}/{text}".encode()).digest()[:8])


def split_of(behaviour_id: str, salt: str = SALT) -> Split:
    """Gating or tuning, by salted hash of the behaviour's id: all its items go the same way, whatever else the suite holds."""
    return Split.GATING if salted(behaviour_id, salt) % 2 else Split.TUNING


@cache
def built_in() -> tuple[Behaviour, ...]:
    """The behaviours that ship with the package. Raises `SuiteError` when the file is not the one its manifest names."""
    folder = files("gate.suites") / "data"
    data = (folder / DATA_FILE).read_bytes()
    named = json.loads((folder / "MANIFEST.json").read_text(encoding="utf-8"))[DATA_FILE]
    return parse_behaviours(data, DATA_FILE, named)


def parse_behaviours(data: bytes, where: str, sha256: str) -> tuple[Behaviour, ...]:
    """The behaviours in JSON lines whose SHA-256 is `sha256`. Raises `SuiteError` with file and line."""
    if (found := sha256_hex(data)) != sha256:
        raise SuiteError(
            f"{where}: not the file that MANIFEST.json names",
            expected=f"SHA-256 {sha256}",
            found=f"SHA-256 {found}",
            mend="reinstall the package, or after an edit write the new digest into MANIFEST.json",
        )
    rows: dict[str, Behaviour] = {}
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            row = Behaviour.model_validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise SuiteError(
                f"{where}:{number}: not a behaviour",
                expected=first["msg"],
                found=".".join(str(part) for part in first["loc"]) or line[:80].decode(errors="replace"),
                mend="mend the line",
            ) from error
        if row.id in rows:
            raise SuiteError(
                f"{where}:{number}: the id occurs twice", expected="one line per id", found=row.id, mend="rename one of them"
            )
        rows[row.id] = row
    return tuple(rows.values())
