"""What an endpoint is: something that answers asks, batch by batch or out of a queue. Imports records and errors only."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Protocol, runtime_checkable

from gate.records import Ask, AttackCase, EngineInfo, NoResponse, Response


class Endpoint(Protocol):
    """A loaded candidate that generates. One object serves one candidate (base, or base + adapter)."""

    @property
    def info(self) -> EngineInfo:
        """Engine name, version, dtype and device: part of the answer cache's key."""
        ...

    def render(self, case: AttackCase) -> str:
        """The exact text the model will continue: template, system prompt, turns, generation prompt, prefill.

        Pure: the same case gives the same text. A template that refuses the system role gets the system prompt folded
        into the first user turn.
        """
        ...

    def generate(self, asks: Sequence[Ask]) -> Iterator[Response | NoResponse]:
        """Answer every ask exactly once, in any order, as answers finish.

        A failure of one ask is a `NoResponse`; a failure of the machine is an `InfrastructureError`.
        """
        ...

    def close(self) -> None:
        """Free the weights; the endpoint is not used afterwards."""
        ...


class Queue(Protocol):
    """Asks in flight at an engine that answers them as they finish. One caller, one thread."""

    def room(self) -> int:
        """How many asks it is worth putting in now; 0: none before the next `take`. Positive while nothing is in flight."""
        ...

    def put(self, asks: Sequence[Ask]) -> None:
        """Take in asks, each (case id, sample) once; more than `room` are taken too."""
        ...

    def drop(self, places: Collection[tuple[str, int]]) -> None:
        """Forget asks at these (case id, sample) that have no answer yet; an answer that is made already may still come."""
        ...

    def take(self) -> Sequence[Response | NoResponse]:
        """Wait for answers and return those that came, at least one while any ask is in flight, else none.

        A failure of one ask is a `NoResponse`; a failure of the machine is an `InfrastructureError`.
        """
        ...

    def close(self) -> None:
        """Forget everything in flight; may be called twice."""
        ...


@runtime_checkable
class Continuous(Endpoint, Protocol):
    """An endpoint whose engine batches by itself (vLLM, a server, a cluster): it is fed asks while it works."""

    def queue(self) -> Queue:
        """A new, empty queue; one at a time."""
        ...
