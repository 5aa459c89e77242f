"""Is a verdict what its evidence gives? A run folder comes in; the verdict recomputed from it, and how it differs, go out.

Everything is computed again from the stored judgements: the committed order, the walk of every cell, bounds, findings, decision.
Two things are labels and are taken from the stored verdict: the version of the program that decided, and the words for the limit
that ended the run early. Nothing in the folder is changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gate.errors import RunStoreError
from gate.pipeline import decided, tool_version, whole_run
from gate.policy import Policy
from gate.records import Candidate, Verdict
from gate.run_store import locked, pretty


@dataclass(frozen=True)
class Replay:
    """A run, decided again."""

    stored: bytes
    """verdict.json as it is."""
    verdict: Verdict
    """What the evidence gives."""
    decided_by: str
    """The version that the stored verdict names; this one, where it is not readable."""
    replayed_by: str
    policy: Policy
    candidate: Candidate

    @property
    def same(self) -> bool:
        """Whether the stored verdict is the recomputed one, byte for byte."""
        return self.stored == pretty(self.verdict)

    def differences(self) -> tuple[str, ...]:
        """Where they differ, as `place: stored → recomputed`."""
        try:
            stored = json.loads(self.stored)
        except ValueError:
            return ("verdict.json is no JSON",)
        found = tuple(_differences(stored, self.verdict.model_dump(mode="json"), ""))
        return found or (() if self.same else ("the same values, written otherwise",))


def replay(folder: Path) -> Replay:
    """Decide a run again from its folder. Raises what `gate decide` does, and RunStoreError where there is no verdict yet."""
    with locked(folder):
        store, cells = whole_run(folder)
        path = folder / "verdict.json"
        if not path.exists():
            raise RunStoreError(
                f"{folder} has no verdict yet", expected="verdict.json", mend="finish the run: gate check, or gate decide"
            )
        candidate = store.candidate()
        if candidate is None:
            raise RunStoreError(f"{folder} has no candidate.json", mend="restore it, or choose another --out")
        stored = path.read_bytes()
        version, stopped_by = _labels(stored)
        verdict = decided(store, cells, stopped_by).model_copy(update={"tool_version": version})
        return Replay(stored, verdict, version, tool_version(), store.policy(), candidate)


def _labels(stored: bytes) -> tuple[str, str]:
    """(version that decided, limit that ended the asking) of a stored verdict; this version and none where it can't be read."""
    try:
        verdict = Verdict.model_validate_json(stored)
    except ValueError:
        return tool_version(), ""
    cut = next((finding.observed for finding in verdict.findings if finding.rule == "run_limit"), "")
    return verdict.tool_version, cut.rpartition("; ")[0]


def _differences(stored: object, found: object, place: str) -> Iterator[str]:
    if isinstance(stored, dict) and isinstance(found, dict):
        for key in dict.fromkeys([*stored, *found]):
            yield from _differences(stored.get(key), found.get(key), f"{place}.{key}" if place else key)
    elif isinstance(stored, list) and isinstance(found, list) and len(stored) == len(found):
        for number, (ours, theirs) in enumerate(zip(stored, found, strict=True)):
            yield from _differences(ours, theirs, f"{place}[{number}]")
    elif stored != found or type(stored) is not type(found):
        yield f"{place}: {_short(stored)} → {_short(found)}"


def _short(value: object, most: int = 120) -> str:
    text = json.dumps(value)
    return text if len(text) <= most else f"{text[:most]}…"
