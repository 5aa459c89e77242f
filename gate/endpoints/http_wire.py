"""OpenAI's two shapes: an ask becomes a request, a whole answer becomes a `Response`. Pure.

Native calibrations go to `/chat/completions` as messages, and the server applies the template it would apply in production;
alpaca and raw go to `/completions` as text, in front of which the server puts its beginning-of-sequence token itself. Nothing is
taken on trust: an answer counts when it is JSON, from the model that was asked, with one choice, a text and a finish reason.
"""

from __future__ import annotations

import json
from typing import Any, Final, Literal

from gate.endpoints.hf_text import row_seed
from gate.endpoints.http_request import Failed
from gate.endpoints.templates import render_case
from gate.records import Ask, AttackCase, Calibration, Response, canonical_json

_CHAT: Final = (Calibration.NATIVE, Calibration.NATIVE_SYSTEM)
_CONTINUES: Final = ("vllm", "sglang")
"""Servers, by their models' `owned_by`, that continue the last message when they are told to."""
_FINISH: Final[dict[str, Literal["stop", "length"]]] = {"stop": "stop", "length": "length", "eos_token": "stop"}
"""Finish reasons that are an answer's end; `eos_token` is what TGI calls `stop`."""


class OtherModel(Failed):
    """The answer names another model than the one asked."""

    def __init__(self, model: str) -> None:
        super().__init__("error", f"answered by another model: {model!a}")
        self.model = model


def render(case: AttackCase) -> str:
    """The prompt of an ask: canonical JSON of the messages where the server applies the template, else the text itself.

    A prefill is the last message, the assistant's.
    """
    if case.calibration not in _CHAT:
        return render_case(case, _no_template, bos="")
    turns = [{"role": m.role, "content": m.content} for m in case.item.messages]
    system = [{"role": "system", "content": case.system}] if case.system else []
    prefill = [{"role": "assistant", "content": case.item.prefill}] if case.item.prefill else []
    return canonical_json([*system, *turns, *prefill]).decode()


def request(ask: Ask, model: str, owner: str) -> tuple[str, dict[str, Any]]:
    """(path below /v1, body). Raises `Failed` as unsupported for a prefill that this server is not known to continue."""
    body: dict[str, Any] = {"model": model, "max_tokens": ask.decoding.max_new_tokens, "stream": False, **_sampling(ask)}
    if ask.case.calibration not in _CHAT:
        return "/completions", {**body, "prompt": ask.prompt}
    body["messages"] = json.loads(ask.prompt)
    if not ask.case.item.prefill:
        return "/chat/completions", body
    if owner not in _CONTINUES:
        raise Failed("unsupported", f"only {' and '.join(_CONTINUES)} are known to continue a prefill; the server is {owner!a}")
    return "/chat/completions", {**body, "add_generation_prompt": False, "continue_final_message": True}


def _sampling(ask: Ask) -> dict[str, Any]:
    """Greedy: temperature 0 alone. Else temperature, top_p and a seed of 31 bits (some servers hold 32) per prompt and sample."""
    decoding = ask.decoding
    if decoding.temperature == 0:
        return {"temperature": 0}
    return {"temperature": decoding.temperature, "top_p": decoding.top_p, "seed": row_seed(ask) >> 32}


def response(ask: Ask, model: str, body: bytes) -> Response:
    """The record of a whole answer. Raises `Failed` as error, saying what is wrong with it."""
    answer = _json_object(body)
    if not isinstance(answer.get("model"), str):
        raise Failed("error", "the answer names no model")
    if answer["model"] != model:
        raise OtherModel(answer["model"])
    choice = _only_choice(answer)
    finish = choice.get("finish_reason")
    if not isinstance(finish, str) or finish not in _FINISH:
        raise Failed("error", f"the answer ended by {finish!a}, not by stop or length")
    text = _text(choice, chat=ask.case.calibration in _CHAT)
    usage = answer.get("usage")
    return Response(
        case_id=ask.case.id,
        sample=ask.sample,
        key=ask.key,
        text=text,
        finish_reason=_FINISH[finish],
        prompt_tokens=_count(usage, "prompt_tokens", ask.prompt),
        completion_tokens=_count(usage, "completion_tokens", text),
    )


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Failed("error", f"the answer is not JSON: {error}") from error
    if not isinstance(answer, dict):
        raise Failed("error", "the answer is not a JSON object")
    return answer


def _only_choice(answer: dict[str, Any]) -> dict[str, Any]:
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices:
        raise Failed("error", "the answer has no choices")
    if len(choices) > 1 or not isinstance(choices[0], dict):
        raise Failed("error", f"the answer has {len(choices)} choices, one was asked for")
    return choices[0]


def _text(choice: dict[str, Any], *, chat: bool) -> str:
    message = choice.get("message") if chat else choice
    text = message.get("content" if chat else "text") if isinstance(message, dict) else None
    if not isinstance(text, str):
        raise Failed("error", "the answer has no text")
    return text


def _count(usage: object, name: str, text: str) -> int:
    """The server's own count of tokens; where it gives none, white-space words."""
    found = usage.get(name) if isinstance(usage, dict) else None
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else len(text.split())


def _no_template(_turns: object) -> str:
    raise AssertionError("native calibrations are not rendered here")
