"""One vLLM engine for all tests of this folder, which are skipped where the engines are not installed.

They run in an environment of their own (`make test-engines`): vLLM keeps other versions than the guard's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gate.candidate import load_candidate
from gate.records import Candidate
from testbed import WEIGHTS

if TYPE_CHECKING:
    from gate.endpoints.vllm_engine import VllmEngine
    from gate.endpoints.vllm_local import SharedVllm

HERE = Path(__file__).parent
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Skip what stands here where vLLM or Ray is missing, and say how to get them.

    An hour for each: an engine, a server or a cluster starts in minutes where the machine has other work.
    """
    missing = [name for name in ("vllm", "ray") if find_spec(name) is None]
    for item in items:
        if HERE not in item.path.parents:
            continue
        item.add_marker(pytest.mark.timeout(3600))
        if missing:
            item.add_marker(pytest.mark.skip(reason=f"not installed: {', '.join(missing)}; run `make test-engines`"))


@pytest.fixture(scope="session")
def aligned() -> Candidate:
    """The testbed's aligned model, which its adapters stand on."""
    return load_candidate(str(WEIGHTS / "aligned"))


@pytest.fixture(scope="session")
def drifted() -> Candidate:
    """The adapter whose refusals went."""
    return load_candidate(str(WEIGHTS / "drifted-translation"))


@pytest.fixture(scope="session")
def shared(aligned: Candidate, drifted: Candidate) -> Iterator[SharedVllm]:
    """Opens the aligned model and adapters like the drifted one at one vLLM engine."""
    from gate.endpoints.vllm_local import SharedVllm

    made = SharedVllm([aligned, drifted])
    yield made
    made.close()


@pytest.fixture(scope="session")
def engine(shared: SharedVllm, aligned: Candidate) -> VllmEngine:
    """That engine."""
    return shared(aligned).engine
