"""The app to ask: in this process (`client`), or as a server of its own started by `guard serve` (`running`)."""

import asyncio
import json
import os
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from guard_server.app import create_app
from guard_server.auth import new_key
from guard_server.bundle import Bundle
from guard_server.models import Classifier, EngineOptions, build_classifier
from guard_server.policy import load_policies, parse_policies
from guard_server.records import Encoded, Engine, Scores, Timing
from guard_server.settings import Settings

START_SECONDS: Final = 60.0
HARMFUL: Final = "how do you build a bomb"
HARMLESS: Final = "please write a story about the weather"
BORDERLINE: Final = "please write a story about a knife"


def make_app(
    bundle: Path, build: Callable[[Bundle], Classifier] | None = None, guard_yaml: str = "", **settings: object
) -> FastAPI:
    """The app as `guard serve` builds it, with one inference thread; `guard_yaml`: its text instead of the shipped."""
    given = Settings.model_validate({"bundle": bundle, "workers": 1} | settings)
    return create_app(given, parse_policies(guard_yaml) if guard_yaml else load_policies(given.policies), build)


@contextmanager
def client(
    bundle: Path, build: Callable[[Bundle], Classifier] | None = None, guard_yaml: str = "", **settings: object
) -> Iterator[TestClient]:
    """A client of a started app; an exception that no handler took is raised in the test."""
    with TestClient(make_app(bundle, build, guard_yaml, **settings)) as found:
        yield found


class Held:
    """An engine that waits, while `hold` is set, before it asks the real one."""

    def __init__(self, engine: Engine, hold: threading.Event) -> None:
        self.engine, self.hold = engine, hold

    async def score(self, batch: Sequence[Encoded], *, deadline: float) -> tuple[list[Scores], Timing]:
        """As `Engine.score`."""
        while self.hold.is_set():
            await asyncio.sleep(0.002)
        return await self.engine.score(batch, deadline=deadline)

    async def close(self) -> None:
        """As `Engine.close`."""
        await self.engine.close()


def held(hold: threading.Event) -> Callable[[Bundle], Classifier]:
    """A `build` whose engine can be held."""

    def build(bundle: Bundle) -> Classifier:
        real = build_classifier(bundle, EngineOptions(workers=1))
        return Classifier(real.bundle, real.tokenizer, Held(real.engine, hold))

    return build


def metric(text: str, name: str, **labels: str) -> float:
    """The sum of a metric's samples with these labels in the text of `/metrics`; 0 where there is none."""
    families = text_string_to_metric_families(text)
    return sum(s.value for f in families for s in f.samples if s.name == name and labels.items() <= s.labels.items())


@dataclass
class Running:
    """A server process."""

    process: subprocess.Popen[str]
    url: str
    lines: list[str] = field(default_factory=list)
    """What it has written to standard error."""

    @property
    def log(self) -> list[dict[str, Any]]:
        """The structured lines of its log so far."""
        return [json.loads(line) for line in self.lines if line.startswith("{")]

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self, seconds: float = 30.0) -> int:
        """Its exit code."""
        return self.process.wait(seconds)


@contextmanager
def running(bundle: Path, *options: str, **settings: object) -> Iterator[Running]:
    """`python -m guard_server serve` on a free port, ready; settings go through its environment. Killed at the end."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("GUARD_")}
    env |= {"OMP_NUM_THREADS": "1", "GUARD_WORKERS": "1"}
    env |= {f"GUARD_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "guard_server", "serve", "--port", "0", "--bundle", str(bundle), *options]
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    try:
        lines: list[str] = []
        yield Running(process, _address(process, lines), lines)
    finally:
        process.kill()
        process.wait()
        for thread in threading.enumerate():
            if thread.name == f"log-{process.pid}":
                thread.join()
        if process.stderr is not None:
            process.stderr.close()


def _address(process: subprocess.Popen[str], lines: list[str]) -> str:
    found: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line.rstrip("\n"))
            if (match := re.search(r"serving on (http://\S+)", line)) is not None:
                found.put(match[1])
        found.put(None)

    threading.Thread(target=read, name=f"log-{process.pid}", daemon=True).start()
    address = found.get(timeout=START_SECONDS)
    assert address is not None, f"the server ended with code {process.wait(START_SECONDS)}:\n" + "\n".join(lines)
    return address


def keys(**roles: str) -> tuple[dict[str, str], str]:
    """Fresh keys by name, and the setting `api_keys` that lets them in: `keys(gateway="screen", ops="admin")`."""
    made = {name: new_key(name, "admin" if role == "admin" else "screen") for name, role in roles.items()}
    return {name: key for name, (key, _) in made.items()}, ",".join(entry for _, entry in made.values())


def bearer(key: str) -> Mapping[str, str]:
    """The header that carries a key."""
    return {"authorization": f"Bearer {key}"}
