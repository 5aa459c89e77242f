"""What a known-answer case is and what running it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from gate.conformance.scene import Scene
from gate.records import Record

Kind = Literal["known defect", "known rate"]


class Observation(Record):
    """What the gate answered in one case."""

    found: str
    """In the words of the case's `expected`."""
    right: bool
    detail: str
    """The figures behind it."""


class Result(Record):
    """One line of the table."""

    kind: Kind
    name: str
    seen: str
    """Where the defect was seen; empty for a known rate."""
    expected: str
    observed: str
    right: bool
    detail: str


@dataclass(frozen=True)
class Case:
    """One known-answer case: what happens, and what a gate must answer."""

    key: str
    """Names its folder and its test."""
    name: str
    seen: str
    expected: str
    play: Callable[[Scene], Observation]
    kind: Kind = "known defect"
