"""Tests of the endpoint without a model."""

from __future__ import annotations

import pytest

from gate.endpoints.base import Endpoint
from gate.endpoints.scripted import Answer, Scripted, no_answer, uniform
from gate.records import Ask, Calibration, Decoding, NoResponse, Response
from tests.endpoints.asking import make_ask


def asks(endpoint: Endpoint, count: int, decoding: Decoding | None = None) -> list[Ask]:
    """Asks with different questions."""
    return [make_ask(endpoint, f"Question {i}?", number=i, decoding=decoding or Decoding()) for i in range(count)]


def scripted(answer: Answer, seed: int = 0) -> Scripted:
    """The endpoint under test."""
    return Scripted(answer, seed=seed)


def test_every_ask_is_answered_once() -> None:
    """Each ask gets one record with its own key."""
    endpoint = scripted(lambda case, sample: f"{case.id} {sample}")
    put = asks(endpoint, 20)
    got = list(endpoint.generate(put))
    assert sorted(r.key for r in got) == sorted(a.key for a in put)
    assert all(isinstance(r, Response) and r.text == f"{r.case_id} {r.sample}" for r in got)


def test_order_is_the_seeds_not_the_askers() -> None:
    """The order of answers depends on the seed and not on the order of asks."""
    endpoint = scripted(lambda case, sample: "yes")
    put = asks(endpoint, 30)
    order = [r.key for r in endpoint.generate(put)]
    assert order == [r.key for r in endpoint.generate(put[::-1])]
    assert order != [r.key for r in scripted(lambda case, sample: "yes", seed=1).generate(put)]


def test_failure_is_addressed_to_its_ask() -> None:
    """A scripted failure comes back with the ask's case, sample and key."""
    endpoint = scripted(lambda case, sample: no_answer("timeout", "60 s passed"))
    (ask,) = asks(endpoint, 1)
    (record,) = endpoint.generate([ask])
    assert record == NoResponse(case_id=ask.case.id, sample=0, key=ask.key, kind="timeout", reason="60 s passed")


def test_text_beyond_the_limit_is_cut() -> None:
    """An answer of more words than max_new_tokens ends there with finish reason length."""
    endpoint = scripted(lambda case, sample: "one two three")
    (ask,) = asks(endpoint, 1, Decoding(max_new_tokens=2))
    (record,) = endpoint.generate([ask])
    assert isinstance(record, Response)
    assert (record.text, record.finish_reason, record.completion_tokens) == ("one two", "length", 2)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_uniform_keeps_its_rate(rate: float) -> None:
    """Of 4,000 cases, the share below the rate is within 2.5 percentage points of it (3 standard errors or more)."""
    hits = sum(uniform(7, f"case-{i}", 0) < rate for i in range(4000))
    assert abs(hits / 4000 - rate) < 0.025


def test_uniform_tells_its_parts_apart() -> None:
    """Joining parts differently gives another number."""
    assert uniform(0, "ab", "c") != uniform(0, "a", "bc")


def test_render_shows_the_case() -> None:
    """The prompt holds the question and the prefill, so that the cache key differs between cases."""
    endpoint = scripted(lambda case, sample: "yes")
    ask = make_ask(endpoint, "Why?", calibration=Calibration.NATIVE_SYSTEM, system="Be kind.", prefill="Sure")
    assert "Be kind." in ask.prompt
    assert ask.prompt.endswith("<|im_start|>assistant\nSure")
