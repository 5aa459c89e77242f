"""The end of a server process: requests in flight are answered, and a start that cannot succeed says why and fails."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.guard.app_client import HARMFUL, keys, metric, running

LONG = "please tell a long story about the weather and the water. " * 800
"""Within the shipped limit of characters."""


def _accepts(host: str, port: int) -> bool:
    """Whether the server takes new connections."""
    try:
        socket.create_connection((host, port), timeout=60).close()
    except ConnectionRefusedError:
        return False
    return True


def test_a_request_in_flight_is_answered_after_sigterm(tiny_bundle: Path) -> None:
    """A request that was begun before SIGTERM, and is whole only when nobody is let in any more, is answered; then the end."""
    body = json.dumps({"texts": [HARMFUL]}).encode()
    lines = ["POST /v1/screen HTTP/1.1", "Host: here", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    head = "\r\n".join([*lines, "Expect: 100-continue", "", ""]).encode()
    with running(tiny_bundle, body_seconds=300, shutdown_seconds=300) as server:
        host, _, port = server.url.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection, connection.makefile("rb") as answers:
            connection.sendall(head)
            assert b"100" in answers.readline()  # the app waits for the body
            server.signal(signal.SIGTERM)
            while _accepts(host, int(port)):
                time.sleep(0.01)
            connection.sendall(body)
            assert answers.readline() == b"\r\n"
            assert b"200" in answers.readline()
            assert b'"decision":"block"' in answers.read()
        assert server.wait() in {0, -signal.SIGTERM}
        assert not [line for line in server.lines if "Traceback" in line]


def test_while_draining_the_server_is_not_ready_and_still_answers(tiny_bundle: Path) -> None:
    """Between SIGTERM and the end of accepting, readyz is 503 and requests are served; a second SIGTERM ends it at once."""
    with running(tiny_bundle, drain_seconds=60) as server, httpx.Client(base_url=server.url) as http:
        assert http.get("/readyz").status_code == 200
        server.signal(signal.SIGTERM)
        while (answer := http.get("/readyz")).status_code == 200:
            time.sleep(0.01)
        assert (answer.status_code, answer.json()) == (503, {"status": "draining"})
        assert http.post("/v1/screen", json={"texts": HARMFUL}).json()["decision"] == "block"
        server.signal(signal.SIGTERM)
        server.wait()


def test_the_drain_ends_by_itself(tiny_bundle: Path) -> None:
    """After `drain_seconds` the process ends without another signal."""
    with running(tiny_bundle, drain_seconds=0.2) as server:
        server.signal(signal.SIGTERM)
        server.wait()


def test_a_client_who_goes_away_leaves_the_queue(tiny_bundle: Path) -> None:
    """Work for a connection that was closed is dropped, counted, and its permit given back."""
    with running(tiny_bundle, max_queue_tokens=100_000_000, deadline_seconds=600) as server:
        with httpx.Client(base_url=server.url, timeout=60) as http:

            def shown(name: str, **labels: str) -> float:
                return metric(http.get("/metrics").text, name, **labels)

            async def leave() -> None:
                async with httpx.AsyncClient(base_url=server.url, timeout=600) as client:
                    asked = asyncio.create_task(client.post("/v1/screen", json={"texts": [LONG] * 40}))
                    while metric((await client.get("/metrics")).text, "guard_queue_segments") == 0:
                        if asked.done():  # answered before anybody looked: once more
                            assert asked.result().status_code == 200
                            asked = asyncio.create_task(client.post("/v1/screen", json={"texts": [LONG] * 40}))
                        await asyncio.sleep(0.002)
                    asked.cancel()
                    await asyncio.gather(asked, return_exceptions=True)

            end = time.monotonic() + 120
            while shown("guard_dropped_total", reason="cancelled") == 0:
                assert time.monotonic() < end, http.get("/metrics").text
                asyncio.run(leave())  # again where all was scored before the client had gone
            while shown("guard_requests_in_flight") or shown("guard_queue_segments"):
                assert time.monotonic() < end, http.get("/metrics").text
                time.sleep(0.01)
            assert http.post("/v1/screen", json={"texts": HARMFUL}).json()["decision"] == "block"
        assert not [line for line in server.lines if "Traceback" in line]


def _start(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "guard_server", "serve", "--port", "0", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env={"PATH": "/usr/bin", **variables})


@pytest.mark.parametrize("case", ["no bundle", "damaged", "policy", "open address", "keys"])
def test_a_start_that_cannot_succeed_fails_with_a_reason(tiny_bundle: Path, tmp_path: Path, case: str) -> None:
    """A missing or damaged bundle, a wrong policy, an unsafe address and useless keys: one line, a code, no traceback."""
    (tmp_path / "bad.yaml").write_text("policies: 1")
    bundle = ["--bundle", str(tiny_bundle)]
    given: dict[str, tuple[list[str], dict[str, str], int]] = {
        "no bundle": (["--bundle", str(tmp_path / "missing")], {}, 3),
        "damaged": (["--bundle", str(tmp_path)], {}, 3),
        "policy": ([*bundle, "--policies", str(tmp_path / "bad.yaml")], {}, 2),
        "open address": ([*bundle, "--host", "0.0.0.0"], {}, 2),
        "keys": (bundle, {"GUARD_API_KEYS": keys(a="screen")[0]["a"]}, 2),
    }
    options, variables, code = given[case]
    done = _start(*options, **variables)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("guard: ")
    assert all(value not in done.stderr for name, value in variables.items() if name == "GUARD_API_KEYS")


def test_a_port_that_is_taken_is_an_error(tiny_bundle: Path) -> None:
    """A second server on one port ends with a code other than 0, and says why."""
    with running(tiny_bundle) as server:
        port = server.url.rpartition(":")[2]
        done = _start("--bundle", str(tiny_bundle), "--port", port)
        assert done.returncode not in {0, None}
        assert "address already in use" in done.stderr
        assert "Traceback" not in done.stderr
