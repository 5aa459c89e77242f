"""The table of engines that load a candidate. A new one is a module with an `Endpoint` and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from gate.endpoints.base import Endpoint
from gate.endpoints.hf_local import HfLocal
from gate.records import Candidate

ENDPOINTS: Final[Mapping[str, Callable[[Candidate], Endpoint]]] = {
    "hf_local": HfLocal,
}
"""Name → constructor. Importing the table loads no engine: heavy libraries come in when one is made."""
