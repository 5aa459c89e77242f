"""The clients that people have already, against a running server: OpenAI's SDK as it comes from PyPI, and LLM Guard's shapes."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import httpx
import httpx2
import openai
import pytest
from openai.types import ModerationTextInputParam

from tests.guard.app_client import BORDERLINE, HARMFUL, HARMLESS, Running, held, keys, make_app, metric, running

KEYS, ENTRIES = keys(app="screen")
KEY = KEYS["app"]
CATEGORIES = {
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
    "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic",
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tiny_bundle: Path) -> Iterator[Running]:
    """A server process with one key."""
    with running(tiny_bundle, api_keys=ENTRIES) as found:
        yield found


@pytest.fixture
def sdk(server: Running) -> Iterator[openai.OpenAI]:
    """OpenAI's client, pointed at the guard."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def http(server: Running) -> Iterator[httpx.Client]:
    """A plain client with the key."""
    with httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {KEY}"}) as client:
        yield client


def test_openai_reads_a_harmful_and_a_harmless_text(sdk: openai.OpenAI) -> None:
    """`flagged`, the categories and the scores are read by the SDK's own types; every category of OpenAI's is there."""
    harmful = sdk.moderations.create(input=HARMFUL, model="omni-moderation-latest")
    result = harmful.results[0]
    assert result.flagged
    assert result.categories.illicit_violent
    assert result.category_scores.illicit_violent > result.category_scores.hate
    assert harmful.id.startswith("modr-")
    assert harmful.model == "tiny-1"
    raw = result.model_dump(by_alias=True)
    assert set(raw["categories"]) == set(raw["category_scores"]) == set(raw["category_applied_input_types"]) == CATEGORIES
    assert not sdk.moderations.create(input=HARMLESS).results[0].flagged


def test_openai_is_never_told_false_of_what_was_not_assessed(sdk: openai.OpenAI) -> None:
    """Categories that no head looks at are null, in the verdicts and in the scores."""
    raw = sdk.moderations.create(input=HARMFUL).results[0].model_dump(by_alias=True)
    for name in ("sexual/minors", "violence/graphic", "self-harm/intent", "hate/threatening"):
        assert raw["categories"][name] is None
        assert raw["category_scores"][name] is None
        assert raw["category_applied_input_types"][name] == []
    assert raw["categories"]["sexual"] is False


def test_openai_lists_are_answered_one_by_one(sdk: openai.OpenAI) -> None:
    """A list of strings has a result each, in order; text parts are one input."""
    results = sdk.moderations.create(input=[HARMLESS, HARMFUL, BORDERLINE]).results
    assert [r.flagged for r in results] == [False, True, True]
    parts: list[ModerationTextInputParam] = [{"type": "text", "text": "how do you build"}, {"type": "text", "text": "a bomb"}]
    assert [r.flagged for r in sdk.moderations.create(input=parts).results] == [True]


def test_openai_passes_task_and_policy(sdk: openai.OpenAI) -> None:
    """`extra_body` carries the task, the policy and the direction; the guard's own answer comes beside OpenAI's."""
    body = {"task": "translation", "policy": "strict", "direction": "response"}
    result = sdk.moderations.create(input=BORDERLINE, extra_body=body).results[0]
    own = (result.model_extra or {})["taskgate"]
    assert (own["task"], own["failure"]) == ("translation", None)
    with pytest.raises(openai.NotFoundError, match="no policy"):
        sdk.moderations.create(input=HARMLESS, extra_body={"policy": "missing"})


def test_openai_works_asynchronously(server: Running) -> None:
    """Eight requests at once through the asynchronous client all get their own answer."""

    async def ask() -> list[bool]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
            texts = [HARMFUL, HARMLESS] * 4
            answers = await asyncio.gather(*(client.moderations.create(input=text) for text in texts))
        return [answer.results[0].flagged for answer in answers]

    assert asyncio.run(ask()) == [True, False] * 4


def test_openai_lists_the_models(sdk: openai.OpenAI) -> None:
    """`models.list()` names the loaded bundle."""
    assert [model.id for model in sdk.models.list()] == ["tiny-1"]


def test_openai_sees_a_wrong_key_as_an_authentication_error(server: Running) -> None:
    """The SDK's own exception, with the guard's message and request id."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="tg-wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError, match="unknown key") as refused:
            client.moderations.create(input=HARMLESS)
        assert refused.value.type == "not_authenticated"
        assert refused.value.request_id


def test_openai_sees_what_it_got_wrong(sdk: openai.OpenAI) -> None:
    """An image, an empty list and a missing input are refused with the field's name."""
    image = {"type": "image_url", "image_url": {"url": "https://img.example/1.png"}}
    for given in ([image], [], 7):
        with pytest.raises(openai.UnprocessableEntityError) as refused:
            sdk.moderations.create(input=given)  # type: ignore[arg-type]
        assert (refused.value.param or "").startswith("input")


def test_openai_sees_overload_as_a_server_error_and_its_retries_get_through(tiny_bundle: Path) -> None:
    """Without a permit the SDK raises InternalServerError (503); with retries it comes back after Retry-After and is answered."""
    hold = Event()
    app = make_app(tiny_bundle, held(hold), max_requests=1)
    transport = httpx2.ASGITransport(app)

    async def ask(retries: int) -> bool:
        http = openai.DefaultAsyncHttpxClient(transport=transport)
        async with openai.AsyncOpenAI(base_url="http://guard/v1", api_key="any", max_retries=retries, http_client=http) as client:
            return (await client.moderations.create(input=HARMFUL)).results[0].flagged

    async def run() -> None:
        async with app.router.lifespan_context(app):
            hold.set()
            first = asyncio.create_task(ask(0))
            while metric(app.state.guard.metrics.exposition().decode(), "guard_requests_in_flight") == 0:
                await asyncio.sleep(0.005)
            with pytest.raises(openai.InternalServerError) as refused:
                await ask(0)
            assert (refused.value.status_code, refused.value.type) == (503, "overloaded")
            patient = asyncio.create_task(ask(3))
            while metric(app.state.guard.metrics.exposition().decode(), "guard_shed_total") < 2:
                await asyncio.sleep(0.005)
            hold.clear()
            assert await first
            assert await patient

    asyncio.run(run())


def test_openai_sees_the_rate_limit_as_its_own(tiny_bundle: Path) -> None:
    """Over the rate the SDK raises RateLimitError, with the seconds to wait."""
    with running(tiny_bundle, rate_limit="1/hour") as server, openai.OpenAI(base_url=f"{server.url}/v1", api_key="any") as client:
        client.moderations.create(input=HARMLESS)
        with pytest.raises(openai.RateLimitError) as refused:
            client.with_options(max_retries=0).moderations.create(input=HARMLESS)
        assert int(refused.value.response.headers["retry-after"]) >= 1


@pytest.mark.parametrize(("text", "valid"), [(HARMFUL, False), (HARMLESS, True), (BORDERLINE, True)])
def test_llm_guard_prompts(http: httpx.Client, text: str, valid: bool) -> None:
    """`/analyze/prompt` and `/scan/prompt` answer in LLM Guard's fields; only what is blocked is invalid."""
    found = http.post("/analyze/prompt", json={"prompt": text}).json()
    assert set(found) == {"is_valid", "scanners", "sanitized_prompt"}
    assert (found["is_valid"], found["sanitized_prompt"], set(found["scanners"])) == (valid, text, {"Harm"})
    assert http.post("/scan/prompt", json={"prompt": text}).json() == {k: found[k] for k in ("is_valid", "scanners")}


def test_llm_guard_outputs(http: httpx.Client) -> None:
    """`/analyze/output` reads the answer with its prompt, and shows a refusal without calling it invalid."""
    found = http.post("/analyze/output", json={"prompt": HARMFUL, "output": "sorry, we cannot help"}).json()
    assert set(found) == {"is_valid", "scanners", "sanitized_output"}
    assert (found["is_valid"], found["sanitized_output"]) == (True, "sorry, we cannot help")
    assert found["scanners"]["Refusal"] > 0.5
    harmful = {"prompt": HARMFUL, "output": "build a bomb"}
    assert http.post("/analyze/output", json=harmful).json()["is_valid"] is False
    assert http.post("/scan/output", json=harmful).json()["is_valid"] is False


def test_llm_guard_suppressed_scanners_are_left_out(http: httpx.Client) -> None:
    """A suppressed scanner is neither shown nor counted."""
    body = {"prompt": HARMFUL, "output": "build a bomb", "scanners_suppress": ["Harm"]}
    found = http.post("/scan/output", json=body).json()
    assert (found["is_valid"], set(found["scanners"])) == (True, {"Refusal"})
