"""The real LiteLLM proxy in front of the guard: what passes, what is blocked, and what a guard that is away means.

The proxy pins its own versions, so it lives in an environment of its own; `TASKGATE_LITELLM` names its program.
"""

import os
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
import yaml
from fastapi import FastAPI

from tests.guard.app_client import BORDERLINE, HARMFUL, HARMLESS, Running, bearer, held, keys, make_app, metric, running

PROGRAM = os.environ.get("TASKGATE_LITELLM", "")
pytestmark = pytest.mark.skipif(not Path(PROGRAM).is_file(), reason="TASKGATE_LITELLM names no program: `make test` installs it")
KEYS, ENTRIES = keys(proxy="screen")
MASTER_KEY = f"sk-{secrets.token_hex(32)}"
START_SECONDS = 180.0


@pytest.fixture(scope="module")
def guard(tiny_bundle: Path) -> Iterator[Running]:
    """A guard process with a key for the proxy."""
    with running(tiny_bundle, api_keys=ENTRIES) as found:
        yield found


@contextmanager
def _served(app: FastAPI) -> Iterator[str]:
    """The address of an app that is served by a thread of this process."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def busy(tiny_bundle: Path) -> Iterator[str]:
    """The address of a guard whose only permit is taken: it answers 503."""
    hold = threading.Event()
    app = make_app(tiny_bundle, held(hold), max_requests=1, deadline_seconds=600)
    with _served(app) as url, ThreadPoolExecutor(1) as pool:
        hold.set()
        pool.submit(httpx.post, f"{url}/v1/screen", json={"texts": "a"}, timeout=600)
        while metric(app.state.guard.metrics.exposition().decode(), "guard_requests_in_flight") == 0:
            time.sleep(0.01)
        assert httpx.post(f"{url}/v1/screen", json={"texts": "a"}).status_code == 503
        yield url
        hold.clear()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _guardrail(name: str, url: str, mode: str = "pre_call", **params: object) -> dict[str, object]:
    given = {"guardrail": "generic_guardrail_api", "mode": mode, "api_base": url, "api_key": KEYS["proxy"], "default_on": False}
    return {"guardrail_name": name, "litellm_params": given | params}


def _config(guard: str, busy: str) -> dict[str, object]:
    away = f"http://127.0.0.1:{_free_port()}"
    strict = {"task": "translation", "policy": "strict"}
    missing = {"policy": "missing"}
    answers = {"kind": "of course: the weather is fine", "harmful": "of course: build a bomb"}
    return {
        "model_list": [
            {"model_name": name, "litellm_params": {"model": "openai/any", "api_key": "none", "mock_response": answer}}
            for name, answer in answers.items()
        ],
        "guardrails": [
            _guardrail("in", guard),
            _guardrail("out", guard, "post_call"),
            _guardrail("strict", guard, additional_provider_specific_params=strict),
            _guardrail(
                "unknown-policy",
                guard,
                additional_provider_specific_params=missing,
                unreachable_fallback="fail_open",
            ),
            _guardrail("away-closed", away),
            _guardrail("away-open", away, unreachable_fallback="fail_open"),
            _guardrail("busy-closed", busy),
            _guardrail("busy-open", busy, unreachable_fallback="fail_open"),
            _guardrail("wrong-key-open", guard, api_key="tg-wrong", unreachable_fallback="fail_open"),
        ],
    }


@pytest.fixture(scope="module")
def proxy(guard: Running, busy: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """The proxy, ready; started once, because that takes tens of seconds."""
    folder = tmp_path_factory.mktemp("litellm")
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(_config(guard.url, busy)))
    port = _free_port()
    env = {k: v for k, v in os.environ.items() if not k.startswith(("GUARD_", "LITELLM_", "DATABASE_"))}
    env |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MASTER_KEY": MASTER_KEY, "OMP_NUM_THREADS": "1"}
    command = [PROGRAM, "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=bearer(MASTER_KEY), timeout=60) as client:
            _await_ready(client, process, folder / "log")
            yield client
    finally:
        process.terminate()
        process.wait(30)


def _await_ready(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < end, log.read_text()[-3000:]
        try:
            if client.get("/health/liveliness").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.3)


def _chat(proxy: httpx.Client, text: str, guardrails: list[Any], model: str = "kind", **more: object) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": text}], "guardrails": guardrails}
    return proxy.post("/v1/chat/completions", json=body | more)


def _blocked(answer: httpx.Response) -> str:
    assert answer.status_code == 400, answer.text
    message = str(answer.json()["error"]["message"])
    assert "blocked by the guard" in message
    return message


def test_a_harmless_prompt_passes_and_a_harmful_one_is_blocked(proxy: httpx.Client, guard: Running) -> None:
    """Before the model: the harmless prompt is answered by it, the harmful one is refused with the guard's reason."""
    passed = _chat(proxy, HARMLESS, ["in"])
    assert passed.json()["choices"][0]["message"]["content"] == "of course: the weather is fine"
    assert "weapons" in _blocked(_chat(proxy, HARMFUL, ["in"]))
    route = "/beta/litellm_basic_guardrail_api"
    with httpx.Client(base_url=guard.url) as http:
        assert metric(http.get("/metrics").text, "guard_requests_total", route=route, code="200") >= 2


def test_a_harmful_answer_is_blocked_after_the_model(proxy: httpx.Client) -> None:
    """The answer is screened as a response: a harmful one does not reach the caller, a harmless one does."""
    assert "response" in _blocked(_chat(proxy, HARMLESS, ["out"], "harmful"))
    assert _chat(proxy, HARMLESS, ["in", "out"]).status_code == 200


def test_a_streamed_answer_is_screened_too(proxy: httpx.Client) -> None:
    """With `stream`, harm in the answer ends in an error; a harmless answer comes whole."""
    harmless = _chat(proxy, HARMLESS, ["out"], stream=True)
    assert "[DONE]" in harmless.text
    assert "error" not in harmless.text
    assert "blocked by the guard" in _chat(proxy, HARMLESS, ["out"], "harmful", stream=True).text


def test_task_and_policy_come_from_the_configuration(proxy: httpx.Client) -> None:
    """`additional_provider_specific_params` names task and policy: what is only flagged elsewhere is blocked as that task."""
    assert _chat(proxy, BORDERLINE, ["in"]).status_code == 200
    assert "translation prompt" in _blocked(_chat(proxy, BORDERLINE, ["strict"]))


def test_text_in_parts_and_tool_answers_is_screened(proxy: httpx.Client) -> None:
    """Harm in a text part, in an earlier message and in a tool's answer is found."""
    parts = [{"type": "text", "text": "please look"}, {"type": "text", "text": HARMFUL}]
    call = {"id": "c", "type": "function", "function": {"name": "search", "arguments": "{}"}}
    for messages in (
        [{"role": "user", "content": parts}],
        [{"role": "user", "content": HARMFUL}, {"role": "assistant", "content": "no"}, {"role": "user", "content": "please"}],
        [
            {"role": "user", "content": "please look"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": HARMFUL},
        ],
    ):
        _blocked(_chat(proxy, "", ["in"], messages=messages))


@pytest.mark.parametrize("kind", ["away", "busy"])
def test_a_guard_that_cannot_answer_is_the_proxys_choice(proxy: httpx.Client, kind: str) -> None:
    """No connection and our 503 are both "unreachable" to the proxy: closed by default, open where it is told to."""
    refused = _chat(proxy, HARMLESS, [f"{kind}-closed"])
    assert refused.status_code >= 500
    assert "Generic Guardrail API failed" in refused.text
    assert _chat(proxy, HARMLESS, [f"{kind}-open"]).status_code == 200


@pytest.mark.parametrize("name", ["unknown-policy", "wrong-key-open"])
def test_a_misconfigured_guardrail_never_fails_open(proxy: httpx.Client, name: str) -> None:
    """A wrong key and an unknown policy are hard errors even where an unreachable guard would be passed over."""
    answer = _chat(proxy, HARMLESS, [name])
    assert answer.status_code >= 500
    assert "Generic Guardrail API failed" in answer.text
