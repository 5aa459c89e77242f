"""A thread with an event loop: jobs go in from one caller's thread, what came of them comes out, and nothing is left at the end.

The loop owns a worker (an HTTP client with its state), opened and closed inside it.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager
from typing import Final, Generic, TypeVar

from gate.errors import InfrastructureError

_LOOP_ENDED: Final = 0
"""Serial under which the loop's own failure comes out."""
W = TypeVar("W")
J = TypeVar("J")
R = TypeVar("R")


class LoopThread(Generic[W, J, R]):
    """Jobs by serial number, from 1. `put`, `cancel`, `take` and `close` are called from one thread."""

    def __init__(self, open_worker: Callable[[], AbstractAsyncContextManager[W]], work: Callable[[W, J], Awaitable[R]]) -> None:
        """Start the thread; raises what opening the worker raises."""
        self._open = open_worker
        self._work = work
        self._done: queue.SimpleQueue[tuple[int, R | Exception]] = queue.SimpleQueue()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._cancelled: set[int] = set()
        self._ready: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Event, W] | BaseException] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._live, name="taskgate-http", daemon=True)
        self._thread.start()
        begun = self._ready.get()
        if isinstance(begun, BaseException):
            self._thread.join()
            raise begun
        self._loop, self._stop, self.worker = begun

    def put(self, serial: int, job: J) -> None:
        """Begin a job."""
        self._loop.call_soon_threadsafe(self._begin, serial, job)

    def cancel(self, serials: Collection[int]) -> None:
        """End jobs; nothing comes of them, unless they were done already. All at once: none begins in another's place."""
        self._loop.call_soon_threadsafe(self._end, serials)

    def take(self) -> list[tuple[int, R | Exception]]:
        """Wait until at least one job is done; (serial, what came of it) of all that are."""
        out = [self._done.get()]
        while not self._done.empty():
            out.append(self._done.get())
        return out

    def close(self) -> None:
        """Cancel every job and wait for the thread's end. May be called twice."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def _live(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread, which raises it
            self._ready.put(error)
            self._done.put((_LOOP_ENDED, error if isinstance(error, Exception) else RuntimeError(repr(error))))

    async def _main(self) -> None:
        async with self._open() as worker:
            stop = asyncio.Event()
            self._ready.put((asyncio.get_running_loop(), stop, worker))
            await stop.wait()
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, serial: int, job: J) -> None:
        if not self._stop.is_set():
            task = self._loop.create_task(self._run(serial, job))
            self._tasks[serial] = task
            task.add_done_callback(lambda task: self._over(serial, task))

    def _end(self, serials: Collection[int]) -> None:
        for serial in serials:
            if serial in self._tasks:
                self._cancelled.add(serial)
                self._tasks[serial].cancel()

    def _over(self, serial: int, task: asyncio.Task[None]) -> None:
        """Forget a job. One that was cancelled by nobody here would never come out, and `take` would wait for ever."""
        del self._tasks[serial]
        if task.cancelled() and serial not in self._cancelled and not self._stop.is_set():
            error = InfrastructureError(
                "a request was cancelled by something else than the gate", mend="run the same command again"
            )
            self._done.put((serial, error))
        self._cancelled.discard(serial)

    async def _run(self, serial: int, job: J) -> None:
        try:
            outcome: R | Exception = await self._work(self.worker, job)
        except Exception as error:  # noqa: BLE001 - handed to the caller's thread, which raises it
            outcome = error
        self._done.put((serial, outcome))
