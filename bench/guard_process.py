"""The guard as a process of its own: started on a free port, read by psutil, stopped at the end whatever happens.

In: a bundle folder and settings as environment variables. Out: where it listens, and what it has used so far.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Usage:
    """What the process has used: processor seconds since its start, memory, threads and file descriptors now."""

    cpu: float
    rss: int
    """Bytes."""
    threads: int
    files: int


class GuardProcess:
    """`guard serve` with a bundle; a context manager. Its log goes to a file that is removed with it."""

    def __init__(self, bundle: Path, *, workers: int, **settings: str) -> None:
        """`settings`: GUARD_ variables by their names without the prefix, in lower case."""
        if not bundle.is_dir():
            raise FileNotFoundError(f"{bundle} is no bundle folder: give one with --bundle")
        self._command = [sys.executable, "-m", "guard_server", "serve"]
        self._command += ["--bundle", str(bundle), "--port", "0", "--workers", str(workers)]
        # Not what this shell happens to have set: a measurement states all of its settings.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GUARD_")}
        self._environment = inherited | {f"GUARD_{name.upper()}": value for name, value in settings.items()}
        self.host, self.port = "127.0.0.1", 0

    def __enter__(self) -> Self:
        """Start, and wait until it listens; `RuntimeError` with its last lines where it does not."""
        self._log = tempfile.NamedTemporaryFile("w+", suffix=".log")
        # A group of its own: Ctrl-C reaches the bench alone, which then stops the server in order.
        self._popen = subprocess.Popen(self._command, stderr=self._log, env=self._environment, start_new_session=True)
        self._process = psutil.Process(self._popen.pid)
        try:
            self.port = self._listening()
        except BaseException:  # an interruption too must leave no server behind
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop it."""
        self._stop()

    def usage(self) -> Usage:
        """What it has used up to now; processor time in steps of the kernel's clock (10 ms)."""
        with self._process.oneshot():
            times = self._process.cpu_times()
            return Usage(
                times.user + times.system,
                self._process.memory_info().rss,
                self._process.num_threads(),
                self._process.num_fds(),
            )

    def hang_up(self) -> None:
        """SIGHUP: reload."""
        self._popen.send_signal(signal.SIGHUP)

    def log(self) -> str:
        """What it has written so far."""
        return Path(self._log.name).read_text(encoding="utf-8", errors="replace")

    def _listening(self) -> int:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._popen.poll() is None:
            for line in self.log().splitlines():
                if line.startswith("guard: serving on "):
                    return int(line.split()[3].rpartition(":")[2])
            time.sleep(0.05)
        raise RuntimeError("the guard did not start:\n" + "\n".join(self.log().splitlines()[-10:]))

    def _stop(self) -> None:
        self._popen.terminate()
        try:
            self._popen.wait(30)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        self._log.close()
