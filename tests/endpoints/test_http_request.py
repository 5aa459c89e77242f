"""One request and its attempts: how often each kind of failure is asked again, and that an attempt ends at its own deadline."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gate.endpoints.http_request import Failed, Kind, Patience, fetch, insist, open_client
from tests.fault_server import Fault, FaultServer, running

QUICK = Patience(attempts=5, timeouts=2, first_wait=0.001, longest_wait=0.002, jitter=0.0)


def attempts_at(kind: Kind, *, again: bool, patience: Patience = QUICK) -> int:
    """How many attempts a failure costs that never passes; it is raised at the end."""
    made: list[Failed] = []

    async def attempt() -> bytes:
        made.append(Failed(kind, f"attempt {len(made) + 1}", again=again))
        raise made[-1]

    with pytest.raises(Failed) as caught:
        asyncio.run(insist(attempt, patience))
    assert caught.value is made[-1]
    return len(made)


def test_what_may_pass_is_tried_as_often_as_patience_allows() -> None:
    """Five attempts at a server that is away, two at one that hangs, one at what will not pass."""
    assert attempts_at("unreachable", again=True) == 5
    assert attempts_at("error", again=True) == 5
    assert attempts_at("timeout", again=True) == 2
    assert attempts_at("timeout", again=True, patience=replace(QUICK, timeouts=3)) == 3
    assert attempts_at("error", again=False) == 1


@pytest.mark.parametrize("fault", ["hang", "drip"])
def test_a_server_that_was_stuck_once_is_asked_again_and_answers(fault: Fault) -> None:
    """The attempt that ran into its deadline is followed by one that is answered."""
    deadlines: list[float] = []

    def plan(_body: object, _before: int) -> Fault | None:
        return fault if len(deadlines) == 1 else None

    async def ask(url: str) -> bytes:
        async with open_client("", connections=2) as client:

            async def attempt() -> bytes:
                deadlines.append(60.0 if deadlines else 0.3)
                body = {"model": "scripted", "prompt": "q"}
                return await fetch(client, "POST", f"{url}/v1/completions", deadlines[-1], body)

            return await insist(attempt, QUICK)

    with running(FaultServer(script=str.upper, plan=plan)) as server:
        assert b'"Q"' in asyncio.run(ask(server.url))
    assert deadlines == [0.3, 60.0]
