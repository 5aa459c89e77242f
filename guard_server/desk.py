"""Where long texts are prepared off the event loop: a few threads, and a bound on how much may wait for them.

Cutting, decoding and tokenising a long text takes tens of milliseconds, which the event loop must not be held for; and a queue
without a bound would go on working for callers whose deadline has passed. Requests take turns, some texts each, so that one with
many long texts delays a short one by a slice, not by all of them.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from guard_server.errors import LESS_OR_MORE, DeadlineExceededError, OverloadedError

INLINE_CHARACTERS: Final = 640
"""A request of no more is prepared at once: it takes less than handing it over would be worth."""
MAX_CHARACTERS: Final = 2_000_000
"""Of all requests that are being prepared or wait for it: four to five seconds of work for one thread on prose and logs. What has
no spaces (long encodings) takes thirty times as long; what waits for it leaves at its deadline."""
SLICE_CHARACTERS: Final = 20_000
"""A turn ends with the text that reaches so many: few enough to be fair, enough to be worth a change of threads."""
_RETRY_SECONDS: Final = 1.0
T = TypeVar("T")


class Desk:
    """Runs the preparation of requests; used from one event loop."""

    def __init__(self, threads: int = 2) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="guard-prepare")
        self._waiting = 0

    async def run(self, pieces: Sequence[tuple[int, Callable[[], T]]], *, deadline: float) -> list[T]:
        """The results of the pieces of one request in order, each with its number of characters; `deadline` on the loop's clock.

        Raises `OverloadedError` when too much waits, `DeadlineExceededError`. Once the caller has gone, what has begun is
        finished: at most a slice for each thread.
        """
        loop = asyncio.get_running_loop()
        characters = sum(size for size, _ in pieces)
        if characters <= INLINE_CHARACTERS:
            return [work() for _, work in pieces]
        if self._waiting and self._waiting + characters > MAX_CHARACTERS:
            raise OverloadedError("too much text waits to be read", retry_after=_RETRY_SECONDS)
        self._waiting += characters
        done: list[T] = []
        try:
            async with asyncio.timeout_at(deadline):
                for works in _slices(pieces):
                    done += await loop.run_in_executor(self._threads, _all, works)
            return done
        except TimeoutError:
            raise too_late() from None
        finally:
            self._waiting -= characters

    def close(self) -> None:
        """Begin nothing more; what runs is finished."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def too_late() -> DeadlineExceededError:
    """The error of a request whose time is over before it could be queued."""
    return DeadlineExceededError(f"the deadline passed before the text could be queued; {LESS_OR_MORE}")


def _slices(pieces: Sequence[tuple[int, Callable[[], T]]]) -> Iterator[list[Callable[[], T]]]:
    works: list[Callable[[], T]] = []
    characters = 0
    for size, work in pieces:
        works.append(work)
        characters += size
        if characters >= SLICE_CHARACTERS:
            yield works
            works, characters = [], 0
    if works:
        yield works


def _all(works: list[Callable[[], T]]) -> list[T]:
    return [work() for work in works]
