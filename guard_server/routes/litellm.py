"""LiteLLM's generic guardrail contract: `POST /beta/litellm_basic_guardrail_api`.

The proxy treats 502, 503 and 504 as "unreachable" and then follows its own `unreachable_fallback`; any other error is a hard one.
Our overload is a 503 on every route, so it needs nothing special here. Task and policy come from
`additional_provider_specific_params`: the guardrail's configuration (one guardrail a task, named by the request); a request's own
`extra_body` is sent by paid editions of LiteLLM alone.
"""

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from guard_server.labels import Decision, Direction, Task
from guard_server.schemas import Message
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
    texts: list[str] | None = None
    images: list[str] | None = None
    structured_messages: list[Message] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    additional_provider_specific_params: Parameters | None = Field(default=None)


class GuardrailResponse(BaseModel):
    """LiteLLM's answer; texts are never rewritten."""

    action: Literal["NONE", "BLOCKED"]
    blocked_reason: str | None = None


@router.post(ROUTE)
async def guardrail(body: GuardrailRequest, guard: Annotated[Guard, Depends(guard_of)]) -> GuardrailResponse:
    """BLOCKED when a text is blocked; what is only flagged passes and is counted."""
    parameters = body.additional_provider_specific_params or Parameters()
    direction = Direction.PROMPT if body.input_type == "request" else Direction.RESPONSE
    task = None if parameters.task == "auto" else parameters.task
    context = _asked(body.structured_messages) if direction is Direction.RESPONSE else None
    texts = [*(body.texts or ()), *_arguments(body.tool_calls)]
    if body.images:
        guard.unread("image", len(body.images))
    if not texts:
        # A message of images or tools alone: there is nothing that the guard could read.
        return GuardrailResponse(action="NONE")
    answer = await guard.screen(ROUTE, [Subject(text, direction, task, context) for text in texts], parameters.policy)
    worst = max(answer.outcomes, key=lambda o: (o.decision is Decision.BLOCK, o.score or 0.0))
    if worst.decision is not Decision.BLOCK:
        return GuardrailResponse(action="NONE")
    return GuardrailResponse(action="BLOCKED", blocked_reason=_reason(worst))


def _asked(messages: list[Message] | None) -> str | None:
    """The last user message: what is being answered."""
    asked = [m.text() for m in messages or () if m.role == "user"]
    return asked[-1] if asked else None


def _arguments(calls: list[dict[str, Any]] | None) -> list[str]:
    """The arguments that a model wants to call its tools with are text of the model like any other."""
    functions = [call.get("function") for call in calls or ()]
    found = [f.get("arguments") for f in functions if isinstance(f, dict)]
    return [argument for argument in found if isinstance(argument, str) and argument]


def _reason(outcome: Outcome) -> str:
    kind = max(outcome.categories, key=lambda c: outcome.categories[c]) if outcome.categories else "harm"
    return f"blocked by the guard: {kind} in a {outcome.task} {outcome.direction} (score {outcome.score:.2f})"
