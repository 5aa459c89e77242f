"""Where long texts are prepared off the event loop: a few threads, and a bound on how much may wait for them.

Cutting, decoding and tokenising a long text takes tens of milliseconds, which the event loop must not be held for; and a queue
without a bound would go on working for callers whose deadline has passed.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from guard_server.errors import DeadlineExceededError, OverloadedError

INLINE_CHARACTERS: Final = 2000
"""A request of no more is prepared at once: it takes less than handing it over would be worth."""
MAX_CHARACTERS: Final = 2_000_000
"""Of all requests that are being prepared or wait for it: about two seconds of work for one thread on European text."""
_RETRY_SECONDS: Final = 1.0
T = TypeVar("T")


class Desk:
    """Runs the preparation of requests; used from one event loop."""

    def __init__(self, threads: int = 2) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="guard-prepare")
        self._waiting = 0

    async def run(self, work: Callable[[], T], *, characters: int, deadline: float) -> T:
        """The result of `work`, which reads so many characters; `deadline` on the loop's clock.

        Raises `OverloadedError` when too much waits, `DeadlineExceededError`.
        """
        loop = asyncio.get_running_loop()
        if characters <= INLINE_CHARACTERS:
            return work()
        if self._waiting and self._waiting + characters > MAX_CHARACTERS:
            raise OverloadedError("too much text waits to be read", retry_after=_RETRY_SECONDS)
        self._waiting += characters
        try:
            async with asyncio.timeout_at(deadline):
                return await loop.run_in_executor(self._threads, work)
        except TimeoutError:
            raise too_late() from None
        finally:
            self._waiting -= characters

    def close(self) -> None:
        """Begin nothing more; what runs is finished."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def too_late() -> DeadlineExceededError:
    """The error of a request whose time is over before it could be queued."""
    return DeadlineExceededError("the deadline passed before the text could be queued")
