"""The run folder: what one run is about, every answer and judgement as it comes, and the verdict.

    run.json            what the run is about; written once; another candidate, policy or suite is refused
    policy.json  candidate.json  baseline.json  suite/     the inputs, so that a stage can be re-entered from the folder alone
    candidate.responses.jsonl   baseline.responses.jsonl   one Response or NoResponse a line, appended, one fsync per batch
    candidate.judgements.jsonl  baseline.judgements.jsonl  the same for judgements; written again whole by `gate judge`
    verdict.json  report.txt  report.md  report.json  junit.xml

Killed at any moment the folder is whole but for an unfinished last line, which is cut off at the next opening. The folder holds
raw answers: its mode is 0700. One process at a time holds its lock.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, TypeVar

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from gate.errors import InfrastructureError, RunStoreError
from gate.policy import Policy
from gate.records import (
    Candidate,
    EngineInfo,
    Judgement,
    NoJudgement,
    NoResponse,
    Outcome,
    Record,
    Response,
    Verdict,
)

Side = Literal["candidate", "baseline"]
Answer = Response | NoResponse
Opinion = Judgement | NoJudgement
Place = tuple[str, int]
"""Case id and sample number."""

_ANSWERS: TypeAdapter[Answer] = TypeAdapter(Answer)
_OPINIONS: TypeAdapter[Opinion] = TypeAdapter(Opinion)
R = TypeVar("R", bound=Record)
T = TypeVar("T")

REPORTS = ("report.txt", "report.md", "report.json", "junit.xml")
OURS = {".lock", "run.json", "policy.json", "candidate.json", "baseline.json", "suite", "verdict.json", *REPORTS}
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


class JsonLines:
    """An append-only file of records: a batch is written and synced at once, or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Iterator[tuple[int, bytes]]:
        """Line number and bytes of every whole line; an unfinished last line is left out."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.endswith(b"\n"):
                    yield number, line

    def mend(self) -> int:
        """Cut off an unfinished last line (a write that a kill interrupted); returns the bytes removed."""
        if not self.path.exists():
            return 0
        with self.path.open("rb+") as file:
            data_end = file.seek(0, os.SEEK_END)
            keep = _end_of_last_line(file.fileno(), data_end)
            file.truncate(keep)
        return data_end - keep

    def append(self, records: Sequence[Record]) -> None:
        """Write a batch and sync it; on a full disk nothing of the batch stays and `InfrastructureError` is raised."""
        if not records:
            return
        data = b"".join(map(json_line, records))
        descriptor = size = -1
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            size = os.fstat(descriptor).st_size
            written = 0
            while written < len(data):
                written += os.write(descriptor, data[written:])
            os.fsync(descriptor)
        except OSError as error:
            if size >= 0:
                with suppress(OSError):  # what is left of the batch is a torn line, cut at the next opening
                    os.ftruncate(descriptor, size)
            raise disk_failed(self.path, error) from error
        finally:
            if descriptor >= 0:
                os.close(descriptor)


class AnswerLog:
    """The answers and judgements of one side (candidate or baseline) of a run."""

    def __init__(self, folder: Path, side: Side) -> None:
        self.responses = JsonLines(folder / f"{side}.responses.jsonl")
        self.judgements = JsonLines(folder / f"{side}.judgements.jsonl")
        self._answers: dict[Place, Answer] = {}
        self._opinions: dict[Place, Opinion] = {}
        self._by_key: dict[str, Response] = {}
        self.foreign = 0
        """Stored judgements left out, since another judge than the run's made them."""

    def load(self, judge: str) -> None:
        """Read what is there, judgements of `judge` (its label) alone; a line that is no record is an error that names it."""
        for number, line in self.responses.read():
            self._take(_parse(_ANSWERS, line, self.responses.path, number))
        for number, line in self.judgements.read():
            opinion = _parse(_OPINIONS, line, self.judgements.path, number)
            if f"{opinion.judge} {opinion.version} {opinion.digest}" == judge:
                self._opinions[opinion.case_id, opinion.sample] = opinion
            else:
                self.foreign += 1

    def mend(self) -> None:
        """Cut off what a kill left half-written."""
        self.responses.mend()
        self.judgements.mend()

    def __len__(self) -> int:
        """How many places (case id, sample) have an answer or a reason for none."""
        return len(self._answers)

    def has_answer(self, place: Place) -> bool:
        """Whether an answer, or a reason for none, is stored."""
        return place in self._answers

    def answer(self, place: Place) -> Answer | None:
        """What is stored at a place."""
        return self._answers.get(place)

    def opinion(self, place: Place) -> Opinion | None:
        """The run's judge on the answer at a place."""
        return self._opinions.get(place)

    def twin(self, key: str) -> Response | None:
        """A stored response with this key: the answer to the same question."""
        return self._by_key.get(key)

    def answers(self) -> Iterator[Answer]:
        """All that is stored, in the order it came; the last at a place counts."""
        yield from list(self._answers.values())

    def unjudged(self) -> Iterator[Response]:
        """Responses without an opinion of the run's judge."""
        yield from [a for p, a in self._answers.items() if p not in self._opinions and isinstance(a, Response)]

    def outcomes(self, case_id: str, samples: int) -> list[Outcome | None] | None:
        """Outcome of each sample; null while one of them has neither an answer nor a reason for none."""
        found: list[Outcome | None] = []
        for sample in range(samples):
            answer, opinion = self._answers.get((case_id, sample)), self._opinions.get((case_id, sample))
            if isinstance(answer, NoResponse):
                found.append(None)
            elif answer is None or opinion is None:
                return None
            else:
                found.append(opinion.outcome if isinstance(opinion, Judgement) else None)
        return found

    def add_answers(self, batch: Sequence[Answer]) -> None:
        """Store a batch of answers."""
        self.responses.append(batch)
        for answer in batch:
            self._take(answer)

    def add_opinions(self, batch: Sequence[Opinion]) -> None:
        """Store a batch of judgements."""
        self.judgements.append(batch)
        for opinion in batch:
            self._opinions[opinion.case_id, opinion.sample] = opinion

    def forget(self, places: Collection[Place]) -> None:
        """Remove the answers at these places and their judgements: they are asked again, never graded."""
        self._answers = {place: answer for place, answer in self._answers.items() if place not in places}
        self._by_key = {a.key: a for a in self._answers.values() if isinstance(a, Response)}
        # Judgements first: killed in between, an answer is judged again; the other way round, the judgement of a removed
        # answer could meet the new one.
        self.replace_opinions([o for place, o in self._opinions.items() if place not in places])
        self._rewrite(self.responses, self._answers.values())

    def replace_opinions(self, opinions: Iterable[Opinion]) -> None:
        """Write the judgements again, whole or not at all."""
        self._opinions = {(opinion.case_id, opinion.sample): opinion for opinion in opinions}
        self._rewrite(self.judgements, self._opinions.values())

    @staticmethod
    def _rewrite(file: JsonLines, records: Iterable[Record]) -> None:
        write_whole(file.path, b"".join(map(json_line, records)))

    def _take(self, answer: Answer) -> None:
        self._answers[answer.case_id, answer.sample] = answer
        if isinstance(answer, Response):
            self._by_key[answer.key] = answer


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
        """Read all answers, and the judgements of the run's judge."""
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

    def drop_verdict(self) -> None:
        """Remove the verdict and its reports, before the evidence under them changes."""
        for name in ("verdict.json", *REPORTS):
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
    (folder / "baseline.json").unlink(missing_ok=True)  # of a beginning that was killed, perhaps with a baseline
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


def write_whole(path: Path, data: bytes) -> Path:
    """Write a file so that it is there whole or not at all (temporary file, fsync, rename)."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise disk_failed(path, error) from error
    return path


def json_line(record: Record) -> bytes:
    """One record as a line of JSON."""
    return record.model_dump_json().encode() + b"\n"


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


def no_run_folder(folder: Path) -> RunStoreError:
    """The path leads to no run."""
    return RunStoreError(f"{folder} is no run folder", expected="a folder with run.json", mend="give the --out of a gate check")


def disk_failed(path: Path, error: OSError) -> InfrastructureError:
    """The disk is full or refuses: nothing is lost, and the same command resumes."""
    return InfrastructureError(
        f"{path} cannot be written",
        found=error.strerror or str(error),
        mend="free the disk or mend its permissions, then run the same command again",
    )


def _parse(adapter: TypeAdapter[T], line: bytes, path: Path, number: int) -> T:
    try:
        return adapter.validate_json(line)
    except ValidationError as error:
        raise RunStoreError(
            f"{path}:{number} is damaged",
            expected="one record a line",
            found=repr(line[:60]),
            mend="remove that line and run the same command again",
        ) from error


def _end_of_last_line(descriptor: int, end: int) -> int:
    """Offset just after the last newline before `end`."""
    block = 65_536
    while end > 0:
        start = max(0, end - block)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
