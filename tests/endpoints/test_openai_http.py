"""The endpoint for served models, against a real server that breaks on purpose."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gate.endpoints import ENDPOINTS
from gate.endpoints.base import Continuous, EngineOptions, Queue, Verifying
from gate.endpoints.http_request import Patience, retry_after, without_key
from gate.endpoints.openai_http import OTHERS_IN_A_ROW, UNREACHABLE_IN_A_ROW, OpenAiHttp
from gate.errors import CandidateError, InfrastructureError, UnsafeCandidateError, UsageError
from gate.records import Ask, Calibration, Decoding, NoResponse, Response
from gate.served import load_served
from tests.endpoints.asking import make_ask
from tests.fault_server import FAULTS, Fault, FaultServer, entry, faulty, running

QUICK = Patience(seconds=60, attempts=3, first_wait=0.001, longest_wait=0.01, jitter=0.001)
"""Back-off for tests."""
HASTY = replace(QUICK, seconds=0.5)
"""For servers that hang: two attempts cost a second. A slow machine may let the time pass before the server has the request."""
STUCK: tuple[Fault, ...] = ("hang", "drip")
SECRET = "sk-very-secret-0123456789"


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own key reaches no test."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("TASKGATE_API_KEY", raising=False)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    """A sound server that repeats what it is told."""
    with running(FaultServer(script=lambda text: f"echo: {text}")) as running_server:
        yield running_server


def endpoint_of(server: FaultServer, *, in_flight: int = 0, patience: Patience = QUICK, model: str = "scripted") -> OpenAiHttp:
    return OpenAiHttp(load_served(server.url, model), in_flight=in_flight, patience=patience)


def answers_of(endpoint: OpenAiHttp, asks: Sequence[Ask]) -> dict[tuple[str, int], Response | NoResponse]:
    came = list(endpoint.generate(asks))
    found = {(a.case_id, a.sample): a for a in came}
    assert len(found) == len(came)
    return found


def drain(queue: Queue) -> list[Response | NoResponse]:
    """Every answer until nothing is in flight."""
    came: list[Response | NoResponse] = []
    while more := queue.take():
        came += more
    return came


def asks_of(endpoint: OpenAiHttp, count: int) -> list[Ask]:
    return [make_ask(endpoint, f"question {n}", number=n) for n in range(count)]


def failure_of(server: FaultServer, prefill: str = "", patience: Patience = QUICK) -> NoResponse:
    """What comes of the one ask that this server fails."""
    endpoint = endpoint_of(server, patience=patience)
    (answer,) = endpoint.generate([make_ask(endpoint, "q", prefill=prefill)])
    assert isinstance(answer, NoResponse)
    return answer


def test_every_ask_is_answered_once_with_its_own_text(server: FaultServer) -> None:
    """Hundred asks, thirty-two in flight: each gets the answer to its own question, with the server's counts of tokens."""
    endpoint = endpoint_of(server)
    asks = asks_of(endpoint, 100)
    found = answers_of(endpoint, asks)
    assert {place: a.text for place, a in found.items() if isinstance(a, Response)} == {
        (ask.case.id, 0): f"echo: question {n}" for n, ask in enumerate(asks)
    }
    assert {(a.key, a.prompt_tokens, a.completion_tokens) for a in found.values() if isinstance(a, Response)} == {
        (ask.key, 7, 5) for ask in asks
    }


def test_it_is_an_engine_of_the_table(server: FaultServer) -> None:
    """The table makes it from a candidate and the options, and it can be fed while it works and verified at the end."""
    made = ENDPOINTS["openai_http"](load_served(server.url, "scripted"), EngineOptions(in_flight=5))
    assert isinstance(made, Continuous)
    assert isinstance(made, Verifying)
    queue = made.queue()
    assert queue.room() == 10
    queue.close()


def test_chat_is_sent_as_messages_and_greedy_as_temperature_zero(server: FaultServer) -> None:
    """A native case goes to chat completions: system prompt first, no seed and no top_p beside temperature 0."""
    endpoint = endpoint_of(server)
    list(endpoint.generate([make_ask(endpoint, "hello", calibration=Calibration.NATIVE_SYSTEM, system="be brief")]))
    (seen,) = server.seen
    assert seen.path == "/v1/chat/completions"
    assert seen.body == {
        "model": "scripted",
        "max_tokens": 16,
        "stream": False,
        "temperature": 0,
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}],
    }


def test_raw_is_sent_as_text_with_its_sampling(server: FaultServer) -> None:
    """A raw case goes to completions with temperature and top_p; samples of one prompt have seeds of their own, below 2^31."""
    endpoint = endpoint_of(server)
    decoding = Decoding(name="warm", temperature=0.7, top_p=0.9, samples=2, max_new_tokens=8)
    asks = [make_ask(endpoint, "hello", calibration=Calibration.RAW, decoding=decoding, sample=s) for s in (0, 1)]
    assert {a.text for a in answers_of(endpoint, asks).values() if isinstance(a, Response)} == {"echo: hello"}
    assert {(s.path, s.body["prompt"], s.body["temperature"], s.body["top_p"]) for s in server.seen} == {
        ("/v1/completions", "hello", 0.7, 0.9)
    }
    seeds = {s.body["seed"] for s in server.seen}
    assert len(seeds) == 2
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_prefill_is_continued_where_the_server_can(server: FaultServer) -> None:
    """A vLLM is told to continue the assistant's words; a server that is not known to do so is not asked at all."""
    assert failure_of(server, prefill="Sure,").kind == "unsupported"
    assert server.seen == []
    server.models = [entry("scripted", owned_by="vllm")]
    endpoint = endpoint_of(server)
    (answer,) = endpoint.generate([make_ask(endpoint, "q", prefill="Sure,")])
    assert isinstance(answer, Response)
    body = server.seen[0].body
    assert body["messages"][-1] == {"role": "assistant", "content": "Sure,"}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)


@pytest.mark.parametrize(
    ("fault", "kind", "attempts", "reason"),
    [
        ("429", "unreachable", 3, "status 429"),
        ("429 with Retry-After", "unreachable", 3, "status 429"),
        ("500", "error", 3, "status 500"),
        ("503", "unreachable", 3, "status 503"),
        ("cut", "unreachable", 3, "RemoteProtocolError"),
        ("reset", "unreachable", 3, "Error"),
        ("truncated JSON", "error", 1, "not JSON"),
        ("wrong model", "error", 1, "answered by another model: 'another'"),
        ("no choices", "error", 1, "no choices"),
    ],
)
def test_each_fault_has_its_kind(server: FaultServer, fault: Fault, kind: str, attempts: int, reason: str) -> None:
    """A lasting fault becomes a failure of the right kind after as many attempts as it deserves: whole answers get one."""
    server.plan = faulty(1.0, 0, (fault,))
    failure = failure_of(server)
    assert (failure.kind, len(server.seen)) == (kind, attempts)
    assert reason in failure.reason


@pytest.mark.parametrize("fault", STUCK)
def test_a_server_that_gets_stuck_is_a_timeout(server: FaultServer, fault: Fault) -> None:
    """Hung or dripping, the answer does not come within its time, and the failure says so; it is asked for twice at most."""
    server.plan = faulty(1.0, 0, (fault,))
    failure = failure_of(server, patience=HASTY)
    assert (failure.kind, failure.reason) == ("timeout", "no whole answer within 0.5 s")
    assert len(server.seen) <= 2


@pytest.mark.parametrize("fault", [f for f in FAULTS if f not in (*STUCK, "truncated JSON", "wrong model", "no choices")])
def test_a_fault_that_passes_costs_nothing(server: FaultServer, fault: Fault) -> None:
    """What fails at the transport or by a passing status is asked again and answered."""
    server.plan = lambda _body, before: fault if before == 0 else None
    endpoint = endpoint_of(server)
    (answer,) = endpoint.generate([make_ask(endpoint, "q")])
    assert isinstance(answer, Response)
    assert [seen.fault for seen in server.seen] == [fault, ""]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"choices": [{"finish_reason": "content_filter", "message": {"content": "x"}}]}, "ended by 'content_filter'"),
        ({"choices": [{"finish_reason": "tool_calls", "message": {"content": None}}]}, "ended by 'tool_calls'"),
        ({"choices": [{"finish_reason": None, "message": {"content": "x"}}]}, "ended by None"),
        ({"choices": [{"finish_reason": "stop", "message": {"content": None}}]}, "no text"),
        ({"choices": [{"finish_reason": "stop", "message": "x"}]}, "no text"),
        ({"choices": [{"finish_reason": "stop", "message": {"content": "x"}}] * 2}, "2 choices"),
        ({"choices": ["x"]}, "1 choices"),
        ({"choices": None}, "no choices"),
        ({"model": None}, "names no model"),
    ],
)
def test_an_answer_that_is_not_one_is_an_error(server: FaultServer, change: Mapping[str, Any], reason: str) -> None:
    """Whatever is not one whole text of the asked model is no answer, least of all a refusal."""
    server.change = lambda answer: {**answer, **change}
    failure = failure_of(server)
    assert failure.kind == "error"
    assert reason in failure.reason


@pytest.mark.parametrize("body", [[], "text", 3, None])
def test_an_answer_must_be_an_object(server: FaultServer, body: object) -> None:
    """JSON that is no object is an error."""
    server.change = lambda _answer: body
    assert failure_of(server).reason == "the answer is not a JSON object"


def test_tokens_are_counted_as_words_where_the_server_does_not(server: FaultServer) -> None:
    """Without usage, or with nonsense for it, an answer's length is its words."""
    server.change = lambda answer: {**answer, "usage": {"prompt_tokens": -1, "completion_tokens": True}}
    endpoint = endpoint_of(server)
    (answer,) = endpoint.generate([make_ask(endpoint, "one two", calibration=Calibration.RAW)])
    assert isinstance(answer, Response)
    assert (answer.prompt_tokens, answer.completion_tokens) == (2, 3)


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (400, "maximum context length is 8 tokens", "unsupported"),
        (413, "too long", "unsupported"),
        (422, "no such parameter", "unsupported"),
        (400, '{"error": {"code": "content_filter"}}', "error"),
        (403, "no", "error"),
        (404, "no such page", "error"),
        (404, "The model `scripted` does not exist.", "unreachable"),
        (408, "slow", "timeout"),
        (302, "elsewhere", "error"),
        (502, "bad gateway", "unreachable"),
        (504, "gateway timeout", "unreachable"),
        (501, "not built", "error"),
    ],
)
def test_each_status_has_its_kind(server: FaultServer, status: int, text: str, kind: str) -> None:
    """A status other than 200 gives a failure of the right kind that repeats what the server said."""
    server.status = lambda _body: (status, text)
    failure = failure_of(server)
    assert failure.kind == kind
    assert failure.reason == f"status {status}: {text}"


def test_reasons_are_short_single_lines(server: FaultServer) -> None:
    """A server's long speech is cut to one printable line of 300 characters."""
    server.status = lambda _body: (404, "a\nb\x1b[31m" + "long " * 1000)
    reason = failure_of(server).reason
    assert len(reason) == 300
    assert reason.isprintable()


def test_an_endless_answer_is_cut_off(server: FaultServer) -> None:
    """An answer beyond the bound is an error, not a full memory."""
    server.change = lambda answer: {**answer, "more": "x" * (16 * 1024 * 1024)}
    endpoint = endpoint_of(server, patience=Patience(seconds=30))
    (answer,) = endpoint.generate([make_ask(endpoint, "q")])
    assert isinstance(answer, NoResponse)
    assert "longer than" in answer.reason


def test_the_key_goes_to_the_server_and_nowhere_else(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key travels as bearer token; a server that repeats it puts it neither into a failure nor into an error or a record."""
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    monkeypatch.setenv("TASKGATE_API_KEY", SECRET)
    server.wanted_key = SECRET
    server.status = lambda _body: (404, f"your key {SECRET} knows no such model")
    candidate = load_served(server.url, "scripted")
    endpoint = OpenAiHttp(candidate, patience=QUICK)
    (failure,) = endpoint.generate([make_ask(endpoint, "q")])
    assert isinstance(failure, NoResponse)
    assert server.seen[0].headers["authorization"] == f"Bearer {SECRET}"
    assert "your key [key] knows" in failure.reason
    assert SECRET not in candidate.model_dump_json() + failure.model_dump_json() + endpoint.info.model_dump_json()
    monkeypatch.setenv("TASKGATE_API_KEY", SECRET + "-not")
    with pytest.raises(CandidateError) as caught:
        load_served(server.url, "scripted")
    assert SECRET not in caught.value.diagnostics()
    assert "TASKGATE_API_KEY" in caught.value.diagnostics()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"choices": [{"finish_reason": f"denied for {SECRET}", "message": {"content": "x"}}]}, "denied for [key]"),
        ({"choices": [{"finish_reason": "x" * 270 + SECRET, "message": {"content": "x"}}]}, "x[key]"),
        ({"model": f"for {SECRET}"}, "another model: 'for [key]'"),
    ],
)
def test_a_key_in_a_whole_answer_is_not_repeated(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch, change: Mapping[str, Any], reason: str
) -> None:
    """A key that a server puts into an answer of status 200 is in no failure, not even the piece of it before the cut."""
    monkeypatch.setenv("TASKGATE_API_KEY", SECRET)
    server.change = lambda answer: {**answer, **change}
    failure = failure_of(server)
    assert reason in failure.reason
    assert SECRET[:6] not in failure.model_dump_json()


def test_a_key_for_a_models_name_is_not_repeated(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error after many answers by another model names it without the key, also where the name is cut."""
    monkeypatch.setenv("TASKGATE_API_KEY", SECRET)
    server.change = lambda answer: {**answer, "model": "x" * 70 + SECRET}
    endpoint = endpoint_of(server)
    with pytest.raises(CandidateError, match=f"{OTHERS_IN_A_ROW} times in a row") as caught:
        list(endpoint.generate(asks_of(endpoint, 30)))
    assert "x[key]" in caught.value.found
    assert SECRET[:6] not in caught.value.diagnostics()


def test_an_escaped_key_is_found_too() -> None:
    """A key is taken out of a JSON text or a literal in which its characters are escaped; without a key nothing changes."""
    key = "a/b\\c\"d'e"
    for text in (key, json.dumps(key), json.dumps(key).replace("/", "\\/"), repr(key)):
        assert "[key]" in without_key(text, key)
        assert "d" not in without_key(text, key)
    assert without_key("plain", "") == "plain"


def test_the_key_is_not_sent_beside_the_api(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The version of a vLLM is asked without the key: it stands outside of /v1."""
    monkeypatch.setenv("TASKGATE_API_KEY", SECRET)
    server.models = [entry("scripted", owned_by="vllm")]
    assert endpoint_of(server).info.version == "vllm 0.0.test"
    sent = {(path, "authorization" in headers) for path, headers in server.other_paths}
    assert sent == {("/v1/models", True), ("/version", False)}


def test_a_key_refused_on_the_way_ends_the_run(server: FaultServer) -> None:
    """401 while asking is a failure of the machine: the run can be resumed with a valid key."""
    endpoint = endpoint_of(server)
    server.wanted_key = SECRET
    with pytest.raises(InfrastructureError, match="does not let us in"):
        list(endpoint.generate(asks_of(endpoint, 5)))


def test_a_key_that_no_header_can_hold_is_refused(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key with a line break in it is named by its variable, not repeated."""
    monkeypatch.setenv("TASKGATE_API_KEY", f"{SECRET}\nx")
    with pytest.raises(UsageError, match="TASKGATE_API_KEY") as caught:
        load_served(server.url, "scripted")
    assert SECRET not in caught.value.diagnostics()


def test_retry_after_is_waited_for(server: FaultServer) -> None:
    """After a 429 with Retry-After: 1 nothing more is sent for a second, by the server's own clock; neither is anything else."""
    server.retry_after = "1"
    server.plan = lambda body, before: "429 with Retry-After" if before == 0 and "question 0" in json.dumps(body) else None
    endpoint = endpoint_of(server, in_flight=1)
    assert all(isinstance(a, Response) for a in endpoint.generate(asks_of(endpoint, 3)))
    turned_away = next(seen.at for seen in server.seen if seen.fault)
    later = [seen.at for seen in server.seen if seen.at > turned_away]
    assert len(later) >= 1
    assert min(later) - turned_away >= 0.99


def test_retry_after_is_read_in_both_forms() -> None:
    """Seconds and HTTP dates are understood, the past is now, more than the cap is the cap, nonsense is nothing."""
    now = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
    date = format_datetime(now + timedelta(seconds=7), usegmt=True)
    past = format_datetime(now - timedelta(hours=1), usegmt=True)
    values = [None, "3", " 0 ", "99999999999999999", date, past, "-1", "soon", "", "٣"]
    assert [retry_after(v, now, 60.0) for v in values] == [None, 3.0, 0.0, 60.0, 7.0, 0.0, None, None, None, None]


@given(st.text() | st.from_regex(r"Mon, 01 Jan [0-9]{1,6} 00:00:00 [+-][0-9]{1,20}", fullmatch=True))
def test_no_retry_after_breaks_anything(value: str) -> None:
    """Whatever a server writes there, it is a number of seconds up to the cap, or nothing."""
    found = retry_after(value, datetime(2026, 11, 21, tzinfo=UTC), 60.0)
    assert found is None or 0.0 <= found <= 60.0


@pytest.mark.parametrize(
    "value",
    ["Mon, 01 Jan 2024 00:00:00 +99999999999999999", "Mon, 01 Jan 0001 00:00:00 +2359", "Mon, 01 Jan 99999 00:00:00 GMT", "\0"],
)
def test_an_impossible_date_is_no_retry_after(value: str) -> None:
    """A date beyond the calendar, or with a zone of years, asks for nothing (or for what is past), and does not end the run."""
    assert retry_after(value, datetime(2026, 11, 21, tzinfo=UTC), 60.0) in (None, 0.0)


def test_in_flight_yields_to_429_and_grows_back(server: FaultServer) -> None:
    """A server that takes four at a time is asked for less than thirty-two; every ask is answered, and the window grows again."""
    server.most, server.hold = 4, lambda: not any(seen.fault for seen in server.seen)  # four wait until a fifth was refused
    endpoint = endpoint_of(server, patience=Patience(seconds=60, attempts=50, first_wait=0.002, longest_wait=0.05, jitter=0.02))
    queue = endpoint.queue()
    assert queue.room() == 64
    asks = asks_of(endpoint, 500)
    queue.put(asks[:150])
    first = drain(queue)
    assert len(first) == 150
    assert all(isinstance(a, Response) for a in first)
    small = queue.room()
    assert small < 64
    server.most = 1000
    queue.put(asks[150:])
    drain(queue)
    assert queue.room() > small
    queue.close()


def test_no_more_is_in_flight_than_allowed(server: FaultServer) -> None:
    """With five allowed, the server never holds six requests, though all are put in at once."""
    server.hold = lambda: server.peak < 5
    endpoint = endpoint_of(server, in_flight=5)
    queue = endpoint.queue()
    queue.put(asks_of(endpoint, 40))
    drain(queue)
    queue.close()
    assert server.peak == 5


def test_dropped_asks_are_not_sent(server: FaultServer) -> None:
    """Of asks dropped while the server works on the first, none is sent, none is given out, and the queue runs empty."""
    server.plan = faulty(1.0, 0, ("hang",))
    endpoint = endpoint_of(server, in_flight=1, patience=Patience(seconds=60))
    queue = endpoint.queue()
    asks = asks_of(endpoint, 10)
    queue.put(asks)
    queue.drop([(ask.case.id, ask.sample) for ask in asks])
    server.plan = lambda _body, _before: None
    queue.put([make_ask(endpoint, "another", number=77)])
    came = drain(queue)
    queue.close()
    assert [a.text for a in came if isinstance(a, Response)] == ["echo: another"]
    assert len(server.seen) <= 2


def test_nothing_in_flight_gives_nothing(server: FaultServer) -> None:
    """An empty queue does not wait, has room, and closes twice."""
    queue = endpoint_of(server).queue()
    assert queue.take() == []
    assert queue.room() > 0
    queue.close()
    queue.close()


def test_closing_leaves_no_thread(server: FaultServer) -> None:
    """A queue closed over a hanging server ends its thread at once; closing the endpoint closes its queue."""
    server.plan = faulty(1.0, 0, ("hang",))
    endpoint = endpoint_of(server, patience=Patience(seconds=600))
    before = set(threading.enumerate())
    queue = endpoint.queue()
    queue.put(asks_of(endpoint, 50))
    assert set(threading.enumerate()) > before
    endpoint.close()
    assert set(threading.enumerate()) == before


def test_a_dead_server_ends_the_run_and_stores_no_failure(server: FaultServer) -> None:
    """When nothing answers any more, the error comes instead of a heap of failures; answers that came before are given out."""
    endpoint = endpoint_of(server)
    queue = endpoint.queue()
    asks = asks_of(endpoint, 40)
    queue.put(asks[:4])
    came = drain(queue)
    server.plan = faulty(1.0, 0, ("reset",))
    queue.put(asks[4:])
    with pytest.raises(InfrastructureError, match=f"{UNREACHABLE_IN_A_ROW} asks in a row"):
        drain(queue)
    queue.close()
    assert len(came) == 4


@pytest.mark.parametrize("in_flight", [1, 2, 3, 32])
def test_eight_in_a_row_are_given_out_at_no_window(server: FaultServer, in_flight: int) -> None:
    """However few may be in flight, a server that only says 503 gives an error and no failure at all to store."""
    server.plan = faulty(1.0, 0, ("503",))
    endpoint = endpoint_of(server, in_flight=in_flight)
    came: list[Response | NoResponse] = []
    with pytest.raises(InfrastructureError, match=f"{UNREACHABLE_IN_A_ROW} asks in a row"):
        came.extend(endpoint.generate(asks_of(endpoint, 20)))
    assert came == []


def test_fewer_than_eight_are_failures_of_their_own(server: FaultServer) -> None:
    """Where there are no more asks than seven, they are given out as failures, and do not count towards a later eight."""
    server.plan = faulty(1.0, 0, ("503",))
    queue = (endpoint := endpoint_of(server, in_flight=2)).queue()
    asks = asks_of(endpoint, UNREACHABLE_IN_A_ROW + 6)
    for some in (asks[:7], asks[7:]):
        queue.put(some)
        assert [a.kind for a in drain(queue) if isinstance(a, NoResponse)] == ["unreachable"] * 7
    queue.close()


def test_unreachable_now_and_then_is_a_failure_of_the_ask(server: FaultServer) -> None:
    """A few asks that never get through, among others that do, are failures of their own: the run goes on."""
    server.plan = lambda body, _before: "reset" if "question 3" in json.dumps(body) else None
    endpoint = endpoint_of(server)
    found = answers_of(endpoint, asks_of(endpoint, 30))
    failures = [a for a in found.values() if isinstance(a, NoResponse)]
    assert [a.kind for a in failures] == ["unreachable"]
    assert len(found) == 30


def test_nobody_at_the_address_is_a_failure_of_the_machine(server: FaultServer) -> None:
    """A refused connection at the start is exit code 5, with the address in the message."""
    with running(FaultServer(script=str)) as gone:
        url = gone.url
    with pytest.raises(InfrastructureError, match=url):
        load_served(url, "scripted", patience=QUICK)


def test_a_name_that_is_another_models_is_refused(server: FaultServer) -> None:
    """When only another model answers, nothing more is asked: from the start it is a wrong name, later it is a swap."""
    server.change = lambda answer: {**answer, "model": "dated-2026"}
    endpoint = endpoint_of(server)
    with pytest.raises(CandidateError, match="another model") as caught:
        list(endpoint.generate(asks_of(endpoint, 60)))
    assert "dated-2026" in caught.value.found
    server.change = lambda answer: answer
    queue = endpoint.queue()
    asks = asks_of(endpoint, 60)
    queue.put(asks[:2])
    drain(queue)
    server.change = lambda answer: {**answer, "model": "dated-2026"}
    queue.put(asks[2:])
    with pytest.raises(UnsafeCandidateError, match="another model"):
        drain(queue)
    queue.close()


def test_a_silent_swap_is_found_at_the_end(server: FaultServer) -> None:
    """The identity asked again at the end must be the one of the beginning: another root or parent is refused."""
    server.models = [entry("base", root="/models/base"), entry("scripted", root="/adapters/a", parent="base", created=1)]
    endpoint = endpoint_of(server)
    server.models[1] = entry("scripted", root="/adapters/a", parent="base", created=2, permission=[{"id": "new"}])
    endpoint.verify_unchanged()
    server.models[0] = entry("base", root="/models/other")
    with pytest.raises(UnsafeCandidateError, match="is not the model that it was"):
        endpoint.verify_unchanged()
    server.models = [entry("else")]
    with pytest.raises(CandidateError, match="serves no model of the name 'scripted'"):
        endpoint.verify_unchanged()


def test_changed_software_is_found_at_the_end(server: FaultServer) -> None:
    """The same names served by other software are another engine, in the identity or in the version."""
    endpoint = endpoint_of(server)
    server.models = [entry("scripted", owned_by="somebody")]
    with pytest.raises(UnsafeCandidateError):
        endpoint.verify_unchanged()


def test_another_version_of_the_software_is_found_at_the_end(server: FaultServer) -> None:
    """The same models served by a newer vLLM are another engine: the run is refused, and goes on in no folder that it has."""
    server.models = [entry("scripted", owned_by="vllm")]
    endpoint = endpoint_of(server)
    endpoint.verify_unchanged()
    server.version = "0.1.test"
    with pytest.raises(UnsafeCandidateError, match="the software that serves scripted was changed") as caught:
        endpoint.verify_unchanged()
    assert (caught.value.expected, caught.value.found) == ("vllm 0.0.test", "vllm 0.1.test")
    assert "another --out" in caught.value.mend
