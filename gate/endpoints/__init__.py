"""The table of engines that load a candidate. A new one is a module with an `Endpoint` and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from gate.endpoints.base import Endpoint
from gate.endpoints.hf_local import HfLocal
from gate.records import Candidate


class Engine(Protocol):
    """Loads a candidate and gives the endpoint that answers for it."""

    def __call__(self, candidate: Candidate, *, device: str = ..., dtype: str = ..., batch_size: int = ...) -> Endpoint:
        """Raises `CandidateError` for what cannot be loaded whole, `InfrastructureError` when the machine does not suffice."""
        ...


ENDPOINTS: Final[Mapping[str, Engine]] = {
    "hf_local": HfLocal,
}
"""Name → engine. Importing the table loads no engine's libraries: they come in when one is made."""
DEFAULT: Final = "hf_local"
"""The engine that `gate check` uses."""
