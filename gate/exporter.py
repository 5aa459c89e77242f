"""`gate exporter`: a history goes in, the figures of every current model come out at each scrape, until it is told to stop.

The database is read anew for each scrape, so a new run shows at the next one and a retired model is forgotten. Where it can't be
read the scrape says so (`gate_history_reachable 0`) and shows no model: an old figure would hide that nothing is known.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from gate.errors import GateError, InfrastructureError
from gate.history.location import Location
from gate.history.store import History, open_history
from gate.metrics import Shown, build_info, families, registry_of

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer

Warn = Callable[[str], None]


class Scraped:
    """The history as scrapes see it; opened by the first one that can."""

    def __init__(self, location: Location, version: str, warn: Warn) -> None:
        self._location = location
        self._version = version
        self._warn = warn
        self._history: History | None = None
        self._lock = threading.Lock()
        self._told = ""

    def families(self) -> Iterator[Metric]:
        """Every series of one scrape."""
        with self._lock:
            shown = self._read()
        reachable = GaugeMetricFamily("gate_history_reachable", "1 where the history could be read for this scrape, else 0.")
        reachable.add_metric((), 0.0 if shown is None else 1.0)
        yield reachable
        yield build_info(self._version)
        yield from families(shown or ())

    def _read(self) -> list[Shown] | None:
        try:
            if self._history is None:
                self._history = open_history(self._location, create=False)
            shown = [Shown(now.past.standing, now.memory.passed_at, now.memory.released) for now in self._history.current()]
        except GateError as error:
            if self._told != (message := error.diagnostics()):  # once, not at every scrape
                self._told = message
                self._warn(message)
            return None
        self._told = ""
        return shown


@contextmanager
def serving(location: Location, version: str, *, host: str, port: int, warn: Warn) -> Iterator[int]:
    """Serve scrapes while the block runs; yields the port, which is a free one where 0 was asked for."""
    server, thread = _listen(registry_of(Scraped(location, version, warn).families), host, port)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _listen(registry: CollectorRegistry, host: str, port: int) -> tuple[WSGIServer, threading.Thread]:
    try:
        return start_http_server(port, host, registry)
    except OSError as error:
        raise InfrastructureError(
            f"{host}:{port} cannot be listened on", found=error.strerror or str(error), mend="choose another --host or --port"
        ) from error
