"""One check in a process of its own: `python -m tests.run_driver FOLDER [--log FILE] [--sleep S] [--limit-kb N]`.

A scripted model answers; every ask is written to the log file before it is answered. Exits as `gate check` does.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from gate import pipeline
from gate.conformance.scene import ITEMS, Model, complies_with, small_policy
from gate.endpoints.scripted import Scripted
from gate.errors import ExitCode, GateError
from gate.policy import Evidence
from gate.records import Ask, AttackCase, Candidate, NoResponse, Response
from tests.folders import inputs_of

BATCH = 8


class LoggedEndpoint(Scripted):
    """Writes each batch's asks to a file, each with the batch's number, and takes its time over every answer."""

    def __init__(self, model: Model, log: Path | None, sleep: float) -> None:
        super().__init__(model.answer)
        self._log = log
        self._sleep = sleep
        self._batch = 0

    def generate(self, asks: Sequence[Ask]) -> Iterator[Response | NoResponse]:
        """Write down, wait, answer."""
        if self._log is not None:
            lines = "".join(f"{os.getpid()} {self._batch} {ask.sample} {ask.case.id}\n" for ask in asks)
            with self._log.open("a", encoding="utf-8") as file:
                file.write(lines)
        self._batch += 1
        for answer in super().generate(asks):
            time.sleep(self._sleep)
            yield answer


def answer(case: AttackCase, sample: int) -> str | NoResponse:
    """A rate just within the limit, so that a run reads nearly every item."""
    return complies_with(ITEMS // 10)(case, sample)


def main() -> int:
    """Run one check; returns its exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--sleep", type=float, default=0.0)
    parser.add_argument("--limit-kb", type=int)
    parser.add_argument("--candidate", default="scripted")
    options = parser.parse_args()
    if options.limit_kb:
        resource.setrlimit(resource.RLIMIT_FSIZE, (options.limit_kb * 1024, options.limit_kb * 1024))
    model = Model(options.candidate, answer)
    policy = small_policy(evidence=Evidence(min_items=ITEMS, min_behaviours=1, min_judged=50))

    def open_endpoint(_: Candidate) -> LoggedEndpoint:
        return LoggedEndpoint(model, options.log, options.sleep)

    try:
        verdict = pipeline.check(inputs_of(model, policy=policy), options.folder, open_endpoint, batch_size=BATCH)
    except GateError as error:
        print(error.diagnostics(), file=sys.stderr)
        return int(error.exit_code)
    return int(ExitCode[verdict.decision.name])


if __name__ == "__main__":
    sys.exit(main())
