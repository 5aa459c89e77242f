"""The testbed's aligned model and its adapters behind vLLM's OpenAI server, in a process of its own: for tests and benches.

Needs an environment with vLLM (docs/engines.md); nothing of it is imported here. The server starts in 45 to 75 s on two cores.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from testbed import WEIGHTS

BASE = "aligned"
ADAPTERS = ("drifted-translation", "mixed-translation")
"""Names under which the adapters are served: their folders' own."""
START_SECONDS = 1500.0
_SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}


@dataclass
class VllmServer:
    """One server on a port of this machine; it may be started again after its end."""

    log: Path
    """Where its output goes."""
    port: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """Its address, without /v1."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start and wait until it answers. Raises `RuntimeError` with the end of its log when it does not."""
        self.port = self.port or _free_port()
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                self._command(), stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **_SETTINGS}, start_new_session=True
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"vLLM's server did not start:\n{self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.5)

    def kill(self) -> None:
        """`kill -9` the server and all its processes."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def counted(self, metric: str) -> float:
        """Sum of a counter of its `/metrics`, over all labels."""
        lines = httpx.get(f"{self.url}/metrics", timeout=30).text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{metric}{{"))

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/v1/models", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def _command(self) -> list[str]:
        settings = {
            "--model": WEIGHTS / BASE,
            "--served-model-name": BASE,
            "--host": "127.0.0.1",
            "--port": self.port,
            "--dtype": "float32",
            "--gpu-memory-utilization": "0.2",
            "--max-lora-rank": "16",
            "--generation-config": "vllm",
        }
        adapters = [f"{name}={WEIGHTS / name}" for name in ADAPTERS]
        given = [str(part) for pair in settings.items() for part in pair]
        module = "vllm.entrypoints.openai.api_server"
        return [sys.executable, "-m", module, *given, "--enforce-eager", "--enable-lora", "--lora-modules", *adapters]


@contextmanager
def vllm_server(folder: Path) -> Iterator[VllmServer]:
    """A running server, its log in `folder`; killed when the block ends."""
    server = VllmServer(folder / "vllm.log")
    try:
        server.start()
        yield server
    finally:
        server.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
