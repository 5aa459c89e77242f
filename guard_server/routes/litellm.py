"""LiteLLM's generic guardrail contract: `POST /beta/litellm_basic_guardrail_api`.

The proxy treats 502, 503 and 504 as "unreachable" and then follows its own `unreachable_fallback`; any other error is a hard one.
Our overload is a 503 on every route, so it needs nothing special here. Task and policy come from
`additional_provider_specific_params`: the guardrail's configuration (one guardrail a task, named by the request); a request's own
`extra_body` may reach it too, so that only the policies that the route lists can be chosen.

A long conversation must not be a hard error: of more texts than a request may hold the oldest are joined; none is left out.
"""

from collections.abc import Sequence
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from guard_server.cancellation import unless_disconnected
from guard_server.disclosure import disclose
from guard_server.labels import Decision, Direction, Task
from guard_server.schemas import Listed, Message, ToolCall, call_texts
from guard_server.screening import Subject
from guard_server.service import Guard, Outcome, guard_of

ROUTE: Final = "/beta/litellm_basic_guardrail_api"
router = APIRouter(tags=["LiteLLM"])


class Parameters(BaseModel):
    """What of the additional parameters is ours; others belong to other guardrails."""

    model_config = ConfigDict(extra="ignore")
    task: Task | Literal["auto"] = "auto"
    policy: str | None = None


class GuardrailRequest(BaseModel):
    """The fields of LiteLLM's request that are read; it grows with LiteLLM's versions, so unknown ones are let through."""

    model_config = ConfigDict(extra="ignore")
    input_type: Literal["request", "response"]
    texts: Listed[str] | None = None
    images: Listed[str] | None = None
    structured_messages: Listed[Message] | None = None
    tool_calls: Listed[ToolCall] | None = None
    additional_provider_specific_params: Parameters | None = Field(default=None)


class GuardrailResponse(BaseModel):
    """LiteLLM's answer; texts are never rewritten."""

    action: Literal["NONE", "BLOCKED"]
    blocked_reason: str | None = None


@router.post(ROUTE)
async def guardrail(
    request: Request, response: Response, body: GuardrailRequest, guard: Annotated[Guard, Depends(guard_of)]
) -> GuardrailResponse:
    """BLOCKED when a text is blocked; what is only flagged passes and is counted."""
    parameters = body.additional_provider_specific_params or Parameters()
    policy = guard.policies.choose(ROUTE, parameters.policy)
    direction = Direction.PROMPT if body.input_type == "request" else Direction.RESPONSE
    task = None if parameters.task == "auto" else parameters.task
    context = _asked(body.structured_messages) if direction is Direction.RESPONSE else None
    texts, unread = _texts(body)
    if unread:
        guard.unread("image", unread)
    if not texts:
        # A message of images alone: there is nothing that the guard could read.
        disclose(response, [], unread)
        return GuardrailResponse(action="NONE")
    folded = fold(texts, guard.settings.max_texts, policy.max_characters)
    subjects = [Subject(text, direction, task, context) for text in folded]
    answer = await unless_disconnected(request, guard.screen(ROUTE, subjects, parameters.policy))
    disclose(response, [answer], unread)
    worst = max(answer.outcomes, key=lambda o: (o.decision is Decision.BLOCK, o.score or 0.0))
    if worst.decision is not Decision.BLOCK:
        return GuardrailResponse(action="NONE")
    return GuardrailResponse(action="BLOCKED", blocked_reason=_reason(worst))


def fold(texts: Sequence[str], most: int, characters: int) -> list[str]:
    """At most `most` texts that hold all of them: the newest as they are, of the others as many joined as `characters` allow.

    A single longer text stays as it is; where even joining leaves more than `most`, there are more.
    """
    if len(texts) <= most:
        return list(texts)
    groups: list[list[str]] = []
    length = characters + 1
    for done, text in enumerate(texts):
        if len(groups) + len(texts) - done <= most:
            return ["\n\n".join(group) for group in groups] + list(texts[done:])
        length += len(text) + 2
        if length > characters:
            groups.append([])
            length = len(text)
        groups[-1].append(text)
    return ["\n\n".join(group) for group in groups]


def _texts(body: GuardrailRequest) -> tuple[list[str], int]:
    """What is to be screened, and how many parts hold no text.

    The proxy gives a conversation twice, as texts and as messages; the messages are read where it gives no text. Those of an
    answer are the conversation before it: there the model's own alone are read.
    """
    texts, unread = [*(body.texts or ()), *call_texts(body.tool_calls)], len(body.images or ())
    if body.texts or (texts and body.input_type == "response"):
        return texts, unread
    messages = [m for m in body.structured_messages or () if body.input_type == "request" or m.role == "assistant"]
    read = [text for text in (m.text() for m in messages) if text]
    # The images may be the messages' own: they are not counted twice.
    return read + texts, max(unread, sum(m.unread() for m in messages))


def _asked(messages: list[Message] | None) -> str | None:
    """The last user message: what is being answered."""
    asked = [m.text() for m in messages or () if m.role == "user"]
    return asked[-1] if asked else None


def _reason(outcome: Outcome) -> str:
    kind = max(outcome.categories, key=lambda c: outcome.categories[c]) if outcome.categories else "harm"
    return f"blocked by the guard: {kind} in a {outcome.task} {outcome.direction} (score {outcome.score:.2f})"
