"""The run folder: what one run is about, every answer and judgement as it comes, and the verdict.

    run.json            what the run is about; written once; another candidate, policy or suite is refused
    policy.json  candidate.json  baseline.json  suite/  utility.jsonl   the inputs, so that a stage can be re-entered from them
    overlap.json        how much of the items the candidate's training data holds, where its card says what it was
    candidate.responses.jsonl   baseline.responses.jsonl   one Response or NoResponse a line, appended, a sync every 64
    candidate.judgements.jsonl  baseline.judgements.jsonl  the same for judgements; written again whole by `gate judge`
    unverified.json     stands while a server is asked: how much of its log is verified; the rest counts nothing
    candidate.index.tmp  baseline.index.tmp   scratch of `answer_log`, without a name once it is open
    verdict.json  report.txt  report.md  report.html  report.json  junit.xml
    metrics.prom        the verdict's figures for Prometheus
    telemetry.json      the model's name in history and metrics, when the run began and ended, seconds of each stage
    attestation.intoto.jsonl  mlbom.cdx.json   what `gate attest` and `gate bom` said of the verdict

Killed at any moment the folder is whole but for an unfinished last line, which is cut off at the next opening. The folder holds
raw answers: its mode is 0700. One process at a time holds its lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeVar

from filelock import FileLock, Timeout
from pydantic import ValidationError

from gate.answer_log import AnswerLog, Side
from gate.contamination import Overlap
from gate.errors import RunStoreError
from gate.json_lines import disk_failed, write_whole
from gate.policy import Policy
from gate.records import Candidate, EngineInfo, Record, Verdict
from gate.standing import Telemetry

R = TypeVar("R", bound=Record)

REPORTS = ("report.txt", "report.md", "report.html", "report.json", "junit.xml")
ATTESTATION = "attestation.intoto.jsonl"
BOM = "mlbom.cdx.json"
UNVERIFIED = "unverified.json"
METRICS = "metrics.prom"
TELEMETRY = "telemetry.json"
OVERLAP = "overlap.json"
OURS = {
    METRICS,
    TELEMETRY,
    ".lock",
    "run.json",
    "policy.json",
    "candidate.json",
    "baseline.json",
    "suite",
    "utility.jsonl",
    OVERLAP,
    "verdict.json",
    UNVERIFIED,
    *REPORTS,
}
PURGED = "purged: the answers were removed by `gate purge`"


class RunIdentity(Record):
    """What a run folder is about. A folder of another identity is refused."""

    schema_version: Literal["taskgate/run/v1"] = "taskgate/run/v1"
    candidate_digest: str
    """Of candidate and base together."""
    baseline_digest: str = ""
    policy_digest: str
    suite_name: str
    suite_digest: str
    order_digest: str
    utility_digest: str = ""
    """Of the policy's utility set; empty without one."""
    judge: str
    """`name version digest`."""
    shard: str = ""
    """`i/n` in the folder of a shard, which holds a part of a run and never its verdict; empty in a whole run's."""


class RunHeader(Record):
    """`run.json`: the identity, and what was true when the run began."""

    identity: RunIdentity
    begun_on: str
    """Date (UTC); waivers' expiry is judged by it, so that a resumed run gives the verdict it would have given."""
    tool_version: str
    judge_calibrated: bool
    engine: EngineInfo | None = None
    """Filled in when the engine is loaded; a resume on another is refused."""


class Unverified(Record):
    """`unverified.json`: which side is being asked, and how much of its log came before the model was last verified."""

    schema_version: Literal["taskgate/unverified/v1"] = "taskgate/unverified/v1"
    side: Side
    responses: int
    """Bytes."""
    judgements: int
    """Bytes."""


class RunStore:
    """One run folder that `create_or_check` began."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "run.json").is_file():
            raise no_run_folder(folder)
        self.header = read_record(folder / "run.json", RunHeader)
        if (folder / "purged.json").exists():
            raise RunStoreError(
                f"{folder}: {PURGED}", mend="read the report.md or verdict.json in it, or run the check again in a new --out"
            )
        self.logs: dict[Side, AnswerLog] = {
            "candidate": AnswerLog(folder, "candidate"),
            "baseline": AnswerLog(folder, "baseline"),
        }

    def load(self) -> None:
        """Read all answers, and the judgements of the run's judge. Refused while answers are among them that may be another's."""
        if (self.folder / UNVERIFIED).exists():
            raise RunStoreError(
                f"{self.folder}: the asking ended before it was verified that the server still served the same model",
                expected="answers of the candidate alone",
                found=f"{UNVERIFIED}: answers that another model may have given",
                mend="run the folder's gate check again: it drops those answers and asks them anew",
            )
        for log in self.logs.values():
            log.load(self.header.identity.judge)

    def set_engine(self, engine: EngineInfo) -> None:
        """Record which engine answers. A run begun on another is refused: its answers would be lost, its verdict replaced."""
        begun = self.header.engine
        if begun is None:
            self.header = self.header.model_copy(update={"engine": engine})
            write_whole(self.folder / "run.json", pretty(self.header))
        elif begun != engine:
            raise RunStoreError(
                f"{self.folder} was begun on another engine",
                expected=" ".join(begun.model_dump().values()),
                found=" ".join(engine.model_dump().values()),
                mend="run it on the same engine, device and dtype, or choose another --out",
            )

    def mark_verified(self, side: Side) -> None:
        """Note that a side's log, as it is now, holds one model's answers alone; what comes next is unverified."""
        log = self.logs[side]
        log.sync()
        mark = Unverified(side=side, responses=log.responses.size(), judgements=log.judgements.size())
        self.write(UNVERIFIED, pretty(mark))

    def all_verified(self) -> None:
        """Note that every answer in the folder is the candidate's."""
        (self.folder / UNVERIFIED).unlink(missing_ok=True)

    def cut_unverified(self) -> None:
        """Remove what was added since `mark_verified`, if the mark stands; `load` afterwards. May be done again."""
        if not (self.folder / UNVERIFIED).exists():
            return
        mark = read_record(self.folder / UNVERIFIED, Unverified)
        self.drop_verdict()
        self.logs[mark.side].cut(mark.responses, mark.judgements)
        self.all_verified()

    def drop_verdict(self) -> None:
        """Remove the verdict, its reports and what was attested of it, before the evidence under them changes."""
        for name in ("verdict.json", METRICS, *REPORTS, ATTESTATION, BOM):
            (self.folder / name).unlink(missing_ok=True)

    def set_judge(self, label: str, *, calibrated: bool) -> None:
        """Record which judge the judgements are of (after `gate judge`)."""
        identity = self.header.identity.model_copy(update={"judge": label})
        self.header = self.header.model_copy(update={"identity": identity, "judge_calibrated": calibrated})
        write_whole(self.folder / "run.json", pretty(self.header))

    def policy(self) -> Policy:
        """The policy as it was when the run began."""
        return read_record(self.folder / "policy.json", Policy)

    def candidate(self, side: Side = "candidate") -> Candidate | None:
        """The candidate (or baseline) as it was when the run began; null for a side that is not there."""
        path = self.folder / f"{side}.json"
        return read_record(path, Candidate) if path.exists() else None

    def overlap(self) -> Overlap | None:
        """The overlap of the candidate's training data with the items; null where nothing says what it was."""
        path = self.folder / OVERLAP
        return read_record(path, Overlap) if path.exists() else None

    def set_overlap(self, found: Overlap | None) -> None:
        """Keep the overlap beside the inputs. Data that has gone since does not unmake a comparison that was made."""
        known = self.overlap()
        if found is None or found == known or (known is not None and known.compared and found.not_compared):
            return
        self.drop_verdict()
        self.write(OVERLAP, pretty(found))

    def verdict(self) -> Verdict:
        """The stored verdict."""
        return read_record(self.folder / "verdict.json", Verdict)

    def write(self, name: str, data: bytes) -> Path:
        """Write one file of the folder whole or not at all."""
        return write_whole(self.folder / name, data)

    def purge(self, reports: dict[str, bytes]) -> None:
        """Remove answers and everything that quotes them; keep verdict and header, and the given reports in place of the old.

        The mark comes last: a purge that was killed is finished by the next one.
        """
        for name in REPORTS:
            (self.folder / name).unlink(missing_ok=True)
        for name, data in reports.items():
            self.write(name, data)
        for log in self.logs.values():
            for path in (log.responses.path, log.judgements.path):
                path.unlink(missing_ok=True)
        self.all_verified()
        for path in self.folder.glob("*.tmp"):  # what a killed write left may quote answers too
            path.unlink(missing_ok=True)
        self.write("purged.json", b"{}\n")


def create_or_check(folder: Path, header: RunHeader, files: dict[str, bytes]) -> None:
    """Begin a run in `folder`, or check that the run in it is the same one.

    `files` are the inputs to keep; `run.json` is written last, so a folder with it is whole.
    """
    path = folder / "run.json"
    if path.exists():
        found = read_record(path, RunHeader).identity
        different = [n for n in RunIdentity.model_fields if getattr(found, n) != getattr(header.identity, n)]
        if different:
            raise RunStoreError(
                f"{folder} belongs to another run",
                expected=", ".join(f"{n}={getattr(header.identity, n)[:16]}" for n in different),
                found=", ".join(f"{n}={getattr(found, n)[:16]}" for n in different),
                mend="choose another --out (or leave it out: the default folder is named after candidate and policy)",
            )
        return
    for name in ("baseline.json", "utility.jsonl"):  # of a beginning that was killed, perhaps with these
        (folder / name).unlink(missing_ok=True)
    for name, data in files.items():
        write_whole(folder / name, data)
    write_whole(path, pretty(header))


def prepare_folder(folder: Path) -> None:
    """Make the run folder, private to its owner."""
    if folder.exists() and not folder.is_dir():
        raise RunStoreError(
            f"{folder} is no folder", expected="a run folder, or a name that is free", mend="choose another --out"
        )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        strange = sorted(p.name for p in folder.iterdir() if p.name.removesuffix(".tmp") not in OURS)
        if strange and not (folder / "run.json").exists():
            raise RunStoreError(
                f"{folder} is not empty and is no run folder",
                found=", ".join(strange[:5]),
                mend="choose another --out",
            )
        folder.chmod(0o700)
    except OSError as error:
        raise disk_failed(folder, error) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system gives back when the process dies; a second process is refused."""
    if not folder.is_dir():  # the lock file would make it
        raise no_run_folder(folder)
    lock = FileLock(folder / ".lock", mode=0o600)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunStoreError(
            f"{folder} is in use by another process",
            expected="one gate check per folder",
            mend="wait for it, or choose another --out",
        ) from error
    except OSError as error:
        raise disk_failed(folder, error) from error
    try:
        yield
    finally:
        lock.release()


def pretty(record: Record) -> bytes:
    """Indented JSON with a final newline."""
    return record.model_dump_json(indent=1).encode() + b"\n"


def read_record(path: Path, model: type[R]) -> R:
    """Read one record file; a damaged one is an error that names it."""
    try:
        return model.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise RunStoreError(f"{path} is missing", mend="run gate check first") from error
    except ValidationError as error:
        raise RunStoreError(f"{path} is damaged", found=str(error).splitlines()[0], mend="choose another --out") from error


def read_telemetry(folder: Path) -> Telemetry | None:
    """The run's telemetry; null where none was kept."""
    path = folder / TELEMETRY
    return read_record(path, Telemetry) if path.exists() else None


def no_run_folder(folder: Path) -> RunStoreError:
    """The path leads to no run."""
    return RunStoreError(f"{folder} is no run folder", expected="a folder with run.json", mend="give the --out of a gate check")
