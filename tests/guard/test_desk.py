"""Preparing texts off the event loop: requests take turns, what waits is bounded, and nothing works on for who has gone."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from guard_server.desk import INLINE_CHARACTERS, MAX_CHARACTERS, SLICE_CHARACTERS, Desk
from guard_server.errors import DeadlineExceededError, GuardError, OverloadedError
from guard_server.policy import load_policies
from guard_server.records import Encoded
from guard_server.screening import Done, Subject, screen
from guard_server.settings import shipped_policies
from tests.guard.steered import Letters, Steered

LONG = "the rain was light. " * 2400
"""95,000 characters."""
DEFAULT = load_policies(shipped_policies()).named("default")


@dataclass
class Slow(Letters):
    """A tokenizer that takes a while, and counts what it was asked."""

    asked: int = 0
    pause: threading.Event = field(default_factory=threading.Event)

    def encode(self, text: str, *, context: str | None = None) -> Encoded:
        """As `Letters`, a tenth of a millisecond later."""
        self.asked += 1
        self.pause.wait(1e-4)
        return super().encode(text, context=context)


def _soon(seconds: float = 20.0) -> float:
    return asyncio.get_running_loop().time() + seconds


def _says(order: list[str], name: str) -> Callable[[], str]:
    def work() -> str:
        order.append(name)
        return name

    return work


def test_after_a_burst_of_long_requests_a_short_one_is_answered_and_the_threads_rest() -> None:
    """Twenty requests of ten long texts in one second: each is answered or refused, two small ones answered; then all is idle."""
    slow = Slow()
    active = Steered(tokenizer=slow)

    async def run() -> tuple[list[Done | BaseException], list[Done | BaseException], int]:
        desk = Desk()
        deadline = _soon(1)

        def ask(*texts: str, until: float) -> asyncio.Task[Done]:
            subjects = [Subject(text) for text in texts]
            return asyncio.create_task(screen(subjects, policy=DEFAULT, active=active, deadline=until, desk=desk))

        burst = [ask(*[LONG] * 20, until=deadline) for _ in range(20)]
        await asyncio.sleep(0.05)
        small = [ask("a bomb", until=deadline), ask("a bomb " * 500, until=_soon(20))]
        answers = await asyncio.gather(*small, return_exceptions=True)
        ended = await asyncio.gather(*burst, return_exceptions=True)
        desk.close()
        for thread in threading.enumerate():
            if thread.name.startswith("guard-prepare"):
                await asyncio.to_thread(thread.join, 20)
        asked = slow.asked
        await asyncio.sleep(0.05)
        assert slow.asked == asked
        return answers, ended, asked

    answers, ended, asked = asyncio.run(run())
    assert [a.screened[0].score for a in answers if isinstance(a, Done)] == [0.95, 0.95]
    assert all(isinstance(e, Done | OverloadedError | DeadlineExceededError) for e in ended)
    assert sum(isinstance(e, OverloadedError) for e in ended) == 18
    # Of 400 long texts, at most those that were let in have been begun, and one more slice for each thread.
    assert asked < 20 * 20 * len(LONG) / 40 / 4


def test_requests_take_turns() -> None:
    """Of two with many long texts, neither waits for all of the other's; short texts of one go together."""
    order: list[str] = []

    async def run() -> list[list[str]]:
        desk = Desk(threads=1)
        long = [(SLICE_CHARACTERS, _says(order, f"a{i}")) for i in range(4)]
        other = [(SLICE_CHARACTERS, _says(order, f"b{i}")) for i in range(2)]
        short = [(SLICE_CHARACTERS // 4, _says(order, f"c{i}")) for i in range(4)]
        done = await asyncio.gather(*(desk.run(pieces, deadline=_soon()) for pieces in (long, other, short)))
        desk.close()
        return done

    assert asyncio.run(run()) == [["a0", "a1", "a2", "a3"], ["b0", "b1"], ["c0", "c1", "c2", "c3"]]
    assert order.index("b0") < order.index("a2")
    assert order.index("c0") < order.index("a2")
    assert order[order.index("c0") :][:4] == ["c0", "c1", "c2", "c3"]


def test_what_waits_is_bounded_and_room_comes_back() -> None:
    """Beyond the bound: refused at once, with a time to retry after; alone, any request is taken; a short one is done at once."""
    go_on = threading.Event()

    def wait() -> bool:
        return go_on.wait(20)

    async def run() -> None:
        desk = Desk()
        first = asyncio.create_task(desk.run([(MAX_CHARACTERS * 2, wait)], deadline=_soon()))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError) as refused:
            await desk.run([(INLINE_CHARACTERS + 1, wait)], deadline=_soon())
        assert refused.value.retry_after is not None
        assert await desk.run([(INLINE_CHARACTERS, lambda: 7)], deadline=_soon()) == [7]
        go_on.set()
        assert await first == [True]
        assert await desk.run([(MAX_CHARACTERS, wait)], deadline=_soon()) == [True]
        desk.close()

    asyncio.run(run())


@pytest.mark.parametrize("how", ["deadline", "cancelled"])
def test_nothing_more_is_begun_for_who_has_gone(how: str) -> None:
    """At the deadline, and when the caller is cancelled, the texts that have not begun never do, and what waits is free again."""
    began: list[int] = []
    go_on = threading.Event()

    def work() -> None:
        began.append(1)
        go_on.wait(20)

    async def run() -> None:
        desk = Desk(threads=1)
        pieces = [(MAX_CHARACTERS, work)] * 5
        asked = asyncio.create_task(desk.run(pieces, deadline=_soon(0.05 if how == "deadline" else 20)))
        while not began:
            await asyncio.sleep(0.001)
        if how == "cancelled":
            asked.cancel()
        with pytest.raises((GuardError, asyncio.CancelledError)) as gone:
            await asked
        assert isinstance(gone.value, DeadlineExceededError) is (how == "deadline")
        go_on.set()
        assert await desk.run([(MAX_CHARACTERS, lambda: 1)], deadline=_soon()) == [1]
        desk.close()

    asyncio.run(run())
    assert began == [1]
