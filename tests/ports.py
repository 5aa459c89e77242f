"""A free port of this machine, for servers that can't be told to take any."""

from __future__ import annotations

import socket


def free_port() -> int:
    """A port that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
