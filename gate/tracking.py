"""What `gate check` and `gate merge` do beside the verdict: name the model, time the stages, keep the run, push its figures.

In: the options `--name`, `--history`, `--pushgateway` and the environment. Out: the baseline that `last-released` stands for, the
loaded inputs, and a run that is recorded. Called by `cli` alone.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import typer

from gate import check_options as given
from gate.errors import InfrastructureError, UsageError

if TYPE_CHECKING:
    from gate.history.entries import Entry
    from gate.history.location import Location
    from gate.history.store import Release
    from gate.metrics import Shown
    from gate.pipeline import Inputs
    from gate.records import Candidate, Verdict
    from gate.stopwatch import Stopwatch

LAST_RELEASED: Final = "last-released"
History = Annotated[
    str | None,
    typer.Option(
        metavar="PATH|URL",
        help="Keep the run in this history: a path for SQLite, or postgresql://user@host/name "
        "(default: GATE_HISTORY, or the URL in the file that GATE_HISTORY_FILE names).",
    ),
]
Pushgateway = Annotated[
    str | None, typer.Option(metavar="URL", help="Push the verdict's figures to this Prometheus Pushgateway.")
]
Name = Annotated[
    str,
    typer.Option(help="Name of the model in history and metrics, the same for every version of it (default: the folder's name)."),
]


def locate(option: str | None) -> Location | None:
    """The history that is meant; null where none is."""
    if option is None and not any(os.environ.get(name, "").strip() for name in ("GATE_HISTORY", "GATE_HISTORY_FILE")):
        return None
    from gate.history.location import locate as found

    return found(option, os.environ)


class Against(NamedTuple):
    """The baseline's options."""

    source: str | None
    base: str | None = None
    model: str = ""


@dataclass(frozen=True)
class Tracking:
    """What was asked for beside the verdict."""

    model: str
    location: Location | None
    pushgateway: str | None
    watch: Stopwatch

    def against(self, baseline: str | None, base: str | None, model: str) -> Against:
        """The baseline as given, or the released candidate that `last-released` stands for."""
        if baseline != LAST_RELEASED:
            return Against(baseline, base, model)
        if base is not None or model:
            raise UsageError(
                f"--baseline {LAST_RELEASED} names its base and its served model itself",
                mend="leave --baseline-base and --baseline-model out",
            )
        found = self._released().candidate
        if found.kind == "endpoint":
            return Against(found.source, None, found.path)
        if found.revision:
            return Against(f"{found.source.partition('@')[0]}@{found.revision}")
        return Against(found.path, found.base_path or None)

    def load(
        self, policy: str, sides: given.Sides, baseline: str | None, sarif: Path | None, training_data: Sequence[Path] = ()
    ) -> Inputs:
        """Resolve every argument, and time it. A released baseline whose files have changed since is refused."""
        with self.watch.stage("ingest"):
            inputs = given.load_inputs(policy, sides, sarif, training_data)
        if baseline == LAST_RELEASED and inputs.baseline is not None:
            _refuse_changed(self._released().candidate, inputs.baseline)
        return inputs

    def _released(self) -> Release:
        if self.location is None:
            raise UsageError(
                f"--baseline {LAST_RELEASED} is looked up in a history, and none is named",
                expected="--history, GATE_HISTORY or GATE_HISTORY_FILE",
                mend="name one, or give the baseline's folder",
            )
        from gate.history.store import open_history

        with closing(open_history(self.location, create=False)) as history:
            found = history.last_released(self.model)
        if found is None:
            raise UsageError(
                f"no candidate of {self.model} that passed is marked as released in {self.location}",
                expected="one that `gate history release` marked",
                mend="mark one, name the model with --name, or give the baseline's folder",
            )
        return found

    def keep(self, folder: Path, verdict: Verdict) -> None:
        """Record the finished run and push its figures. A gateway that fails is said on standard error; it holds no release."""
        if self.location is None and self.pushgateway is None:
            return
        from gate.history.entries import read_entry
        from gate.metrics import alone

        entry = read_entry(folder)
        shown = alone(entry.standing)
        if self.location is not None:
            try:
                shown = _record(self.location, entry)
            except InfrastructureError as error:
                raise InfrastructureError(
                    f"the verdict ({verdict.decision}) stands in {folder} and is in no history: {error.problem}",
                    found=error.found,
                    mend=f"{error.mend}; or: gate history import {folder}",
                ) from error
        if self.pushgateway is not None:
            _push(self.pushgateway, shown)


def begin(history: str | None, pushgateway: str | None, name: str, candidate: str = "", model: str = "") -> Tracking:
    """Read the options; a history that can't be used is an error now, and not after the run."""
    from gate.standing import checked_name, model_name
    from gate.stopwatch import Stopwatch

    if pushgateway is not None:
        from gate.pushgateway import checked_url

        pushgateway = checked_url(pushgateway)
    named = checked_name(name) if name else model_name(candidate, model) if candidate else ""
    location = locate(history)
    if location is not None:
        from gate.history.store import open_history

        open_history(location).close()
    return Tracking(named, location, pushgateway, Stopwatch(named))


def refuse_for_shard(history: str | None, pushgateway: str | None) -> None:
    """A shard has no verdict to keep or to push. The environment's history is for all commands, and may stand."""
    for option, value in (("--history", history), ("--pushgateway", pushgateway)):
        if value is not None:
            raise UsageError(f"{option}: a shard has no verdict", mend=f"give {option} to the gate merge of all shards")


def _record(location: Location, entry: Entry) -> Shown:
    from gate.history.store import open_history
    from gate.metrics import Shown

    with closing(open_history(location)) as history:
        history.record(entry, time.time())
        memory = history.memory(entry.standing.model)
        return Shown(entry.standing, memory.passed_at, memory.released)


def _push(url: str, shown: Shown) -> None:
    from gate.pipeline import tool_version
    from gate.pushgateway import push

    try:
        push(url, shown, tool_version())
    except InfrastructureError as error:
        print(f"gate: warning: {error.diagnostics()}", file=sys.stderr)


def _refuse_changed(released: Candidate, found: Candidate) -> None:
    if released.trial_digest != found.trial_digest:
        raise UsageError(
            f"{found.source} is no longer the candidate that was released",
            expected=f"digest {released.digest[:16]}",
            found=f"digest {found.digest[:16]}"
            + ("" if released.digest != found.digest else ", with another base, template or tokenizer"),
            mend="restore it, or give another --baseline",
        )
