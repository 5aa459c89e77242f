"""A served candidate: URL and name in, record out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gate.check_options import Sides, is_url
from gate.endpoints.http_request import Patience
from gate.endpoints.http_server import parse_address
from gate.errors import CandidateError, UsageError
from gate.served import load_served
from tests.fault_server import FaultServer, entry, running

QUICK = Patience(seconds=60, attempts=2, first_wait=0.001, jitter=0)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    """A server of a base and an adapter."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("TASKGATE_API_KEY", raising=False)
    models = [entry("base", root="/m", created=5), entry("adapter", root="/a", parent="base", meta={"n_vocab": 7, "x": []})]
    with running(FaultServer(script=str, models=models)) as running_server:
        yield running_server


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://Host:8000", "http://host:8000/v1"),
        ("HTTP://host:80/v1/", "http://host/v1"),
        ("https://host/openai/v1", "https://host/openai/v1"),
        ("https://host/proxy/", "https://host/proxy/v1"),
        ("http://[::1]:8000", "http://[::1]:8000/v1"),
        (" http://10.0.0.1 ", "http://10.0.0.1/v1"),
    ],
)
def test_an_address_has_one_form(given: str, url: str) -> None:
    """Ways to write the same server give the same URL, with /v1 at its end."""
    assert parse_address(given).url == url


@pytest.mark.parametrize(
    "given",
    [
        "http://me:secret@host/v1",
        "http://secret@host",
        "https://host/v1?api_key=secret",
        "https://host/v1#secret",
        "ftp://host/secret",
        "http:///secret",
        "http://host:port-secret",
        "secret",
    ],
)
def test_a_url_with_a_secret_or_without_a_host_is_refused(given: str) -> None:
    """Credentials, queries and what is no server's address are usage errors that don't repeat what may be a secret."""
    with pytest.raises(UsageError) as caught:
        parse_address(given)
    assert "secret" not in caught.value.diagnostics()


def test_a_model_that_is_not_served_is_answered_with_those_that_are(server: FaultServer) -> None:
    """The error names the served models."""
    with pytest.raises(CandidateError) as caught:
        load_served(server.url, "typo", patience=QUICK)
    assert "adapter, base" in caught.value.found


def test_a_model_must_be_named(server: FaultServer) -> None:
    """A URL without a model is a usage error that points to --model."""
    with pytest.raises(UsageError, match="which of its models") as caught:
        load_served(server.url, " ", patience=QUICK)
    assert "--model" in caught.value.mend


def test_the_digest_is_over_what_the_server_states(server: FaultServer) -> None:
    """The same server gives the same digest whatever the URL's form and the date; another root, base or size another one."""
    first = load_served(server.url, "adapter", patience=QUICK)
    assert (first.kind, first.path, first.source) == ("endpoint", "adapter", f"{server.url}/v1")
    assert load_served(f"{server.url}/v1/", "adapter", patience=QUICK) == first
    assert "no file was scanned" in first.warnings[0]
    sound = list(server.models)
    digests = {first.trial_digest}
    for changed in (
        [sound[0], {**sound[1], "root": "/b"}],
        [{**sound[0], "root": "/n"}, sound[1]],
        [sound[0], {**sound[1], "meta": {"n_vocab": 8}}],
    ):
        server.models = changed
        digests.add(load_served(server.url, "adapter", patience=QUICK).trial_digest)
    assert len(digests) == 4
    server.models = [{**sound[0], "created": 99}, {**sound[1], "created": 99, "permission": [1]}]
    assert load_served(server.url, "adapter", patience=QUICK) == first
    assert load_served(server.url, "base", patience=QUICK).digest != first.digest


@pytest.mark.parametrize("models", [{"data": 1}, [1, 2], ["x"], [{"id": 3}]])
def test_what_is_no_list_of_models_is_refused(server: FaultServer, models: object) -> None:
    """A server that answers /models in another shape is no candidate."""
    server.models = models  # type: ignore[assignment]
    with pytest.raises(CandidateError):
        load_served(server.url, "base", patience=QUICK)


def test_urls_are_told_from_folders() -> None:
    """Only http and https make a URL; a hub name and a folder don't."""
    assert [is_url(s) for s in ("http://h", "HTTPS://h/v1", "hf://a/b@c", "/http://x", "http")] == [
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize("side", ["candidate", "baseline"])
def test_the_command_refuses_credentials_before_it_says_anything_else(side: str) -> None:
    """A URL with a password, on either side, is refused without the password, even where --model is missing too."""
    sides = {"candidate": "http://host:8000", "baseline": "http://host:8000", side: "http://me:secret@host:8000"}
    with pytest.raises(UsageError, match="credentials") as caught:
        Sides(candidate=sides["candidate"], baseline=sides["baseline"])
    assert "secret" not in caught.value.diagnostics()
