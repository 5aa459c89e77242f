"""Connections that send nothing, or too slowly: they end, they cost nobody else an answer, and probes tell full from dead."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from http.client import HTTPResponse
from pathlib import Path

import httpx
import pytest

from tests.guard.app_client import HARMFUL, Running, metric, running

STREAM = "/v1/screen/stream"
Open = Callable[[Running, bytes], socket.socket]


@pytest.fixture(scope="module")
def impatient(tiny_bundle: Path) -> Iterator[Running]:
    """A server with one permit that waits half a second for a body, and as long as it takes for a stream's."""
    with running(tiny_bundle, max_requests=1, body_seconds=0.5, stream_idle_seconds=600) as server:
        yield server


@pytest.fixture(scope="module")
def patient(tiny_bundle: Path) -> Iterator[Running]:
    """A server with one permit that waits half a second for the next part of a stream, and as long as it takes for a body."""
    with running(tiny_bundle, max_requests=1, body_seconds=600, stream_idle_seconds=0.5) as server:
        yield server


@pytest.fixture
def opened() -> Iterator[Open]:
    """Opens connections that have said so much; they are closed at the end, whatever happens."""
    with ExitStack() as stack:

        def open_one(server: Running, said: bytes) -> socket.socket:
            url = httpx.URL(server.url)
            found = stack.enter_context(closing(socket.create_connection((url.host, url.port), timeout=30)))
            found.sendall(said)
            return found

        yield open_one


def _post(path: str, body: bytes, more: int = 0) -> bytes:
    """A request whose body has so many more bytes than are sent."""
    return f"POST {path} HTTP/1.1\r\nhost: guard\r\ncontent-length: {len(body) + more}\r\n\r\n".encode() + body


def _answer(connection: socket.socket) -> tuple[HTTPResponse, bytes]:
    answer = HTTPResponse(connection)
    answer.begin()
    return answer, answer.read()


def test_silent_connections_cost_nobody_an_answer_and_are_closed(impatient: Running, opened: Open) -> None:
    """With one permit and 70 connections that say nothing or half a head, probes and screening answer; these are closed."""
    silent = [opened(impatient, said) for said in [b"", b"POST /v1/screen HTTP/1.1\r\nhost:"] * 35]
    with httpx.Client(base_url=impatient.url) as http:
        assert [http.get(path).status_code for path in ("/healthz", "/readyz", "/metrics")] == [200, 200, 200]
        assert http.post("/v1/screen", json={"texts": HARMFUL}).json()["decision"] == "block"
        assert [connection.recv(1) for connection in silent] == [b""] * 70


def test_a_connection_that_says_half_a_second_head_is_closed(impatient: Running, opened: Open) -> None:
    """The time of a head is counted for each request of a connection."""
    connection = opened(impatient, b"GET /healthz HTTP/1.1\r\nhost: guard\r\n\r\n")
    assert _answer(connection)[0].status == 200
    connection.sendall(b"GET /hea")
    assert connection.recv(1) == b""


def test_a_body_that_does_not_come_is_answered_in_our_shape(impatient: Running, opened: Open) -> None:
    """408 with an error like any other, and the connection is closed; nothing is logged as a defect."""
    connection = opened(impatient, _post("/v1/screen", b'{"texts": "a', more=2))
    answer, body = _answer(connection)
    error = json.loads(body)["error"]
    assert (answer.status, error["type"], error["request_id"]) == (408, "request_timeout", answer.headers["x-request-id"])
    assert connection.recv(1) == b""
    assert not [line for line in impatient.log if line["level"] == "error"]


def test_a_stream_has_a_time_for_each_part_and_none_for_the_whole(impatient: Running, opened: Open) -> None:
    """Where bodies have half a second, a stream goes on after a longer silence."""
    connection = opened(impatient, _post(STREAM, b"{}\n", more=14))
    time.sleep(1)
    connection.sendall(b'{"text": "hi"}')
    answer, body = _answer(connection)
    assert (answer.status, [json.loads(line)["event"] for line in body.splitlines()]) == (200, ["text", "end"])


def test_a_stream_that_falls_silent_ends_with_an_error(patient: Running, opened: Open) -> None:
    """The status has left, so it is the last event that says so; before the head has come, it is the status."""
    connection = opened(patient, _post(STREAM, b"{}\n", more=14))
    event = json.loads(_answer(connection)[1].splitlines()[-1])
    assert (event["event"], event["error"]["type"], event["released"]) == ("error", "request_timeout", 0)
    assert _answer(opened(patient, _post(STREAM, b"{", more=14)))[0].status == 408


def test_more_open_requests_than_there_is_room_for_are_refused_but_for_probes(patient: Running, opened: Open) -> None:
    """With one permit the ninth open request is answered 503 with Retry-After, and counted; when they go, it is served."""
    slow = [opened(patient, _post("/v1/screen", b"{", more=2)) for _ in range(8)]
    with httpx.Client(base_url=patient.url) as http:
        _until(lambda: http.get("/v1/models").status_code == 503)
        answer = http.post("/v1/screen", json={"texts": HARMFUL})
        assert (answer.status_code, answer.json()["error"]["type"]) == (503, "overloaded")
        assert int(answer.headers["retry-after"]) >= 1
        assert [http.get(path).status_code for path in ("/healthz", "/readyz", "/metrics")] == [200, 200, 200]
        assert metric(http.get("/metrics").text, "guard_shed_total") >= 2
        assert metric(http.get("/metrics").text, "guard_requests_total", route="unknown", code="503") >= 2
        for connection in slow:
            connection.close()
        _until(lambda: http.get("/v1/models").status_code == 200)
        assert http.post("/v1/screen", json={"texts": HARMFUL}).json()["decision"] == "block"


def _until(happens: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not happens():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
