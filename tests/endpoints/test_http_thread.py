"""The thread with an event loop: what goes in comes out, what breaks is raised, nothing is left."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from gate.endpoints.http_thread import LoopThread
from gate.errors import InfrastructureError


@asynccontextmanager
async def opened(log: list[str]) -> AsyncIterator[list[str]]:
    """A worker that writes down its beginning and its end."""
    log.append("open")
    yield log
    log.append("closed")


def thread_of(log: list[str], work: Callable[[list[str], float], Awaitable[float]]) -> LoopThread[list[str], float, float]:
    return LoopThread(lambda: opened(log), work)


async def doubled(_log: list[str], job: float) -> float:
    """Take `job` seconds, give twice that; a negative job breaks."""
    if job < 0:
        raise ValueError("negative")
    await asyncio.sleep(job)
    return 2 * job


def test_jobs_come_out_under_their_numbers_and_errors_as_what_they_are() -> None:
    """Each number comes out once with its result, one that breaks with its exception; the worker is closed at the end."""
    log: list[str] = []
    thread = thread_of(log, doubled)
    for serial, job in enumerate((0.0, 0.01, -1.0), start=1):
        thread.put(serial, job)
    came: dict[int, float | Exception] = {}
    while len(came) < 3:
        came.update(thread.take())
    thread.close()
    thread.close()
    assert (came[1], came[2]) == (0.0, 0.02)
    assert isinstance(came[3], ValueError)
    assert log == ["open", "closed"]


def test_a_cancelled_job_does_not_come_out() -> None:
    """Of two jobs that wait for a third, the one that is cancelled never comes, though it would have come before the other."""
    let_go = asyncio.Event()

    async def waiting(_log: list[str], job: float) -> float:
        if job == 3:
            let_go.set()
        await let_go.wait()
        return job

    thread = thread_of([], waiting)
    thread.put(1, 1.0)
    thread.put(2, 2.0)
    thread.cancel([1])
    thread.put(3, 3.0)
    came: list[tuple[int, float | Exception]] = []
    while len(came) < 2:
        came += thread.take()
    assert sorted(came, key=lambda found: found[0]) == [(2, 2.0), (3, 3.0)]
    thread.close()


def test_of_jobs_cancelled_together_none_begins_in_the_others_place() -> None:
    """Jobs wait for a lock that the first one holds: cancelled with it, none of them is let in by its end."""
    log: list[str] = []
    lock = asyncio.Lock()

    async def one_at_a_time(log: list[str], job: float) -> float:
        async with lock:
            log.append(f"begun {job}")
            await asyncio.sleep(600)
        return job

    thread = thread_of(log, one_at_a_time)
    serials = list(range(1, 3000))
    for serial in serials:
        thread.put(serial, float(serial))
    thread.cancel(serials)
    thread.close()
    assert [line for line in log if line.startswith("begun")] in ([], ["begun 1.0"])


async def cancelled(_log: list[str], job: float) -> float:
    """A job of 0 ends as cancelled by itself, one of 1 by somebody else; others take their time."""
    if job == 1:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)
    if job == 0:
        raise asyncio.CancelledError
    await asyncio.sleep(job)
    return job


@pytest.mark.parametrize("job", [0.0, 1.0])
def test_a_job_that_others_cancel_comes_out_as_an_error(job: float) -> None:
    """A job that ends as cancelled though nobody asked for that is a failure of the machine, not a wait for ever."""
    thread = thread_of([], cancelled)
    thread.put(1, job)
    thread.put(2, 600.0)
    thread.cancel([2])
    ((serial, error),) = thread.take()
    assert serial == 1
    assert isinstance(error, InfrastructureError)
    thread.close()


def test_closing_does_not_wait_for_jobs() -> None:
    """A job of ten minutes is cancelled with the thread, and the worker is closed all the same."""
    log: list[str] = []
    before = set(threading.enumerate())
    thread = thread_of(log, doubled)
    thread.put(1, 600.0)
    thread.close()
    assert set(threading.enumerate()) <= before
    assert log == ["open", "closed"]


def test_a_worker_that_does_not_open_is_raised_at_once() -> None:
    """What opening raises is raised to the caller, and no thread stays."""

    class Broken(AbstractAsyncContextManager[None]):
        async def __aenter__(self) -> None:
            raise LookupError("no worker")

        async def __aexit__(self, *_: object) -> None:
            pass

    async def never(_worker: None, job: float) -> float:
        return job

    before = set(threading.enumerate())
    with pytest.raises(LookupError, match="no worker"):
        LoopThread(Broken, never)
    assert set(threading.enumerate()) <= before
