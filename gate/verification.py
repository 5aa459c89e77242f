"""Keeps out of a run's folder what another model may have answered: a server's model can be changed while it is asked.

In: an endpoint, a run folder. Out: a mark in the folder, set before the first ask and moved on each time the server was found to
state the same model; what stands behind it when the asking ends any other way is removed, at once or at the next opening.

A model that was swapped in and out again between two looks is not found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from gate.answer_log import SYNC_EVERY, Answer, Side
from gate.endpoints.base import Endpoint, Verifying
from gate.errors import CandidateError, InfrastructureError, UnsafeCandidateError
from gate.records import NoResponse
from gate.run_store import RunStore

VERIFY_EVERY: Final = SYNC_EVERY
"""Answers between two looks at what is served: as many are asked again at most after a kill."""


class Watch:
    """One side's asking, and whether its model is still the one it was. An endpoint that nobody can change is not watched."""

    def __init__(self, endpoint: Endpoint, store: RunStore, side: Side) -> None:
        self._endpoint = endpoint if isinstance(endpoint, Verifying) else None
        self._store = store
        self._side = side
        self._since = 0
        self.begun = False

    def begin(self) -> None:
        """Mark the log as it is before the first ask."""
        if self._endpoint is not None:
            self._store.mark_verified(self._side)
            self.begun = True

    def kept(self, answers: Sequence[Answer]) -> None:
        """Answers were stored: look again after so many, and whenever the server was away. Raises what `verify_unchanged` does.

        A look that does not get through leaves the mark where it is; the next one is as good.
        """
        self._since += len(answers)
        away = any(isinstance(answer, NoResponse) and answer.kind == "unreachable" for answer in answers)
        if self._endpoint is None or not (away or self._since >= VERIFY_EVERY):
            return
        self._since = 0
        try:
            self._endpoint.verify_unchanged()
        except InfrastructureError:
            return
        self._store.mark_verified(self._side)

    def end(self) -> None:
        """Look for the last time, and take the mark away. Raises what `verify_unchanged` does."""
        if self._endpoint is not None:
            self._endpoint.verify_unchanged()
            self._store.all_verified()


@contextmanager
def watched(endpoint: Endpoint, store: RunStore, side: Side) -> Iterator[Watch]:
    """Watch one side's asking to its end, however it ends.

    Raises `UnsafeCandidateError` or `CandidateError` where the model was changed, with the answers since the mark removed;
    `InfrastructureError` where the last look does not get through, with the mark left standing.
    """
    watch = Watch(endpoint, store, side)
    try:
        try:
            yield watch
        except (UnsafeCandidateError, CandidateError):
            raise
        except BaseException:  # out of reach, or Ctrl-C: what came stays where the server still answers, as the same model
            if watch.begun:
                with suppress(InfrastructureError):
                    watch.end()
            raise
        watch.end()
    except (UnsafeCandidateError, CandidateError):
        store.cut_unverified()
        raise
