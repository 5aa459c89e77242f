"""OpenAI's moderation contract: `POST /v1/moderations`, so that its SDKs and whatever calls it can point at the guard.

What the guard can't tell is answered null, never false: images, and the categories that no head of the model was trained for.
"""

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from guard_server.cancellation import unless_disconnected
from guard_server.disclosure import disclose
from guard_server.errors import BadRequestError
from guard_server.labels import OPENAI_MEMBERS, OPENAI_NOT_ASSESSED, Decision, Direction, Task
from guard_server.schemas import Listed
from guard_server.screening import Subject
from guard_server.service import Guard, Outcome, guard_of, request_id_of

ROUTE: Final = "/v1/moderations"
router = APIRouter(tags=["OpenAI"])


class TextPart(BaseModel):
    """A text of a multi-part input."""

    type: Literal["text"]
    text: str


class ImagePart(BaseModel):
    """An image: refused, because nothing here can look at it."""

    type: Literal["image_url"]
    image_url: dict[str, Any]


class ModerationRequest(BaseModel):
    """OpenAI's request, and three fields of ours that its SDK sends through `extra_body`."""

    model_config = ConfigDict(extra="ignore")
    input: str | Listed[str] | Listed[TextPart | ImagePart]
    model: str | None = None
    task: Task | Literal["auto"] = "auto"
    policy: str | None = None
    direction: Direction = Direction.PROMPT


class ModerationResult(BaseModel):
    """What OpenAI's clients read of one input."""

    flagged: bool
    categories: dict[str, bool | None]
    category_scores: dict[str, float | None]
    category_applied_input_types: dict[str, list[Literal["text"]]]
    taskgate: dict[str, Any] = Field(description="The guard's own answer: decision, task, score, failure, skipped.")


class ModerationResponse(BaseModel):
    """OpenAI's answer."""

    id: str
    model: str
    results: list[ModerationResult]


@router.post(ROUTE)
async def moderate(
    request: Request,
    response: Response,
    body: ModerationRequest,
    guard: Annotated[Guard, Depends(guard_of)],
    request_id: Annotated[str, Depends(request_id_of)],
) -> ModerationResponse:
    """One result an input string; the parts of a multi-part input are one input."""
    task = None if body.task == "auto" else body.task
    subjects = [Subject(text, body.direction, task) for text in _texts(body)]
    answer = await unless_disconnected(request, guard.screen(ROUTE, subjects, body.policy))
    disclose(response, [answer])
    results = [_result(outcome) for outcome in answer.outcomes]
    return ModerationResponse(id=f"modr-{request_id}", model=f"{answer.model.name}-{answer.model.version}", results=results)


def _texts(body: ModerationRequest) -> list[str]:
    if isinstance(body.input, str):
        return [body.input]
    if not body.input:
        raise BadRequestError("nothing to screen: the list is empty", field="input")
    strings = [part for part in body.input if isinstance(part, str)]
    if strings:
        return strings
    texts = [part.text for part in body.input if isinstance(part, TextPart)]
    if len(texts) < len(body.input):
        raise BadRequestError("images can't be screened here: send the text parts alone", field="input")
    return ["\n".join(texts)]


def _result(outcome: Outcome) -> ModerationResult:
    scores, verdicts = _categories(outcome)
    skipped = outcome.screened.skipped if outcome.screened else ()
    return ModerationResult(
        flagged=outcome.decision is not Decision.ALLOW,
        categories=verdicts,
        category_scores=scores,
        category_applied_input_types={name: ["text"] for name in OPENAI_MEMBERS} | {name: [] for name in OPENAI_NOT_ASSESSED},
        taskgate={
            "decision": outcome.decision,
            "task": outcome.task,
            "score": outcome.score,
            "failure": outcome.failure,
            "skipped": [{"view": s.view, "reason": s.reason} for s in skipped],
        },
    )


def _categories(outcome: Outcome) -> tuple[dict[str, float | None], dict[str, bool | None]]:
    """OpenAI's categories: scores, none over the text's own, and verdicts; null where nothing was assessed."""
    scores: dict[str, float | None] = dict.fromkeys(OPENAI_NOT_ASSESSED, None)
    verdicts: dict[str, bool | None] = dict.fromkeys(OPENAI_NOT_ASSESSED, None)
    found, shares = outcome.screened, outcome.categories
    if found is None:
        unknown = dict.fromkeys(OPENAI_MEMBERS, None)
        return scores | unknown, verdicts | unknown
    # Flagged for what was left unread alone, a text has no kind of harm.
    reached = any(found.score >= at for at in found.thresholds.values())
    # The kind that the model finds likeliest is named; another one beside it only where it is about as likely.
    highest = max(shares.values())
    for name, members in OPENAI_MEMBERS.items():
        # Each share is the worst over the text's windows, so that a sum of several may be over the text's score.
        scores[name] = min(found.score, sum(shares[c] for c in members))
        verdicts[name] = reached and max(shares[c] for c in members) >= highest / 2
    return scores, verdicts
