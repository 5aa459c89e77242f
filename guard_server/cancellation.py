"""Work for a caller who has gone away is not worth finishing: it is cancelled when the request's client disconnects."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

T = TypeVar("T")
PATIENCE_SECONDS = 0.05
"""Most answers come sooner; only after this is the connection watched, so that short requests don't pay for it."""


async def unless_disconnected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; cancels it and raises `ClientDisconnect` where the client closes the connection first."""
    task = asyncio.ensure_future(work)
    watcher: asyncio.Future[None] | None = None
    try:
        await asyncio.wait({task}, timeout=PATIENCE_SECONDS)
        if not task.done():
            watcher = asyncio.ensure_future(_gone(request))
            await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ClientDisconnect
        return task.result()
    finally:
        for pending in (task, watcher):
            if pending is not None and not pending.done():
                pending.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
