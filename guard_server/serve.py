"""Running the app: uvicorn with our settings, SIGHUP to reload, SIGTERM to drain and stop."""

import asyncio
import signal
import sys
from types import FrameType

import uvicorn
from fastapi import FastAPI

from guard_server.app import create_app
from guard_server.errors import GuardError
from guard_server.lifecycle import load_configured, reload
from guard_server.policy import load_policies
from guard_server.service import Guard
from guard_server.settings import Settings


class Server(uvicorn.Server):
    """uvicorn's server, with a drain between the signal and the end of accepting."""

    def __init__(self, config: uvicorn.Config, guard: Guard) -> None:
        super().__init__(config)
        self.guard = guard
        self._timer: asyncio.TimerHandle | None = None
        self._silent: dict[object, object] = {}
        self._look_at = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first SIGTERM turns readyz to 503 and stops accepting after `drain_seconds`; a second one stops at once."""
        seconds = self.guard.settings.drain_seconds
        if sig != signal.SIGTERM or not seconds or self.guard.draining:
            super().handle_exit(sig, frame)
            return
        self.guard.draining = True
        self._timer = asyncio.get_running_loop().call_later(seconds, super().handle_exit, sig, frame)

    async def startup(self, sockets: list | None = None) -> None:  # type: ignore[type-arg]
        """Begin serving; from now on SIGHUP reloads. A bundle that cannot be served raises its `GuardError` here."""
        # Not left to the app's lifespan, of whose failures uvicorn prints the traceback.
        await load_configured(self.guard)
        await super().startup(sockets)
        if hasattr(signal, "SIGHUP"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)
        if self.started:
            self._say_where()

    async def on_tick(self, counter: int) -> bool:
        """Every 0.1 s: uvicorn's own care, and closing what has not sent a whole head for `body_seconds` (to twice as long)."""
        now = asyncio.get_running_loop().time()
        if now >= self._look_at:
            self._look_at = now + self.guard.settings.body_seconds
            self._close_silent()
        return await super().on_tick(counter)

    def _close_silent(self) -> None:
        """Close the connections that are between requests and were so, after the same request, when this was last called."""
        found: dict[object, object] = {}
        for connection in list(self.server_state.connections):
            # The request that it answers or has answered last; uvicorn ends idle connections only after a first one.
            cycle = getattr(connection, "cycle", None)
            if cycle is not None and not cycle.response_complete:
                continue
            found[connection] = cycle
            if connection in self._silent and self._silent[connection] is cycle and connection.transport is not None:
                connection.transport.close()
        self._silent = found

    def _reload(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._try_reload())

    async def _try_reload(self) -> None:
        try:
            await reload(self.guard, None)
        except GuardError:
            return  # it is logged and counted; what was served is served on

    def _say_where(self) -> None:
        port = next((s.getsockname()[1] for server in self.servers for s in server.sockets), self.config.port)
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        where = f"http://{host}:{port}"
        keys = "with a key" if self.guard.settings.has_keys else "no key needed"
        print(f"guard: serving on {where} ({keys}); the playground is at {where}/", file=sys.stderr)


def build(settings: Settings) -> FastAPI:
    """The app that `guard serve` runs."""
    return create_app(settings, load_policies(settings.policies))


def run(settings: Settings) -> None:
    """Serve until stopped."""
    app = build(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=int(settings.shutdown_seconds),
        # No limit_concurrency: it counts silent connections, so that a few would turn the probes away. We bound requests instead.
        ws="none",
    )
    Server(config, app.state.guard).run()
