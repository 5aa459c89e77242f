"""One run as history records it: a run folder comes in, whole or purged, and an `Entry` goes out."""

from __future__ import annotations

from pathlib import Path

from gate.errors import RunStoreError
from gate.policy import Policy
from gate.records import Candidate, Record, Verdict, canonical_json, sha256_hex
from gate.run_store import RunHeader, no_run_folder, read_record, read_telemetry
from gate.standing import Standing, checked_name, standing_of


class Entry(Record):
    """A run to record."""

    id: str
    """SHA-256 over what the run is about and when it began: the same run folder has the same id wherever it lies.

    The judge is left out, so that a run which is judged again stays one run, with its newest verdict.
    """
    standing: Standing
    candidate: Candidate
    verdict_json: str
    """The text of verdict.json."""
    folder: str


def read_entry(folder: Path, model: str = "") -> Entry:
    """The run in `folder`, under the name `model` where one is given. Refused: a run that has no verdict."""
    if not (folder / "run.json").is_file():
        raise no_run_folder(folder)
    header = read_record(folder / "run.json", RunHeader)
    if header.identity.shard:
        raise RunStoreError(
            f"{folder} holds shard {header.identity.shard} of a run, which has no verdict",
            expected="the folder of a whole run, or of a merged one",
            mend="merge the shards: gate merge OUT SHARD..., then import OUT",
        )
    if not (folder / "verdict.json").is_file():
        raise RunStoreError(f"{folder} has no verdict yet", mend="run its gate check again: it resumes")
    verdict = read_record(folder / "verdict.json", Verdict)
    candidate = read_record(folder / "candidate.json", Candidate)
    telemetry = read_telemetry(folder)
    standing = standing_of(verdict, candidate, read_record(folder / "policy.json", Policy), telemetry)
    if verdict.candidate_digest != candidate.digest:
        raise RunStoreError(
            f"{folder}: verdict.json is not about the candidate in candidate.json",
            expected=candidate.digest[:16],
            found=verdict.candidate_digest[:16],
            mend="run gate decide on the folder",
        )
    begun = str(telemetry.begun_at) if telemetry else header.begun_on
    about = header.identity.model_dump(mode="json", exclude={"judge"})
    return Entry(
        id=sha256_hex(canonical_json([about, begun])),
        standing=standing.model_copy(update={"model": checked_name(model)}) if model else standing,
        candidate=candidate,
        verdict_json=(folder / "verdict.json").read_text(encoding="utf-8"),
        folder=str(folder.resolve()),
    )
