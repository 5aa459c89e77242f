"""An engine that answers batch by batch, fed like a queue: asks wait here, and every `take` generates one batch.

In: an `Endpoint` and the batch size. Out: a `Queue` that has room for a round of about four batches, and none before the round is
through, so that prompts of like length meet in a batch.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from gate.endpoints.base import Endpoint
from gate.errors import InfrastructureError
from gate.records import Ask, NoResponse, Response

ROUND: Final = 4
"""Batches that are sorted together."""


class Batches:
    """`Queue` over `Endpoint.generate`: batches of one decoding, longest prompts first. Every ask gets exactly one record."""

    def __init__(self, endpoint: Endpoint, batch_size: int) -> None:
        self._endpoint = endpoint
        self._batch_size = batch_size
        self._waiting: list[Ask] = []
        self._failure: InfrastructureError | KeyboardInterrupt | None = None

    def room(self) -> int:
        """A whole round, or nothing while one is under way."""
        return 0 if self._waiting else ROUND * self._batch_size

    def put(self, asks: Sequence[Ask]) -> None:
        """Take in asks; they are sorted into the order of the batches."""
        self._waiting += asks
        decodings = {decoding: n for n, decoding in enumerate(dict.fromkeys(ask.decoding for ask in self._waiting))}
        self._waiting.sort(key=lambda ask: (decodings[ask.decoding], -len(ask.prompt), ask.case.id, ask.sample))

    def drop(self, places: Collection[tuple[str, int]]) -> None:
        """Forget what no batch was made of yet."""
        self._waiting = [ask for ask in self._waiting if (ask.case.id, ask.sample) not in places]

    def take(self) -> Sequence[Response | NoResponse]:
        """Generate the next batch. Where that fails or is interrupted half-way, the answers that came are returned first."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        batch = [ask for ask in self._waiting[: self._batch_size] if ask.decoding == self._waiting[0].decoding]
        self._waiting = self._waiting[len(batch) :]
        came: list[Response | NoResponse] = []
        try:
            for answer in self._endpoint.generate(batch) if batch else ():
                came.append(answer)  # noqa: PERF402 - what came before a failure must be in hand
        except (InfrastructureError, KeyboardInterrupt) as failure:
            if not came:
                raise
            self._failure = failure
            return came
        answered = {(answer.case_id, answer.sample, answer.key) for answer in came}
        return [*came, *(_nothing(ask) for ask in batch if (ask.case.id, ask.sample, ask.key) not in answered)]

    def close(self) -> None:
        """Forget what waits; an interruption that was not raised yet is raised now."""
        failure, self._failure, self._waiting = self._failure, None, []
        if isinstance(failure, KeyboardInterrupt):
            raise failure


def _nothing(ask: Ask) -> NoResponse:
    return NoResponse(case_id=ask.case.id, sample=ask.sample, key=ask.key, kind="error", reason="the engine gave no answer")
