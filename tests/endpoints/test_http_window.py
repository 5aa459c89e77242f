"""The window of requests in flight, with a clock of its own."""

from __future__ import annotations

import asyncio

from gate.endpoints.http_window import Window


async def everybody_has_moved() -> None:
    """Many turns of the event loop: whoever can go on has gone on, and now waits for something else than a turn."""
    for _ in range(100):
        await asyncio.sleep(0)


def test_pushing_back_halves_once_per_round_and_answers_add_one_per_window() -> None:
    """32 → 16 for all refusals of one round, → 8 for the next; then one more after 8 answers, and one after 9; never below 1."""

    async def play() -> None:
        window = Window(32, clock=lambda: 0.0)
        async with window.slot() as first:
            window.pushed_back(first, None)
        window.pushed_back(first, None)
        assert window.size == 16
        async with window.slot() as second:
            window.pushed_back(second, None)
        sizes = []
        for _ in range(17):
            window.answered()
            sizes.append(window.size)
        assert sizes == [8] * 7 + [9] * 9 + [10]
        for _ in range(9):
            async with window.slot() as round_:
                window.pushed_back(round_, None)
        assert window.size == 1

    asyncio.run(play())


def test_it_never_grows_beyond_its_limit() -> None:
    """A hundred answers leave a window of three at three."""

    async def play() -> None:
        window = Window(3, clock=lambda: 0.0)
        for _ in range(100):
            window.answered()
        assert window.size == 3

    asyncio.run(play())


def test_slots_are_as_many_as_the_window_is_wide() -> None:
    """Of ten that want a slot of three, three get one, and after a halving nobody does until two have left."""

    async def play() -> None:
        window = Window(3, clock=lambda: 0.0)
        inside, leave = [], [asyncio.Event() for _ in range(10)]

        async def enter(number: int) -> None:
            async with window.slot():
                inside.append(number)
                await leave[number].wait()

        async with asyncio.TaskGroup() as group:
            for number in range(10):
                group.create_task(enter(number))
            await everybody_has_moved()
            assert inside == [0, 1, 2]
            window.pushed_back(0, None)
            leave[0].set()
            leave[1].set()
            await everybody_has_moved()
            assert inside == [0, 1, 2]
            leave[2].set()
            await everybody_has_moved()
            assert inside == [0, 1, 2, 3]
            for event in leave:
                event.set()
        assert sorted(inside) == list(range(10))

    asyncio.run(play())


def test_a_pause_holds_everybody() -> None:
    """While the clock stands before the pause's end no slot is given out; a shorter pause does not shorten it."""

    async def play() -> None:
        now = [100.0]
        window = Window(4, clock=lambda: now[0])
        window.pushed_back(0, 0.02)
        window.pushed_back(0, 0.01)
        entered = asyncio.Event()

        async def enter() -> None:
            async with window.slot():
                entered.set()

        task = asyncio.create_task(enter())
        now[0] = 100.015
        await asyncio.sleep(0.05)
        assert not entered.is_set()
        now[0] = 100.03
        await task
        assert entered.is_set()

    asyncio.run(play())
