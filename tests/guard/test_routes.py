"""The guard's own routes over HTTP, in this process: what is answered, what is refused and how, and what is counted."""

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from httpx2 import Response  # what starlette's test client answers with
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from guard_server.batching import SessionPool
from guard_server.bundle import Bundle
from guard_server.labels import TASKS, Direction
from guard_server.models import Classifier, EngineOptions, build_classifier
from guard_server.records import Encoded, Scores, Timing
from tests.guard.app_client import BORDERLINE, HARMFUL, HARMLESS, Held, bearer, client, held, keys, make_app, metric
from tests.guard.tiny_bundle import NOT_A_NUMBER, write_tiny_bundle

POLICIES = """
schema_version: guard-policy/v1
policies:
  default: &rules
    prompt: {"*": {flag: {target_fpr: 0.05}, block: {target_fpr: 0.01}}}
    response: {"*": {flag: {target_fpr: 0.05}, block: {target_fpr: 0.01}}}
    max_characters: 1000
  strict:
    prompt: {"*": {flag: {target_fpr: 0.05}, block: {target_fpr: 0.05}}}
    response: {"*": {flag: {target_fpr: 0.05}, block: {target_fpr: 0.05}}}
  open:
    prompt: {"*": {flag: {target_fpr: 0.05}, block: {target_fpr: 0.01}}}
    response: {"*": {flag: {target_fpr: 0.05}, block: {target_fpr: 0.01}}}
    on_failure: open
"""


@pytest.fixture(scope="module")
def app(tiny_bundle: Path) -> Iterator[TestClient]:
    """An app with three policies and no keys."""
    with client(tiny_bundle, guard_yaml=POLICIES) as found:
        yield found


def _screen(app: TestClient, status: int = 200, query: str = "", **body: object) -> dict[str, Any]:
    answer = app.post(f"/v1/screen{query}", json=body)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def _error(answer: Response, status: int, kind: str) -> dict[str, Any]:
    """The error of an answer, which must have the one shape that all errors have."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert list(body) == ["error"]
    error: dict[str, Any] = body["error"]
    assert set(error) - {"fields"} == {"type", "message", "param", "request_id"}
    assert error["type"] == kind
    assert error["message"]
    assert error["request_id"] == answer.headers["x-request-id"]
    return error


def test_texts_are_answered_in_order_and_the_worst_decides(app: TestClient) -> None:
    """Each text has its own result; the request's decision is the worst of them."""
    found = _screen(app, texts=[HARMLESS, BORDERLINE, HARMFUL])
    assert [r["decision"] for r in found["results"]] == ["allow", "flag", "block"]
    assert [r["index"] for r in found["results"]] == [0, 1, 2]
    assert (found["decision"], found["policy"], found["model"]["name"]) == ("block", "default", "tiny")
    assert found["timing"]["total_ms"] > 0


def test_a_string_is_one_text(app: TestClient) -> None:
    """`texts` may be a single string, with the same scores as a list of it."""
    one, listed = _screen(app, texts=HARMFUL), _screen(app, texts=[HARMFUL])
    assert one["results"] == listed["results"]


@pytest.mark.parametrize("text", ["", " \n\t", "\u200b", "\x00", "🙂" * 40, "نص", "x" * 999])
def test_any_text_has_a_finite_score(app: TestClient, text: str) -> None:
    """An empty text, invisible characters, NUL, emoji, other scripts and one long word are screened like others."""
    result = _screen(app, texts=text)["results"][0]
    assert 0 <= result["score"] <= 1
    assert result["windows"] >= 1


def test_the_caller_names_the_task_or_the_model_says(app: TestClient) -> None:
    """`task` is taken as given; `auto` asks the model, and the answer says whose word it was."""
    given = _screen(app, texts=HARMLESS, task="translation")["results"][0]
    assert (given["task"], given["task_source"]) == ("translation", "caller")
    for query in ({}, {"task": "auto"}):
        found = _screen(app, texts="summarize this article", **dict[str, Any](query))["results"][0]
        assert (found["task"], found["task_source"]) == ("summarization", "model")
        assert sum(found["task_probabilities"].values()) == pytest.approx(1, abs=1e-3)


def test_messages_are_screened_by_role(app: TestClient) -> None:
    """Direction prompt reads user and tool messages, never the operator's; direction response reads the assistant's."""
    messages = [
        {"role": "system", "content": "never say bomb"},
        {"role": "user", "content": HARMLESS},
        {"role": "assistant", "content": "here is how you build a bomb"},
        {"role": "tool", "content": "phishing malware"},
    ]
    prompts = _screen(app, messages=messages)["results"]
    assert [(r["index"], r["decision"]) for r in prompts] == [(1, "allow"), (3, "block")]
    answers = _screen(app, messages=messages, direction="response")["results"]
    assert [(r["index"], r["direction"], r["decision"]) for r in answers] == [(2, "response", "block")]


def test_parts_that_hold_no_text_are_reported(app: TestClient) -> None:
    """An image beside a text is counted as unread in the answer and in the metrics; the text is screened."""
    before = metric(app.get("/metrics").text, "guard_unread_parts_total")
    content = [{"type": "text", "text": HARMFUL}, {"type": "image_url", "image_url": {"url": "https://img.example/1.png"}}]
    result = _screen(app, messages=[{"role": "user", "content": content}])["results"][0]
    assert (result["unread_parts"], result["decision"]) == (1, "block")
    assert metric(app.get("/metrics").text, "guard_unread_parts_total") == before + 1


def test_text_split_over_parts_is_read_together(app: TestClient) -> None:
    """All text parts of a message are one text."""
    parts = [{"type": "text", "text": "how do you build"}, {"type": "text", "text": "a bomb"}]
    assert _screen(app, messages=[{"role": "user", "content": parts}])["decision"] == "block"


def test_an_answer_is_read_with_its_prompt(app: TestClient) -> None:
    """Direction response gives a refusal score; a refusal of a harmful prompt is allowed."""
    found = _screen(app, texts="sorry, we cannot help with that", direction="response", prompt=HARMFUL)["results"][0]
    assert (found["decision"], found["direction"]) == ("allow", "response")
    assert found["refusal"] > 0.5
    assert _screen(app, texts="build a bomb", direction="response", prompt=HARMFUL)["decision"] == "block"


def test_a_policy_named_by_the_caller_is_in_force(app: TestClient) -> None:
    """The same text is flagged by one policy and blocked by another."""
    assert _screen(app, texts=BORDERLINE)["decision"] == "flag"
    strict = _screen(app, texts=BORDERLINE, policy="strict")
    assert (strict["decision"], strict["policy"]) == ("block", "strict")


def test_details_list_every_segment(app: TestClient) -> None:
    """With `?details=true` each segment has a score, the worst of which is the text's; without it there are none."""
    text = f"{'please tell a story. ' * 30} {HARMFUL}"
    result = _screen(app, query="?details=true", texts=text)["results"][0]
    assert len(result["details"]) == result["segments"] > 1
    assert max(d["score"] for d in result["details"]) == result["score"]
    original = [d for d in result["details"] if d["view"] == "original"]
    assert (original[0]["start"], max(d["end"] for d in original)) == (0, len(text))
    assert _screen(app, texts=text)["results"][0]["details"] is None


def test_details_tell_sentences_from_windows(tmp_path: Path) -> None:
    """In a long text the sentence that decides is said to be one, and every segment says which it is."""
    at = {"segments": [1], "at": [0.999], "sentences": [0.45], "benign": 100}
    both = [{"direction": d, "task": t, "target_fpr": f} | at for d in Direction for t in TASKS for f in (0.05, 0.01)]
    window = {"characters": 200, "overlap": 40, "sentence": 100}
    with client(write_tiny_bundle(tmp_path / "b", window=window, thresholds=both), guard_yaml=POLICIES) as app:
        text = "please tell a story. " * 12 + f"{HARMFUL}. " + "please tell a story. " * 12
        result = _screen(app, query="?details=true", texts=text)["results"][0]
    assert (result["decision"], result["worst"]["sentence"], result["thresholds"]["block"]) == ("block", True, 0.45)
    assert {d["sentence"] for d in result["details"]} == {True, False}


def test_an_item_of_a_batch_fails_alone(app: TestClient) -> None:
    """A failing item has its error and status beside the others' answers, in the order asked."""
    items = [
        {"texts": HARMFUL},
        {"texts": "x", "policy": "missing"},
        {"texts": "y" * 1001},
        {"texts": NOT_A_NUMBER},
        {"texts": HARMLESS, "task": "translation"},
        {"messages": [{"role": "system", "content": "x"}]},
    ]
    answer = app.post("/v1/screen/batch", json={"items": items})
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [r["index"] for r in results] == list(range(6))
    assert [r["error"] and r["error"]["status"] for r in results] == [None, 404, 413, 500, None, 422]
    assert [r["answer"] and r["answer"]["decision"] for r in results] == ["block", None, None, None, "allow", None]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "body"),
        ({"texts": "a", "messages": []}, "body"),
        ({"texts": []}, "body"),
        ({"messages": []}, "body"),
        ({"texts": [1]}, "texts"),
        ({"texts": "a", "task": "poetry"}, "task"),
        ({"texts": "a", "direction": "up"}, "direction"),
        ({"texts": "a", "prompt": "b"}, "body"),
        ({"texts": "a", "polcy": "strict"}, "polcy"),
        ({"texts": "a", "policy": ""}, "policy"),
        ({"messages": [{"content": "a"}]}, "messages.0.role"),
        ([], "body"),
        ("text", "body"),
        (None, "body"),
    ],
)
def test_a_body_that_does_not_fit_is_refused_by_field(app: TestClient, body: object, field: str) -> None:
    """422 names the field, for unknown fields and contradictions too, and speaks of none of pydantic's insides."""
    answer = app.post("/v1/screen", content=json.dumps(body), headers={"content-type": "application/json"})
    error = _error(answer, 422, "bad_request")
    assert error["param"] == error["fields"][0]["field"]
    assert any(f["field"].startswith(field) for f in error["fields"])
    assert not any(inside in answer.text for inside in ("Value error", "str-enum", "literal["))


def test_json_that_is_not_said_to_be_json_is_refused_with_the_header_to_send(app: TestClient) -> None:
    """What curl -d sends without a content type of its own is answered by the header that is missing."""
    sent = {"content-type": "application/x-www-form-urlencoded"}
    answer = app.post("/v1/screen", content=json.dumps({"texts": "a"}), headers=sent)
    assert "content-type: application/json" in _error(answer, 422, "bad_request")["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"not json", b"\xff\xfe", b'{"texts": "\xff"}', b'{"texts": ' + b"[" * 100_000])
def test_what_is_no_json_is_a_bad_request(app: TestClient, body: bytes) -> None:
    """A body that cannot be parsed is the caller's fault: 400, or 422 where nothing came."""
    answer = app.post("/v1/screen", content=body, headers={"content-type": "application/json"})
    error = _error(answer, 400 if body else 422, "bad_request")
    assert error["param"] in {"body", None}


@pytest.mark.parametrize(
    "body",
    [
        b'{"texts": "\\ud800"}',
        b'{"\\ud800": 1, "texts": "a"}',
        b'{"texts": "a", "policy": "\\udfff"}',
        b'{"texts": "a", "policy": "\\u0000"}',
        b'{"texts": "\\u0000 \\u202e \\uffff"}',
        b'{"messages": [{"role": "\\ud800", "content": "a"}]}',
        b'{"texts": "a", "task": 1e400}',
        b'{"texts": NaN}',
        b'{"texts": "a", "policy": Infinity}',
        b'{"texts": ' + b"9" * 4000 + b"}",
        b'{"texts": ' + b"9" * 5000 + b"}",
        b'{"messages": [{"role": "user", "content": [{"type": "text", "x": ' + b"[" * 500 + b"]" * 500 + b"}]}]}",
        b'{"messages": [{"role": "user", "content": [{"type": "text", "text": null, "\\ud800": NaN}]}]}',
    ],
)
@pytest.mark.parametrize(
    "route",
    [
        "/v1/screen",
        "/v1/moderations",
        "/beta/litellm_basic_guardrail_api",
        "/analyze/prompt",
        "/v1/screen/stream",
        "/v1/screen/batch",
    ],
)
def test_hostile_json_is_answered_not_crashed_on(app: TestClient, route: str, body: bytes) -> None:
    """Surrogates, NUL, infinities, huge integers and deep nesting never make a server error."""
    answer = app.post(route, content=body, headers={"content-type": "application/json"})
    assert answer.status_code < 500, answer.text
    answer.json() if "ndjson" not in answer.headers["content-type"] else [json.loads(line) for line in answer.text.splitlines()]


def test_unknown_routes_methods_policies_and_long_texts(app: TestClient) -> None:
    """404, 405 and 413 have the shape of every other error, and say where to look."""
    assert "docs/guard.md" in _error(app.get("/nothing"), 404, "not_found")["message"]
    assert "POST" in app.get("/v1/screen").headers["allow"]
    assert "takes POST" in _error(app.get("/v1/screen"), 405, "method_not_allowed")["message"]
    error = _error(app.post("/v1/screen", json={"texts": "a", "policy": "strct"}), 404, "not_found")
    assert (error["param"], "strict" in error["message"]) == ("policy", True)
    _error(app.post("/v1/screen", json={"texts": "x" * 1001}), 413, "too_large")
    _error(app.post("/v1/screen", json={"texts": ["x"] * 65}), 413, "too_large")
    _error(app.post("/v1/screen/batch", json={"items": [{"texts": "x"}] * 65}), 413, "too_large")


def test_a_body_over_the_limit_is_refused_declared_or_not(tiny_bundle: Path) -> None:
    """The declared length is enough to refuse; without one, the limit is noticed while reading. Just under it is fine."""
    with client(tiny_bundle, max_body_bytes=1000) as app:
        body = json.dumps({"texts": "x" * 2000}).encode()
        _error(app.post("/v1/screen", content=body), 413, "too_large")
        _error(app.post("/v1/screen", content=iter([body[:600], body[600:1200], body[1200:]])), 413, "too_large")
        just = json.dumps({"texts": "x" * (1000 - 13)}).encode()
        assert len(just) == 1000
        chunked = {"content-type": "application/json"}
        assert app.post("/v1/screen", content=iter([just[:10], just[10:]]), headers=chunked).status_code == 200
        for length in ("9" * 30, "9" * 5000):
            _error(app.post("/v1/screen", content=b"{}", headers={"content-length": length}), 413, "too_large")


def test_keys_are_asked_for_everywhere_but_at_probes_and_pages(tiny_bundle: Path) -> None:
    """401 without a key on every route that is not public, known or not; 403 with a key of another role."""
    given, setting = keys(gateway="screen", ops="admin")
    with client(tiny_bundle, api_keys=setting) as app:
        for path in ("/v1/models", "/v1/screen", "/v1/nothing", "/admin/reload", "//v1/models", "/v1/models/"):
            answer = app.get(path)
            _error(answer, 401, "not_authenticated")
            assert answer.headers["www-authenticate"] == "Bearer"
        for path in ("/healthz", "/readyz", "/metrics", "/", "/docs", "/openapi.json"):
            assert app.get(path).status_code == 200
        _error(app.post("/v1/screen", json={"texts": "a"}, headers=bearer("tg-wrong")), 401, "not_authenticated")
        _error(app.post("/admin/reload", headers=bearer(given["gateway"])), 403, "not_allowed")
        _error(app.post("/v1/screen", json={"texts": "a"}, headers=bearer(given["ops"])), 403, "not_allowed")
        assert app.post("/v1/screen", json={"texts": "a"}, headers=bearer(given["gateway"])).status_code == 200
        assert app.get("/v1/models", headers={"x-api-key": given["gateway"]}).status_code == 200


def test_a_key_is_refused_before_its_body_is_read(tiny_bundle: Path) -> None:
    """Without a key, a body over the limit and one that is no JSON are both answered 401."""
    _, setting = keys(gateway="screen")
    with client(tiny_bundle, api_keys=setting, max_body_bytes=10) as app:
        _error(app.post("/v1/screen", content=b"x" * 100), 401, "not_authenticated")


def test_a_key_that_asks_too_often_is_told_when_to_come_back(tiny_bundle: Path) -> None:
    """429 with Retry-After once the rate is used up."""
    with client(tiny_bundle, rate_limit="2/hour") as app:
        answers = [app.post("/v1/screen", json={"texts": "a"}) for _ in range(3)]
        assert [a.status_code for a in answers] == [200, 200, 429]
        _error(answers[2], 429, "rate_limited")
        assert 1 <= int(answers[2].headers["retry-after"]) <= 3600


def test_a_request_over_the_permits_is_refused_at_once(tiny_bundle: Path) -> None:
    """503 with Retry-After while all permits are taken, counted as shed; the request that holds the permit is answered."""
    hold = threading.Event()
    with client(tiny_bundle, held(hold), max_requests=1) as app, ThreadPoolExecutor(1) as pool:
        hold.set()
        first = pool.submit(app.post, "/v1/screen", json={"texts": HARMFUL})
        while metric(app.get("/metrics").text, "guard_requests_in_flight") == 0:
            pass
        answer = app.post("/v1/screen", json={"texts": HARMFUL})
        hold.clear()
        _error(answer, 503, "overloaded")
        assert int(answer.headers["retry-after"]) >= 1
        assert first.result().json()["decision"] == "block"
        text = app.get("/metrics").text
        assert metric(text, "guard_shed_total") == 1
        assert metric(text, "guard_failures_total", kind="overloaded", action="closed") == 1
        assert metric(text, "guard_requests_in_flight") == 0


def test_a_request_past_its_deadline_is_told_so(tiny_bundle: Path) -> None:
    """504 where the deadline passes before the text is scored, whatever the number of texts."""
    with client(tiny_bundle, deadline_seconds=1e-6) as app:
        for texts in ("a", ["a", "b", "c"]):
            _error(app.post("/v1/screen", json={"texts": texts}), 504, "deadline_exceeded")


def test_a_score_that_is_no_number_is_an_error_never_a_decision(app: TestClient) -> None:
    """A NaN from the model is answered 500 where the policy fails closed."""
    _error(app.post("/v1/screen", json={"texts": ["fine", NOT_A_NUMBER]}), 500, "inference_failed")


def test_a_policy_that_fails_open_lets_through_and_says_so(app: TestClient) -> None:
    """The text is allowed, with reason and failure in the answer, and the metrics count it as a failure."""
    before = app.get("/metrics").text
    found = _screen(app, texts=[NOT_A_NUMBER, HARMLESS], policy="open")
    after = app.get("/metrics").text
    assert [(r["decision"], r["reason"], r["score"]) for r in found["results"]] == [("allow", "failure", None)] * 2
    assert found["results"][0]["failure"].startswith("inference_failed")
    assert found["model"]["name"] == "none"
    for name, labels in (
        ("guard_failures_total", {"kind": "inference_failed", "action": "open"}),
        ("guard_decisions_total", {"reason": "failure", "decision": "allow"}),
    ):
        assert metric(after, name, **labels) - metric(before, name, **labels) == 2


@pytest.mark.parametrize("policy", ["default", "open"])
def test_a_fault_of_the_request_is_refused_whatever_the_policy(app: TestClient, policy: str) -> None:
    """Failing open is about the guard's own failures: a text that is too long is not let through."""
    long = 1001 if policy == "default" else 100_001
    _error(app.post("/v1/screen", json={"texts": "x" * long, "policy": policy}), 413, "too_large")


@pytest.mark.parametrize(
    ("given", "kept"),
    [("abc-1.2_3", True), ("x" * 128, True), ("x" * 129, False), ('a"b', False), ("a b", False), ("é", False), ("", False)],
)
def test_a_request_id_is_echoed_where_it_is_harmless(app: TestClient, given: str, kept: bool) -> None:
    """The caller's id comes back in the header and the body; one that could break a log is replaced."""
    answer = app.post("/v1/screen", json={"texts": "a"}, headers={b"x-request-id": given.encode("latin-1")})
    assert (answer.headers["x-request-id"] == given) is kept
    assert answer.json()["id"] == answer.headers["x-request-id"]


def test_ready_only_between_loading_and_draining(tiny_bundle: Path) -> None:
    """The probe readyz is 503 before a bundle is loaded and while draining; healthz is 200 throughout."""
    app = make_app(tiny_bundle)
    unloaded = TestClient(app)  # without its lifespan: nothing is loaded
    assert [unloaded.get(p).status_code for p in ("/readyz", "/healthz")] == [503, 200]
    _error(unloaded.post("/v1/screen", json={"texts": "a"}), 503, "not_ready")
    with TestClient(app) as loaded:
        assert loaded.get("/readyz").json() == {"status": "ready"}
        app.state.guard.draining = True
        answer = loaded.get("/readyz")
        assert (answer.status_code, answer.json()) == (503, {"status": "draining"})
        assert loaded.get("/healthz").status_code == 200
        assert loaded.post("/v1/screen", json={"texts": HARMFUL}).json()["decision"] == "block"


def test_models_say_what_is_loaded_and_what_is_not_assessed(app: TestClient) -> None:
    """The answer names bundle, digest, policies, and what the guard does not look at."""
    found = app.get("/v1/models").json()
    bundle = found["bundles"][0]
    assert (bundle["slot"], bundle["name"], len(bundle["digest"])) == ("current", "tiny", 64)
    assert found["policies"] == ["default", "strict", "open"]
    assert "sexual/minors" in bundle["openai_categories_not_assessed"]
    assert bundle["not_assessed"]
    assert found["data"][0]["id"] == "tiny-1"


def test_metrics_are_prometheus_text_with_a_bounded_set_of_labels(app: TestClient) -> None:
    """What Prometheus scrapes parses, routes that don't exist share one label, and no label holds a text or an id."""
    app.post("/v1/screen", json={"texts": f"unmistakable {HARMFUL}"}, headers={"x-request-id": "unmistakable-id"})
    for i in range(5):
        app.get(f"/unmistakable-{i}")
    answer = app.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    families = list(text_string_to_metric_families(answer.text))
    assert {f.name for f in families} >= {"guard_requests", "guard_decisions", "guard_score", "guard_queue_duration_seconds"}
    assert "unmistakable" not in answer.text
    assert metric(answer.text, "guard_requests_total", route="unknown", code="404") >= 5
    assert metric(answer.text, "guard_decisions_total", decision="block", reason="score", direction="prompt") >= 1


def test_promtool_has_no_complaint_about_the_metrics(app: TestClient) -> None:
    """Names, types and help texts are as Prometheus's own linter wants them."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: the package prometheus)")
    _screen(app, texts=HARMFUL)
    done = subprocess.run(
        [promtool, "check", "metrics"], input=app.get("/metrics").text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_no_text_is_in_the_log(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither screened, refused nor failing texts are logged, in any direction or contract; each request has one line."""
    secret = "zebra crossing"
    with client(tiny_bundle, log_level="debug") as app:
        capsys.readouterr()
        asked = [
            ("/v1/screen", {"texts": [f"{secret} {HARMFUL}", secret]}),
            ("/v1/screen", {"texts": f"{secret} {NOT_A_NUMBER}"}),
            ("/v1/screen", {"texts": secret, "direction": "response", "prompt": secret}),
            ("/v1/screen", {"texts": secret, "task": "poetry", secret: secret}),
            ("/v1/screen", {"texts": secret * 10_000}),
            ("/v1/screen/batch", {"items": [{"texts": secret}]}),
            ("/v1/moderations", {"input": secret}),
            ("/analyze/output", {"prompt": secret, "output": secret}),
        ]
        for path, body in asked:
            app.post(path, json=body)
        app.post("/v1/screen", content=secret)
        log = capsys.readouterr().err
    assert secret not in log
    lines = [json.loads(line) for line in log.splitlines()]
    assert sum(line["event"] == "request" for line in lines) == len(asked) + 1
    assert all(re.fullmatch(r"[0-9a-f]{32}", line["request_id"]) for line in lines if line["event"] in {"request", "screened"})


def test_text_is_in_the_log_where_an_operator_asked_for_it(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With `log_text` and a share of 1, every screened text is."""
    with client(tiny_bundle, log_text=True, log_text_share=1) as app:
        app.post("/v1/screen", json={"texts": ["zebra", "quagga"]})
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["text"] for line in lines if line["event"] == "screened"] == ["zebra", "quagga"]


def test_a_defect_is_answered_without_its_inside(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An exception nobody foresaw is a 500 in the one shape, with its request id, logged once as one line of JSON."""

    class Broken(Held):
        async def score(self, batch: Sequence[Encoded], *, deadline: float) -> tuple[list[Scores], Timing]:
            if self.hold.is_set():
                raise ZeroDivisionError("inside")
            return await super().score(batch, deadline=deadline)

    broken = threading.Event()

    def build(bundle: Bundle) -> Classifier:
        real = build_classifier(bundle, EngineOptions(workers=1))
        assert isinstance(real.engine, SessionPool)
        return Classifier(real.bundle, real.tokenizer, Broken(real.engine, broken))

    app = make_app(tiny_bundle, build)
    with TestClient(app, raise_server_exceptions=False) as found:
        broken.set()
        capsys.readouterr()
        answer = found.post("/v1/screen", json={"texts": "a"}, headers={"x-request-id": "mine"})
        _error(answer, 500, "internal")
        assert "inside" not in answer.text
        lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
        failed = [line for line in lines if line["level"] == "error"]
        assert [line["request_id"] for line in failed] == ["mine"]
        assert "ZeroDivisionError" in failed[0]["exception"]
        assert metric(found.get("/metrics").text, "guard_requests_total", route="/v1/screen", code="500") == 1
