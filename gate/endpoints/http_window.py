"""How many requests may be in flight: additive increase, multiplicative decrease, and a pause where the server asks for one.

Lives in one event loop; only `size` is read from another thread. The window starts at its limit, is halved when the server pushes
back (once for all requests that were sent before it was halved) and grows by one per window of answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio


class Window:
    """Slots for requests. `clock` gives seconds."""

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        self.size = limit
        """Requests that may be in flight now; 1 to `limit`."""
        self._limit = limit
        self._clock = clock
        self._slots = anyio.CapacityLimiter(limit)
        self._answers = 0
        self._round = 0
        self._paused_until = 0.0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[int]:
        """Wait for a slot and for the end of a pause; gives the round, which `pushed_back` wants to know."""
        async with self._slots:
            while (left := self._paused_until - self._clock()) > 0:
                await asyncio.sleep(left)
            yield self._round

    def answered(self) -> None:
        """An answer came: after a window of them the window grows by one."""
        self._answers += 1
        if self._answers >= self.size:
            self._resize(min(self._limit, self.size + 1))

    def pushed_back(self, round_: int, pause: float | None) -> None:
        """The server asked for less, of a request of this round; nothing is sent for `pause` seconds."""
        if round_ == self._round:
            self._round += 1
            self._resize(max(1, self.size // 2))
        self._paused_until = max(self._paused_until, self._clock() + (pause or 0.0))

    def _resize(self, size: int) -> None:
        self._answers = 0
        self.size = size
        self._slots.total_tokens = size
