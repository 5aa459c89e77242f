"""What `gate check` makes of its options: engines, served candidates and limits, and what cannot be meant together."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, get_args

import pytest

from gate.candidate import load_candidate
from gate.check_options import SERVED, EngineName, Sides, allowance, opener
from gate.endpoints import DEFAULT, ENDPOINTS
from gate.endpoints.base import EngineOptions
from gate.endpoints.scripted import Scripted
from gate.errors import InfrastructureError, UsageError
from gate.records import Candidate
from testbed import WEIGHTS

URL = "http://localhost:8000/v1"


def test_every_engine_that_can_be_named_is_in_the_table() -> None:
    """No name on the command line leads nowhere, and no engine of the table is out of reach."""
    assert {*get_args(EngineName)} - {"auto"} | {SERVED} == set(ENDPOINTS)
    assert DEFAULT in get_args(EngineName)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"candidate": URL}, "which of its models"),
        ({"candidate": "folder", "model": "m"}, "--model belongs to a served candidate"),
        ({"candidate": URL, "model": "m", "engine": "vllm_local"}, "runs a model from its files"),
        ({"candidate": URL, "model": "m", "base": "folder"}, "--base belongs to an adapter folder"),
        ({"candidate": URL, "model": "m", "baseline": "folder"}, "not run alike"),
        ({"candidate": "folder", "baseline": "HTTPS://host"}, "not run alike"),
        ({"candidate": "folder", "baseline_model": "m"}, "--baseline-model belongs"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_meant_is_refused_before_anything_is_read(given: dict[str, Any], told: str) -> None:
    """Each combination that would be half ignored is a usage error with what to do."""
    with pytest.raises(UsageError, match=told) as caught:
        Sides(**given)
    assert caught.value.mend


@pytest.mark.parametrize(
    "given",
    [
        {"candidate": "folder", "baseline": "hf://org/name@1", "engine": "ray_cluster"},
        {"candidate": URL, "model": "m", "baseline": URL, "baseline_model": "base"},
        {"candidate": URL, "model": "m", "baseline": "http://other/v1"},
    ],
)
def test_what_can_be_meant_is_taken(given: dict[str, Any]) -> None:
    """Folders on any engine, and served models beside served models."""
    assert Sides(**given).candidate == given["candidate"]


class _Shared:
    """Opens nothing; says when it is closed."""

    def __init__(self) -> None:
        self.closed = 0

    def __call__(self, _: Candidate) -> Scripted:
        return Scripted(lambda case, sample: "fine")

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("fails", [False, True])
def test_an_engine_that_two_sides_share_is_freed(fails: bool) -> None:
    """It is closed once when the command is over, whether it ended well or with an error, and not before."""
    shared = _Shared()
    sides = [load_candidate(str(WEIGHTS / name)) for name in ("aligned", "drifted-translation")]
    with (
        pytest.raises(InfrastructureError) if fails else nullcontext(),
        opener("vllm_local", EngineOptions(), sides, share=lambda *_: shared) as open_endpoint,
    ):
        assert isinstance(open_endpoint(sides[1]), Scripted)
        assert shared.closed == 0
        if fails:
            raise InfrastructureError("out of memory")
    assert shared.closed == 1


def test_limits_run_by_a_real_clock() -> None:
    """No option, no limit; zero minutes are over at once."""
    assert allowance(None, None, None).spent() == ""
    assert allowance(None, 0.0, None).spent() == "--max-minutes 0"
    assert allowance(1, None, 1).spent() == ""
