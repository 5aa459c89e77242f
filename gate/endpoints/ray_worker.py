"""One worker of a cluster: a whole engine that answers batches. Knows nothing of Ray; what travels is text.

In: a candidate, how to load it, and batches of asks as JSON. Out: for each batch a reply as JSON: answers, the engine that made
them, or what failed. A worker on another machine first compares its copy of the candidate's folders with the driver's.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from gate.endpoints.base import Endpoint, EngineOptions
from gate.errors import CandidateError, GateError, InfrastructureError, UnsafeCandidateError
from gate.records import Ask, Candidate, EngineInfo, NoResponse, Record, Response, encodable, sha256_hex

Load = Callable[[Candidate, EngineOptions], Endpoint]
"""An engine of the table, as it is loaded in one process."""


class Batch(Record):
    """Asks of one decoding that a worker answers together; without asks it is answered too, and says what the engine is."""

    number: int
    asks: tuple[Ask, ...]


class Failure(Record):
    """A `GateError` that travels."""

    kind: Literal["CandidateError", "UnsafeCandidateError", "InfrastructureError"]
    problem: str
    expected: str
    found: str
    mend: str


class Reply(Record):
    """What a worker says to a batch: the answers that came, and what failed then, if anything."""

    number: int
    worker: str
    """Host and process."""
    info: EngineInfo | None
    answers: tuple[Response | NoResponse, ...] = ()
    failure: Failure | None = None


ERRORS: Final[Mapping[str, type[GateError]]] = {
    "CandidateError": CandidateError,
    "UnsafeCandidateError": UnsafeCandidateError,
    "InfrastructureError": InfrastructureError,
}


def error_of(failure: Failure) -> GateError:
    """The error that a worker met, to be raised here."""
    return ERRORS[failure.kind](failure.problem, expected=failure.expected, found=failure.found, mend=failure.mend)


def host() -> str:
    """The name of this machine."""
    return socket.gethostname()


def contents(candidate: Candidate) -> str:
    """SHA-256 over every file of the candidate's folder and of its base: what a copy on another machine must come to."""
    return sha256_hex(" ".join(_folder(Path(path)) for path in _folders(candidate)).encode())


class Worker:
    """Holds an engine and answers batches. An engine that cannot be loaded is what every reply says: no worker dies of it."""

    def __init__(self, load: Load, candidate: Candidate, options: EngineOptions, driver: str, expected: str) -> None:
        """Load. `driver` is the host of the gate itself, `expected` what `contents` came to there."""
        self._name = f"{host()}:{os.getpid()}"
        self._endpoint: Endpoint | None = None
        self._failure: Failure | None = None
        try:
            if host() != driver:
                check_copy(candidate, expected)
            self._endpoint = load(candidate, options)
        except (CandidateError, UnsafeCandidateError, InfrastructureError) as error:
            self._failure = _travelling(error)

    def __call__(self, rows: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        """Rows with a batch each → rows with a reply each."""
        return {"reply": [self.reply(Batch.model_validate_json(text)).model_dump_json() for text in rows["batch"]]}

    def reply(self, batch: Batch) -> Reply:
        """Answer one batch."""
        if self._endpoint is None:
            return Reply(number=batch.number, worker=self._name, info=None, failure=self._failure)
        answers: list[Response | NoResponse] = []
        failure = None
        try:
            for answer in self._endpoint.generate(batch.asks):
                answers.append(encodable(answer))  # noqa: PERF401 - what came before a failure must be in hand
        except (CandidateError, UnsafeCandidateError, InfrastructureError) as error:
            failure = _travelling(error)
        info = self._endpoint.info
        return Reply(number=batch.number, worker=self._name, info=info, answers=tuple(answers), failure=failure)

    def refuse(self, batch: Batch, error: GateError) -> Reply:
        """A reply that says why the batch is not answered."""
        return Reply(number=batch.number, worker=self._name, info=None, failure=_travelling(error))


def check_copy(candidate: Candidate, expected: str) -> None:
    """Refuse a machine that does not see the candidate's folders, or sees other files in them."""
    for path in _folders(candidate):
        if not Path(path).is_dir():
            raise InfrastructureError(
                f"worker {host()} does not see the candidate",
                expected=f"the folder {path} on every node of the cluster",
                found="none",
                mend="put it on storage that all nodes mount at this path",
            )
    if (found := contents(candidate)) != expected:
        raise UnsafeCandidateError(
            f"worker {host()} has another copy of {candidate.path} than the one that was scanned",
            expected=f"content {expected[:16]}",
            found=f"content {found[:16]}",
            mend="put the candidate on storage that all nodes mount",
        )


def _folders(candidate: Candidate) -> list[str]:
    return [path for path in (candidate.path, candidate.base_path) if path]


def _folder(path: Path) -> str:
    """SHA-256 over names and contents of all files."""
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{file.relative_to(path).as_posix()}\0{found}\n".encode())
    return digest.hexdigest()


def _travelling(error: GateError) -> Failure:
    kind = next(name for name, type_ in ERRORS.items() if isinstance(error, type_))
    return Failure.model_validate(
        {"kind": kind, "problem": error.problem, "expected": error.expected, "found": error.found, "mend": error.mend}
    )
