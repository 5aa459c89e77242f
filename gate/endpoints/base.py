"""What an endpoint is: something that answers a batch of asks. Imports records and errors only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

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
