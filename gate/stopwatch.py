"""How long the stages of a run take: begin and end of each go in, `telemetry.json` of the run folder comes out.

Kept apart from the evidence: verdicts hold no time, and the pipeline reads no clock but through a `Stopwatch` that it was given.
A resumed run's seconds are added to what stands in the folder; a stage that was killed adds nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from gate.json_lines import write_whole
from gate.run_store import TELEMETRY, pretty, read_telemetry
from gate.standing import Stage, Telemetry


class Stopwatch:
    """Times one command's stages. Bound to a folder by `begin`, it keeps them there as each ends."""

    def __init__(self, model: str, *, now: Callable[[], float] = time.time, timer: Callable[[], float] = time.monotonic) -> None:
        self._model = model
        self._now = now
        self._timer = timer
        self._begun = now()
        self._seconds: dict[str, float] = {}
        self._folder: Path | None = None

    @contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        """Time what is done inside; a stage that fails or is interrupted counts too."""
        begun = self._timer()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + self._timer() - begun
            if self._folder is not None:
                self._keep()

    def begin(self, folder: Path) -> None:
        """Keep what is timed in a run folder from now on."""
        self._folder = folder
        self._keep()

    def finish(self) -> None:
        """The run has its verdict."""
        self._keep(finished_at=self._now())

    def _keep(self, **changes: float) -> None:
        if self._folder is None:
            return
        found = read_telemetry(self._folder) or Telemetry(model=self._model, begun_at=self._begun, stage_seconds={})
        seconds = {**found.stage_seconds}
        for name, spent in self._seconds.items():
            seconds[name] = round(seconds.get(name, 0.0) + spent, 6)
        self._seconds = {}
        kept = found.model_copy(update={"model": self._model, "stage_seconds": seconds, **changes})
        write_whole(self._folder / TELEMETRY, pretty(kept))


class Unwatched(Stopwatch):
    """Times nothing and keeps nothing."""

    def __init__(self) -> None:
        super().__init__("")

    def begin(self, folder: Path) -> None:
        """Nothing is kept."""


UNWATCHED: Final = Unwatched()
