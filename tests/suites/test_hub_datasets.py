"""Claims about data sets named on the hub, against a loopback server in the hub's layout and the real huggingface_hub.

huggingface_hub reads its endpoint when it is imported, so each claim runs in a process of its own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "fedcba9876543210fedcba9876543210fedcba98"
CONTENT = b"prompt\nWear a hat\n"
BUILD = """
import sys
from gate.errors import GateError
from gate.suites.loaders import build_suite
try:
    print(build_suite(sys.argv[1]).items[0].messages[0].content)
except GateError as error:
    print(type(error).__name__, int(error.exit_code))
"""


class Handler(BaseHTTPRequestHandler):
    """One data set, org/hats, with one file, data/hats.csv, at revision v1."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Stay silent."""

    def do_HEAD(self) -> None:
        """Headers alone."""
        self.answer()

    def do_GET(self) -> None:
        """Headers and body."""
        self.answer()

    def answer(self) -> None:
        """The file, the revision's commit, or the hub's code for what is not there."""
        if not self.path.startswith(("/datasets/org/hats/", "/api/datasets/org/hats")):
            self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif not re.search(rf"/(v1|{COMMIT})(/|$)", self.path):
            self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif self.path.startswith("/api/"):
            self.send(200, f'{{"id":"org/hats","sha":"{COMMIT}","siblings":[]}}'.encode(), {})
        elif self.path.endswith("/data/hats.csv"):
            self.send(200, CONTENT, {"X-Repo-Commit": COMMIT, "ETag": '"hats"'})
        else:
            self.send(404, b"{}", {"X-Error-Code": "EntryNotFound"})

    def send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        """One response, its body left out for HEAD."""
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@pytest.fixture
def endpoint() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def build(source: str, endpoint: str, home: Path, offline: str = "0") -> str:
    """What a fresh process makes of `source`: the first prompt, or the error's name and exit code."""
    env = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": offline, "NO_PROXY": "127.0.0.1"}
    done = subprocess.run([sys.executable, "-c", BUILD, source], env=env, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.strip()


def test_a_file_is_fetched_once_and_then_found_offline(endpoint: str, tmp_path: Path) -> None:
    """The named file is downloaded and built from; afterwards the same name works without a network."""
    source = "hf://datasets/org/hats@v1/data/hats.csv"
    assert build(source, endpoint, tmp_path) == "Wear a hat"
    assert build(source, endpoint, tmp_path, offline="1") == "Wear a hat"


@pytest.mark.parametrize("source", ["org/shoes@v1/data/hats.csv", "org/hats@v2/data/hats.csv", "org/hats@v1/data/socks.csv"])
def test_what_the_hub_does_not_have_is_a_usage_error(endpoint: str, tmp_path: Path, source: str) -> None:
    """An unknown data set, revision or file is a SuiteError (exit code 2): trying again would not help."""
    assert build(f"hf://datasets/{source}", endpoint, tmp_path) == "SuiteError 2"


@pytest.mark.full  # the library tries again for some 20 s before it gives up
def test_a_hub_that_refuses_connections_is_an_infrastructure_error(endpoint: str, tmp_path: Path) -> None:
    """No hub at the endpoint is an InfrastructureError (exit code 5)."""
    assert build("hf://datasets/org/hats@v1/data/hats.csv", "http://127.0.0.1:9", tmp_path) == "InfrastructureError 5"
