"""What no contract may do silently: leave texts unread, pass what failed, take a policy from anybody, go on for nobody."""

import asyncio
import json
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest
from httpx2 import Response  # what starlette's test client answers with
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient
from starlette.types import Message

from guard_server.routes.litellm import fold
from guard_server.schemas import MAX_LISTED
from tests.guard.app_client import BORDERLINE, HARMFUL, HARMLESS, client, held, make_app, metric
from tests.guard.tiny_bundle import NOT_A_NUMBER

LITELLM: Final = "/beta/litellm_basic_guardrail_api"
_POLICY: Final = """
    prompt: {"*": {flag: {target_fpr: 0.05}, block: {target_fpr: %s}}}
    response: {"*": {flag: {target_fpr: 0.05}, block: {target_fpr: %s}}}
    max_characters: 20000
    max_view_bytes: 30
    on_failure: %s
"""
POLICIES: Final = f"""
schema_version: guard-policy/v1
policies:
  default: {_POLICY % (0.01, 0.01, "closed")}
  strict: {_POLICY % (0.05, 0.05, "closed")}
  open: {_POLICY % (0.01, 0.01, "open")}
routes:
  /v1/screen: {{policy: default, policies: [open]}}
  /v1/moderations: {{policy: default, policies: [strict]}}
  /analyze/prompt: {{policy: open}}
  /scan/prompt: {{policy: open}}
"""
TOO_MANY_BYTES: Final = "please read " + b64encode(b"please tell a long story about the weather and the water").decode()
"""Its decoding is over the policies' limit."""


@pytest.fixture(scope="module")
def app(tiny_bundle: Path) -> Iterator[TestClient]:
    """An app whose routes have policies of their own, and 8 texts a request."""
    with client(tiny_bundle, guard_yaml=POLICIES, max_texts=8, log_level="error") as found:
        yield found


def _post(app: TestClient, route: str, body: object, status: int = 200) -> Response:
    answer = app.post(route, json=body)
    assert answer.status_code == status, answer.text
    return answer


def _guardrail(app: TestClient, input_type: str = "request", **body: object) -> Response:
    return _post(app, LITELLM, {"input_type": input_type} | body)


def _call(arguments: object) -> dict[str, object]:
    return {"id": "c", "type": "function", "function": {"name": "run", "arguments": arguments}}


# Refusals


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/v1/screen", {"texts": [1] * 300_000}),
        ("/v1/screen", {"messages": [1] * 300_000}),
        ("/v1/screen", {"messages": [{"role": "user", "content": [1] * 300_000}]}),
        ("/v1/screen", {"messages": [{"role": "user", "tool_calls": [1] * 300_000}]}),
        ("/v1/screen", {f"unknown{i}": 1 for i in range(100_000)}),
        ("/v1/screen/batch", {"items": [1] * 300_000}),
        ("/v1/screen/stream", {f"unknown{i}": 1 for i in range(50_000)}),
        ("/v1/moderations", {"input": [1] * 300_000}),
        (LITELLM, {"input_type": "request", "texts": [1] * 300_000}),
        (LITELLM, {"input_type": "request", "tool_calls": [1] * 300_000}),
        ("/analyze/prompt", {"prompt": "a", "scanners_suppress": [1] * 300_000}),
    ],
)
def test_a_refusal_does_not_grow_with_the_body(app: TestClient, route: str, body: object) -> None:
    """However many entries do not fit, the answer names at most 20 and stays small."""
    answer = _post(app, route, body, 422)
    assert len(answer.json()["error"].get("fields", [])) <= 20
    assert len(answer.content) < 10_000


def test_a_list_over_the_bound_is_refused_by_its_name(app: TestClient) -> None:
    """One entry more than any list may have is 422, before the smaller limit of texts is looked at."""
    error = _post(app, "/v1/screen", {"texts": ["a"] * (MAX_LISTED + 1)}, 422).json()["error"]
    assert any(f["field"].startswith("texts") and str(MAX_LISTED) in f["message"] for f in error["fields"])
    assert _post(app, "/v1/screen", {"texts": ["a"] * MAX_LISTED}, 413).json()["error"]["param"] == "texts"


# Messages


def test_a_message_of_an_unknown_role_is_screened_as_a_prompt(app: TestClient) -> None:
    """Only the operator's and the model's messages are left out, and the answer lists which."""
    roles = ["system", "developer", "assistant", "user", "human", "System", "ipython"]
    found = _post(app, "/v1/screen", {"messages": [{"role": r, "content": HARMLESS} for r in roles]}).json()
    assert [r["index"] for r in found["results"]] == [3, 4, 5, 6]
    assert found["not_screened"] == [0, 1, 2]
    assert _post(app, "/v1/screen", {"messages": [{"role": "human", "content": HARMFUL}]}).json()["decision"] == "block"
    answers = _post(app, "/v1/screen", {"direction": "response", "messages": [{"role": r, "content": "a"} for r in roles]}).json()
    assert answers["not_screened"] == [0, 1, 3, 4, 5, 6]
    assert _post(app, "/v1/screen", {"texts": "a"}).json()["not_screened"] == []


@pytest.mark.parametrize(
    "message",
    [
        {"tool_calls": [_call("{}"), _call(json.dumps({"q": HARMFUL}))]},
        {"tool_calls": [_call({"q": [HARMFUL]})]},
        {"tool_calls": [{"type": "custom", "custom": {"name": "run", "input": HARMFUL}}]},
        {"content": "please", "function_call": {"name": "run", "arguments": HARMFUL}},
        {"refusal": HARMFUL},
        {"content": [{"type": "refusal", "refusal": HARMFUL}]},
    ],
)
def test_what_an_assistant_calls_its_tools_with_is_screened(app: TestClient, message: dict[str, object]) -> None:
    """Harm in the arguments of a call, or in a refusal, is blocked like harm in the content."""
    body = {"direction": "response", "messages": [{"role": "assistant"} | message]}
    found = _post(app, "/v1/screen", body).json()
    assert (found["decision"], found["results"][0]["unread_parts"]) == ("block", 0)


# LiteLLM


def test_litellm_messages_are_read_where_there_are_no_texts(app: TestClient) -> None:
    """`texts: []` beside messages is no pass: text and tool answers are read, images are counted as unread."""
    content = [{"type": "text", "text": HARMFUL}, {"type": "image_url", "image_url": {"url": "https://img.example/1.png"}}]
    cases: list[dict[str, object]] = [{"texts": []}, {}, {"texts": [], "tool_calls": [_call("{}")]}]
    for texts in cases:
        found = _post(
            app, LITELLM, {"input_type": "request", "structured_messages": [{"role": "user", "content": content}]} | texts
        )
        assert (found.json()["action"], found.headers["x-guard-unread"]) == ("BLOCKED", "1")
    answer = [{"role": "user", "content": HARMFUL}, {"role": "assistant", "content": "sorry"}]
    assert _guardrail(app, "response", texts=[], structured_messages=answer).json()["action"] == "NONE"


@pytest.mark.parametrize("arguments", [HARMFUL, {"query": HARMFUL}, [HARMFUL]])
def test_litellm_arguments_of_any_type_are_screened(app: TestClient, arguments: object) -> None:
    """A tool call's arguments are read as a string or as JSON."""
    assert _guardrail(app, "response", tool_calls=[_call(arguments)]).json()["action"] == "BLOCKED"


@pytest.mark.parametrize("place", [0, 30, 59])
def test_litellm_conversations_of_any_length_are_read_whole(app: TestClient, place: int) -> None:
    """Sixty texts where a request may hold eight are screened, and harm is found wherever it stands."""
    texts = [HARMLESS] * 60
    assert _guardrail(app, texts=texts).json()["action"] == "NONE"
    texts[place] = HARMFUL
    assert _guardrail(app, texts=texts).json()["action"] == "BLOCKED"


@given(st.lists(st.text("ab", max_size=12), max_size=40), st.integers(1, 10), st.integers(1, 40))
def test_folding_loses_nothing(texts: list[str], most: int, characters: int) -> None:
    """Every text stays, in order; joined ones keep within the characters; and few texts stay as they are."""
    folded = fold(texts, most, characters)
    assert "\n\n".join(folded) == "\n\n".join(texts)
    assert all(len(text) <= characters for text in folded if text not in texts)
    assert folded == texts or len(texts) > most
    assert len(folded) <= most or all(len(a) + 2 + len(b) > characters for a, b in pairwise(folded))


# Policies


@pytest.mark.parametrize(
    ("route", "policy", "status"),
    [
        ("/v1/screen", "open", 200),
        ("/v1/screen", "strict", 403),
        ("/v1/screen/batch", "strict", 200),
        ("/v1/moderations", "default", 200),
        ("/v1/moderations", "strict", 200),
        ("/v1/moderations", "open", 403),
        ("/v1/moderations", "missing", 404),
        (LITELLM, "default", 200),
        (LITELLM, "open", 403),
        (LITELLM, "missing", 404),
        ("/v1/screen/stream", "strict", 200),
    ],
)
def test_a_request_chooses_among_its_routes_policies(app: TestClient, route: str, policy: str, status: int) -> None:
    """What the route lists, and its own; on the guard's routes any unless listed, on the foreign ones none."""
    parameters: dict[str, object] = {"additional_provider_specific_params": {"policy": policy}}
    bodies: dict[str, dict[str, object]] = {
        "/v1/screen": {"texts": "a", "policy": policy},
        "/v1/moderations": {"input": "a", "policy": policy},
        LITELLM: {"input_type": "request", "texts": ["a"]} | parameters,
        "/v1/screen/stream": {"policy": policy},
    }
    if route == "/v1/screen/batch":
        result = _post(app, route, {"items": [bodies["/v1/screen"]]}).json()["results"][0]
        assert result["answer"]["policy"] == policy
        return
    answer = app.post(route, json=bodies[route])
    assert answer.status_code == status, answer.text
    if status != 200:
        error = answer.json()["error"]
        assert (error["param"], error["type"]) == ("policy", {403: "not_allowed", 404: "not_found"}[status])


@pytest.mark.parametrize("route", ["/v1/screen", "/v1/screen/batch", "/v1/moderations", LITELLM, "/v1/screen/stream"])
def test_a_route_may_leave_the_task_to_the_model(tiny_bundle: Path, route: str) -> None:
    """Where a route says so, a request that names its task is refused, and one that says auto or nothing is screened."""
    given = POLICIES.partition("routes:")[0] + f"routes: {{{route}: {{policy: default, tasks: model}}}}"
    with client(tiny_bundle, guard_yaml=given, log_level="error") as app:

        def asked(**task: str) -> Response:
            bodies: dict[str, dict[str, object]] = {
                "/v1/screen": {"texts": "a", **task},
                "/v1/screen/batch": {"items": [{"texts": "a", **task}]},
                "/v1/moderations": {"input": "a", **task},
                LITELLM: {"input_type": "request", "texts": ["a"], "additional_provider_specific_params": task},
                "/v1/screen/stream": dict(task),
            }
            return app.post(route, json=bodies[route])

        refused, *screened = asked(task="translation"), asked(task="auto"), asked()
        assert [answer.status_code for answer in screened] == [200, 200]
        assert all("not_allowed" not in answer.text for answer in screened)
        error = refused.json()["results"][0]["error"] if route == "/v1/screen/batch" else refused.json()["error"]
        assert error["type"] == "not_allowed"
        assert "task" in error["message"]
        assert (refused.status_code, error.get("status", 403)) == (200 if route == "/v1/screen/batch" else 403, 403)


# Headers


Body = Callable[[str], dict[str, object]]
SCREENING: Final[list[tuple[str, Body]]] = [
    ("/v1/screen", lambda text: {"texts": ["a", text]}),
    ("/v1/screen/batch", lambda text: {"items": [{"texts": "a"}, {"texts": text}]}),
    ("/v1/moderations", lambda text: {"input": ["a", text]}),
    (LITELLM, lambda text: {"input_type": "request", "texts": ["a", text]}),
    ("/analyze/prompt", lambda text: {"prompt": text}),
    ("/scan/prompt", lambda text: {"prompt": text}),
    ("/analyze/output", lambda text: {"prompt": "", "output": text}),
    ("/scan/output", lambda text: {"prompt": "", "output": text}),
]


@pytest.mark.parametrize(("route", "body"), SCREENING, ids=[r for r, _ in SCREENING])
def test_headers_say_what_was_decided_and_what_was_left_unread(app: TestClient, route: str, body: Body) -> None:
    """The worst decision, and decodings that a limit left unread, stand in every contract's headers."""
    for text, decision in ((HARMLESS, "allow"), (BORDERLINE, "flag"), (HARMFUL, "block")):
        headers = _post(app, route, body(text)).headers
        assert (headers["x-guard-decision"], headers.get("x-guard-unread")) == (decision, None)
    headers = _post(app, route, body(TOO_MANY_BYTES)).headers
    assert (headers["x-guard-decision"], headers["x-guard-unread"], headers.get("x-guard-failure")) == ("flag", "1", None)


@pytest.mark.parametrize("route", ["/analyze/prompt", "/scan/prompt"])
def test_headers_say_what_passed_unscreened(app: TestClient, route: str) -> None:
    """Where the policy fails open, the kind of failure stands in the header."""
    headers = _post(app, route, {"prompt": NOT_A_NUMBER}).headers
    assert (headers["x-guard-decision"], headers["x-guard-failure"]) == ("allow", "inference_failed")


def test_a_batch_with_an_item_in_error_is_not_called_allowed(app: TestClient) -> None:
    """No decision stands in the header for items that have none, unless another is blocked."""
    broken, harmful = {"texts": NOT_A_NUMBER}, {"texts": HARMFUL}
    assert "x-guard-decision" not in _post(app, "/v1/screen/batch", {"items": [{"texts": "a"}, broken]}).headers
    assert _post(app, "/v1/screen/batch", {"items": [harmful, broken]}).headers["x-guard-decision"] == "block"


def test_a_limit_shows_in_moderations_and_streams(app: TestClient) -> None:
    """What was left unread is listed in `taskgate` and in the stream's events."""
    result = _post(app, "/v1/moderations", {"input": TOO_MANY_BYTES}).json()["results"][0]
    assert [s["view"] for s in result["taskgate"]["skipped"]] == ["base64"]
    body = "\n".join(map(json.dumps, ({"direction": "prompt"}, {"text": TOO_MANY_BYTES})))
    events = [json.loads(line) for line in app.post("/v1/screen/stream", content=body).text.splitlines()]
    assert [[s["view"] for s in e["skipped"]] for e in events] == [["base64"], ["base64"]]


def test_moderations_name_no_category_for_a_flag_without_a_score(app: TestClient) -> None:
    """A text flagged for what was left unread is flagged, and no category is true."""
    result = _post(app, "/v1/moderations", {"input": TOO_MANY_BYTES}).json()["results"][0]
    assert result["flagged"]
    assert not any(result["categories"].values())


def test_no_category_is_likelier_than_harm(app: TestClient) -> None:
    """`illicit`, a sum over four kinds whose worst windows differ, stays within the text's score."""
    filler = "please tell a long story about the water " * 6
    text = filler.join(("phishing", "malware", "hack", "steal", "ransomware"))
    result = _post(app, "/v1/moderations", {"input": text}).json()["results"][0]
    assert result["categories"]["illicit"]
    assert result["category_scores"]["illicit"] == result["taskgate"]["score"]


# Echoes


@pytest.mark.parametrize(
    ("route", "body", "field"),
    [
        ("/analyze/prompt", b'{"prompt": "a\\ud800b"}', "sanitized_prompt"),
        ("/analyze/output", b'{"prompt": "\\udfff", "output": "a\\ud800b"}', "sanitized_output"),
    ],
)
def test_a_lone_surrogate_is_echoed_as_the_replacement_character(app: TestClient, route: str, body: bytes, field: str) -> None:
    """What is no character can't stand in an answer, and is no server error."""
    answer = app.post(route, content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()[field]) == (200, "a\ufffdb")


@pytest.mark.parametrize("route", ["/v1/screen", "/v1/screen/batch", "/v1/moderations", LITELLM, "/scan/prompt", "/scan/output"])
def test_a_lone_surrogate_anywhere_is_no_server_error(app: TestClient, route: str) -> None:
    """As a text, as a key, in arguments and as a policy."""
    bad = "a\ud800"
    bodies: list[dict[str, object]] = [
        {"texts": [bad]}, {"messages": [{"role": bad, "content": bad}]}, {"items": [{"texts": bad}]}, {bad: bad},
        {"input": bad, "policy": bad}, {"input_type": "request", "texts": [bad]}, {"prompt": bad, "output": bad},
        {"direction": "response", "messages": [{"role": "assistant", "tool_calls": [_call({bad: bad})]}]},
    ]  # fmt: skip
    for body in bodies:
        answer = app.post(route, content=json.dumps(body), headers={"content-type": "application/json"})
        assert answer.status_code in {200, 404, 422}, answer.text
        answer.json()


@pytest.mark.parametrize("depth", [10, 300, 700, 900, 100_000])
def test_arguments_nested_deep_are_no_server_error(app: TestClient, depth: int) -> None:
    """They are screened, or refused as the caller's fault."""
    body = json.dumps({"input_type": "response", "tool_calls": [_call("@")]}).replace('"@"', "[" * depth + "]" * depth)
    answer = app.post(LITELLM, content=body, headers={"content-type": "application/json"})
    assert answer.status_code in ({200} if depth == 10 else {200, 400, 422}), answer.text


# Callers who have gone


@pytest.mark.parametrize(("route", "body"), SCREENING, ids=[r for r, _ in SCREENING])
def test_a_caller_who_has_gone_frees_the_permit(tiny_bundle: Path, route: str, body: Body) -> None:
    """On every contract the work of an abandoned request is cancelled while the model still has it."""
    hold = threading.Event()
    app = make_app(tiny_bundle, held(hold), log_level="error")
    sent: list[Message] = []
    incoming = iter([{"type": "http.request", "body": json.dumps(body("a")).encode(), "more_body": False}])

    async def receive() -> Message:
        return next(incoming, {"type": "http.disconnect"})

    async def send(message: Message) -> None:
        sent.append(message)

    async def ask() -> float:
        async with app.router.lifespan_context(app):
            hold.set()
            scope = {
                "type": "http", "http_version": "1.1", "method": "POST", "path": route, "raw_path": route.encode(),
                "query_string": b"", "headers": [(b"content-type", b"application/json")], "client": None, "root_path": "",
            }  # fmt: skip
            try:
                async with asyncio.timeout(5):
                    await app(scope, receive, send)
                await asyncio.sleep(0.01)
                return metric(app.state.guard.metrics.exposition().decode(), "guard_requests_in_flight")
            finally:
                hold.clear()

    assert asyncio.run(ask()) == 0
    assert sent[0]["status"] == 499


# Streams


def _stream(app: TestClient, body: str, status: int = 200, kind: str = "application/x-ndjson") -> list[dict[str, Any]]:
    answer = app.post("/v1/screen/stream", content=body, headers={"content-type": kind})
    assert answer.status_code == status, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_stream_of_server_sent_events_is_read_like_lines(app: TestClient, end: str) -> None:
    """`data:` of each event is a line; comments, other fields and a last event without its blank line are no obstacle."""
    lines = [": hello", "event: head", 'data: {"direction":', 'data: "prompt"}', "", "", 'data:{"text": "please "}', "", "id: 7"]
    lines += [f"data: {json.dumps({'text': HARMFUL})}"]
    events = _stream(app, end.join(lines), kind="text/event-stream; charset=utf-8")
    assert (events[-1]["event"], events[-1]["released"]) == ("blocked", 0)
    harmless = ['data: {"direction": "prompt"}', "", f"data: {json.dumps({'text': HARMLESS})}", ""]
    events = _stream(app, end.join(harmless), kind="text/event-stream")
    assert ([e["event"] for e in events], events[0]["text"]) == (["text", "end"], HARMLESS)


def test_a_stream_that_is_not_ready_is_the_policys_choice(tiny_bundle: Path) -> None:
    """Without a bundle the stream is refused where the policy fails closed; where it fails open, text leaves and says why."""
    app = TestClient(make_app(tiny_bundle, guard_yaml=POLICIES))  # without its lifespan: nothing is loaded
    assert _stream(app, "{}", 503)[0]["error"]["type"] == "not_ready"
    events = _stream(app, '{"policy": "open"}\n' + json.dumps({"text": HARMLESS * 20}))
    assert "".join(e["text"] for e in events if e["event"] == "text") == HARMLESS * 20
    assert all(e["failure"].startswith("not_ready") for e in events)
