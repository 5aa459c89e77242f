"""One ask, from its request to its record, with every attempt between. Lives in an event loop.

In: an ask. Out: `Asked`, in which each failure of the ask is a `NoResponse`. What concerns the whole server (a refused key)
raises.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx

from gate.endpoints import http_wire
from gate.endpoints.http_request import Failed, Patience, fetch, insist, open_client, short, without_key
from gate.endpoints.http_server import KEY_VARIABLES, Identity
from gate.endpoints.http_window import Window
from gate.errors import InfrastructureError
from gate.records import Ask, NoResponse, Response


@dataclass(frozen=True)
class Asked:
    """What came of an ask."""

    answer: Response | NoResponse
    other: str = ""
    """Name of the model that answered, where it is not the one asked."""


@dataclass(frozen=True)
class Asker:
    """A client of one served model, with its window."""

    identity: Identity
    patience: Patience
    client: httpx.AsyncClient
    window: Window
    key: str = field(repr=False)

    @staticmethod
    @asynccontextmanager
    async def open(identity: Identity, key: str, in_flight: int, patience: Patience) -> AsyncIterator[Asker]:
        """Open a client in the running loop, for at most `in_flight` requests at a time."""
        async with open_client(key, connections=in_flight) as client:
            yield Asker(identity, patience, client, Window(in_flight, asyncio.get_running_loop().time), key)

    async def ask(self, ask: Ask) -> Asked:
        """Ask with all attempts. Raises `InfrastructureError` when the server refuses the key."""
        model = self.identity.model
        try:
            path, body = http_wire.request(ask, model, str(self.identity.stated.get("owned_by", "")))
            data = await insist(lambda: self._attempt(path, body), self.patience)
            return Asked(http_wire.response(ask, model, data))
        except Failed as failed:
            reason = short(without_key(str(failed), self.key))
            if failed.locked:
                raise InfrastructureError(
                    f"{self.identity.url} does not let us in",
                    found=reason,
                    mend=f"set {KEY_VARIABLES[0]} to a valid key; the same command resumes",
                ) from failed
            answer = NoResponse(case_id=ask.case.id, sample=ask.sample, key=ask.key, kind=failed.kind, reason=reason)
            return Asked(answer, without_key(failed.model, self.key) if isinstance(failed, http_wire.OtherModel) else "")

    async def _attempt(self, path: str, body: dict[str, object]) -> bytes:
        """One attempt in a slot of the window, which learns from how it went. Back-off happens outside of the slot."""
        async with self.window.slot() as round_:
            try:
                url = self.identity.url + path
                data = await fetch(self.client, "POST", url, self.patience.seconds, body, self.patience.longest_pause)
            except Failed as failed:
                if failed.pushed_back:
                    self.window.pushed_back(round_, failed.pause)
                raise
            self.window.answered()
            return data
