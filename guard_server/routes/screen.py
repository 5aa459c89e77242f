"""The guard's own contract: `POST /v1/screen` and `POST /v1/screen/batch`."""

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Request, Response

from guard_server.cancellation import unless_disconnected
from guard_server.disclosure import disclose
from guard_server.errors import GuardError
from guard_server.labels import Direction, Task
from guard_server.schemas import (
    BatchRequest,
    BatchResponse,
    BatchResult,
    ItemError,
    Message,
    ScreenItem,
    ScreenResponse,
    SegmentScore,
    Skipped,
    Span,
    TextResult,
    Timings,
)
from guard_server.screening import Screened, Subject
from guard_server.service import Answer, Guard, Outcome, guard_of, request_id_of

SCREEN: Final = "/v1/screen"
BATCH: Final = "/v1/screen/batch"
NO_PROMPT: Final = frozenset({"system", "developer", "assistant"})
"""Whose messages direction `prompt` leaves out: the operator's and the model's. Any other role may be anybody's."""
Indexed = tuple[int, Subject, int]
"""A text with its index in the request, and how many parts of its message hold no text."""
router = APIRouter(tags=["guard"])

Details = Annotated[bool, Query(description="Give the score of every segment.")]


@router.post(SCREEN)
async def screen_texts(
    request: Request,
    response: Response,
    item: ScreenItem,
    guard: Annotated[Guard, Depends(guard_of)],
    request_id: Annotated[str, Depends(request_id_of)],
    details: Details = False,
) -> ScreenResponse:
    """Screen texts, or the messages of a chat; the worst result is the decision."""
    indexed = _subjects(item)
    answer = await unless_disconnected(request, guard.screen(SCREEN, *_plain(indexed, item)))
    disclose(response, [answer], _parts(indexed))
    return _response(guard, answer, indexed, item, request_id, details)


@router.post(BATCH)
async def screen_batch(
    request: Request,
    response: Response,
    body: BatchRequest,
    guard: Annotated[Guard, Depends(guard_of)],
    request_id: Annotated[str, Depends(request_id_of)],
    details: Details = False,
) -> BatchResponse:
    """Screen several items; an item that fails says so beside the others."""
    indexed = [_subjects(item) for item in body.items]
    work = guard.screen_batch(BATCH, [_plain(found, item) for found, item in zip(indexed, body.items, strict=True)])
    answers = await unless_disconnected(request, work)
    disclose(response, answers, sum(map(_parts, indexed)))
    results = []
    for index, (answer, found, item) in enumerate(zip(answers, indexed, body.items, strict=True)):
        if isinstance(answer, GuardError):
            error = ItemError(type=answer.kind, message=answer.message, status=answer.status)
            results.append(BatchResult(index=index, error=error))
        else:
            own = _response(guard, answer, found, item, f"{request_id}-{index}", details)
            results.append(BatchResult(index=index, answer=own))
    return BatchResponse(id=request_id, results=results)


def _plain(indexed: list[Indexed], item: ScreenItem) -> tuple[list[Subject], str | None]:
    return [subject for _, subject, _ in indexed], item.policy


def _parts(indexed: list[Indexed]) -> int:
    """How many parts hold no text."""
    return sum(parts for _, _, parts in indexed)


def _response(
    guard: Guard, answer: Answer, indexed: list[Indexed], item: ScreenItem, request_id: str, details: bool
) -> ScreenResponse:
    if unread := _parts(indexed):
        guard.unread("part", unread)
    results = [
        _result(index, outcome, item.task != "auto", parts, details)
        for (index, _, parts), outcome in zip(indexed, answer.outcomes, strict=True)
    ]
    screened = {index for index, _, _ in indexed}
    return ScreenResponse(
        id=request_id,
        decision=answer.decision,
        policy=answer.policy,
        model=answer.model,
        results=results,
        not_screened=[i for i in range(len(item.messages or ())) if i not in screened],
        timing=_timing(answer),
    )


def _subjects(item: ScreenItem) -> list[Indexed]:
    """Each text with its index and the number of its parts that hold no text."""
    task = None if item.task == "auto" else item.task
    if item.texts is not None:
        texts = [item.texts] if isinstance(item.texts, str) else item.texts
        return [(i, Subject(text, item.direction, task, item.prompt), 0) for i, text in enumerate(texts)]
    return list(_from_messages(item.messages or [], item.direction, task))


def _from_messages(messages: list[Message], direction: Direction, task: Task | None) -> list[Indexed]:
    found, asked = [], None
    for index, message in enumerate(messages):
        if direction is Direction.PROMPT and message.role not in NO_PROMPT:
            found.append((index, Subject(message.text(), direction, task), message.unread()))
        elif direction is Direction.RESPONSE and message.role == "assistant":
            found.append((index, Subject(message.text(), direction, task, asked), message.unread()))
        if message.role == "user":
            asked = message.text()
    return found


def _result(index: int, outcome: Outcome, given: bool, unread: int, details: bool) -> TextResult:
    found = outcome.screened
    if found is None:
        return TextResult(
            index=index, decision=outcome.decision, reason="failure", failure=outcome.failure, direction=outcome.direction,
            task=None, task_source=None, score=None, unread_parts=unread,
        )  # fmt: skip
    worst = found.worst
    return TextResult(
        index=index,
        decision=found.decision,
        reason="score",
        direction=outcome.direction,
        task=found.task,
        task_source="caller" if given else "model",
        task_probabilities=found.task_probabilities,
        score=found.score,
        thresholds=found.thresholds,
        categories=found.categories,
        refusal=found.refusal,
        windows=found.windows,
        segments=found.segments,
        views=list(found.views),
        skipped=[Skipped(view=s.view, reason=s.reason) for s in found.skipped],
        worst=Span(view=worst.view, start=worst.start, end=worst.end, sentence=worst.sentence),
        details=_details(found) if details else None,
        context_cut=found.context_cut,
        unread_parts=unread,
    )


def _details(found: Screened) -> list[SegmentScore]:
    return [SegmentScore(view=s.view, start=s.start, end=s.end, sentence=s.sentence, score=score) for s, score in found.scored]


def _timing(answer: Answer) -> Timings:
    return Timings(
        total_ms=round(1000 * answer.total_seconds, 3),
        queue_ms=round(1000 * answer.queue_seconds, 3),
        inference_ms=round(1000 * answer.inference_seconds, 3),
    )
