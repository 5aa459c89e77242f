"""What an endpoint is: something that answers asks, batch by batch or out of a queue. Imports records and errors only."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from gate.records import Ask, AttackCase, EngineInfo, NoResponse, Response


@dataclass(frozen=True)
class EngineOptions:
    """What a user may say of how a candidate is run; an engine reads what concerns it. No answer's content may depend on any."""

    device: str = "auto"
    dtype: str = "auto"
    batch_size: int = 64
    """Prompts per batch of an engine that does not batch by itself."""
    in_flight: int = 0
    """Most asks in flight at an engine that batches by itself; 0: the engine's own choice."""
    memory_share: float = 0.0
    """Share of the device's memory that vLLM may take; 0: vLLM's own choice."""
    workers: int = 1
    """Processes of a cluster, each with a whole engine."""
    gpus_per_worker: float = 0.0
    worker_engine: str = "hf_local"
    """Engine of each worker: hf_local or vllm_local."""


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

        A failure of one ask is a `NoResponse`; a failure of the machine is an `InfrastructureError`. Answers that came before
        such a failure, or before an interruption, are returned first; it is raised by the next call.
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


@runtime_checkable
class Verifying(Protocol):
    """An endpoint whose model somebody else may change while it is asked (a server's)."""

    def verify_unchanged(self) -> None:
        """Raise a `GateError` where the model is not the one that was asked at first; called when the last answer is in."""
        ...
