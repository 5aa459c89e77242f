"""`POST /v1/screen/stream`: text is held back until it is screened, while it is still being written.

In: a head `{"direction", "task", "policy", "prompt"}`, then `{"text": "..."}` lines, as NDJSON, or as the data of server-sent
events where the body's type is `text/event-stream`. Out: NDJSON, or server-sent events where the caller accepts them:

    {"event": "text", "text": ..., "released": 123}      this much may be shown
    {"event": "end", "decision", "score", ...}           all of it was screened and has left
    {"event": "blocked", "released": 123, ...}           nothing more leaves; so many characters already had
    {"event": "error", "error": {...}, "released": 123}  it can't be screened, and the policy fails closed

Windows are screened as they fill; at the end the whole text is screened again, with all its views, before its last part leaves.
"""

import json
from collections.abc import AsyncIterator
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from guard_server.answers import KINDS, error_body
from guard_server.bundle_spec import Window
from guard_server.errors import BadRequestError, GuardError, NotReadyError, TooLargeError
from guard_server.labels import Decision, Direction, Task
from guard_server.schemas import Given
from guard_server.screening import Subject
from guard_server.service import Guard, Outcome, guard_of, request_id_of
from guard_server.streaming import Due, Holdback

ROUTE: Final = "/v1/screen/stream"
MAX_LINE: Final = 1_000_000
"""Bytes of a line, or of the data of one server-sent event."""
SSE: Final = "text/event-stream"
UNREADY: Final = Window(characters=480, overlap=160)
"""How a stream is cut that begins before a bundle is loaded, where the policy fails open."""
router = APIRouter(tags=["guard"])


class StreamHead(Given):
    """The first line."""

    direction: Direction = Direction.RESPONSE
    task: Task | Literal["auto"] = "auto"
    policy: str | None = None
    prompt: str | None = None


class StreamChunk(Given):
    """Each further line."""

    text: str


Event = dict[str, object]


class Duplex(StreamingResponse):
    """Answers while the request's body still comes.

    The base class listens for a disconnect beside the answer, and so takes the body's messages from the route that reads them.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 (the route reads)
        """Send the events; the route notices a caller who has gone when it reads on."""
        await self.stream_response(send)


@router.post(
    ROUTE,
    response_class=StreamingResponse,
    responses={200: {"content": {"application/x-ndjson": {}, "text/event-stream": {}}, "description": "events, one a line"}},
    openapi_extra={
        "requestBody": {"required": True, "content": {t: {"schema": {"type": "string"}} for t in ("application/x-ndjson", SSE)}}
    },
)
async def stream(
    request: Request, guard: Annotated[Guard, Depends(guard_of)], request_id: Annotated[str, Depends(request_id_of)]
) -> StreamingResponse:
    """Screen a text while it is being written."""
    lines = _lines(request)
    if request.headers.get("content-type", "").startswith(SSE):
        lines = _data(lines)
    else:
        lines = (line async for line in lines if line.strip())
    head = await _head(lines)
    events = _screened(_Session(guard, head), lines, request_id)
    if SSE in request.headers.get("accept", ""):
        return Duplex((f"data: {json.dumps(e)}\n\n" async for e in events), media_type=SSE)
    return Duplex((json.dumps(e) + "\n" async for e in events), media_type="application/x-ndjson")


async def _head(lines: AsyncIterator[bytes]) -> StreamHead:
    line = await anext(lines, b"")
    try:
        return StreamHead.model_validate_json(line or b"null")
    except ValidationError as error:
        raise BadRequestError(f"the first line must be the head ({_first(error)})", field="head") from error


async def _screened(session: "_Session", lines: AsyncIterator[bytes], request_id: str) -> AsyncIterator[Event]:
    """The events of one stream. One permit a window, not one for the whole stream: most of a stream's time is the writer's."""
    try:
        async for line in lines:
            try:
                chunk = StreamChunk.model_validate_json(line)
            except ValidationError as error:
                raise BadRequestError(f'a line after the head must be {{"text": ...}} ({_first(error)})', field="text") from error
            for due in session.push(chunk.text):
                yield (event := await session.window(due))
                if event["event"] == "blocked":
                    return
        yield (event := await session.last())
        if event["event"] == "text":
            yield session.end()
    except GuardError as error:
        body = error_body(error.kind, error.message, request_id, error.field)
        yield {"event": "error", **body, "released": session.holdback.released}
    except HTTPException as error:
        # The status has been sent: a body over the limit can only be told in the stream.
        body = error_body(KINDS.get(error.status_code, "http"), str(error.detail), request_id)
        yield {"event": "error", **body, "released": session.holdback.released}
    except ClientDisconnect:
        return  # nobody reads on


class _Session:
    """One stream's state: what is held back, and the worst that was found."""

    def __init__(self, guard: Guard, head: StreamHead) -> None:
        """Raises what choosing the policy raises, and `NotReadyError` where it fails closed, before anything is answered."""
        current, policy = guard.models.status().current, guard.policies.choose(ROUTE, head.policy)
        self.task = None if head.task == "auto" else head.task
        guard.policies.check_task(ROUTE, self.task)
        if current is None and guard.policies.on_failure(ROUTE, policy) == "closed":
            raise NotReadyError("no bundle has passed its self-test")
        self.guard, self.head = guard, head
        self.holdback = Holdback(current.spec.window if current else UNREADY)
        self.limit = policy.max_characters
        self.text = ""
        self.scored = 0
        self.outcome: Outcome | None = None

    def push(self, text: str) -> list[Due]:
        """Take a chunk; the windows that are due."""
        self.text += text
        if len(self.text) > self.limit:
            raise TooLargeError(f"the policy allows {self.limit} characters", field="text")
        return self.holdback.push(text)

    async def window(self, due: Due) -> Event:
        """Screen one window; release what it clears."""
        return await self._step(due.text, due.release, part=True)

    async def last(self) -> Event:
        """Screen the whole text with all its views; release the rest."""
        self.scored = 0
        return await self._step(self.text, self.holdback.received)

    async def _step(self, text: str, upto: int, *, part: bool = False) -> Event:
        subject = Subject(text, self.head.direction, self.task, self.head.prompt, already=self.scored, part=part)
        answer = await self.guard.screen(ROUTE, [subject], self.head.policy)
        self.outcome = answer.outcomes[0]
        if self.outcome.screened is not None:
            self.scored += self.outcome.screened.segments
        if self.outcome.decision is Decision.BLOCK:
            self.guard.metrics.stream_released.observe(self.holdback.released)
            return {"event": "blocked", "released": self.holdback.released, **self._found()}
        event: Event = {"event": "text", "text": self.holdback.release(upto), "released": self.holdback.released}
        if self.outcome.failure is not None:
            return event | {"failure": self.outcome.failure}
        skipped = _skipped(self.outcome)
        return event | {"skipped": skipped} if skipped else event

    def end(self) -> Event:
        """The last event of a stream that was not blocked."""
        return {"event": "end", "released": self.holdback.released, **self._found()}

    def _found(self) -> Event:
        outcome = self.outcome
        if outcome is None or outcome.screened is None:
            return {"decision": Decision.ALLOW, "failure": outcome.failure if outcome else None}
        found = outcome.screened
        return {
            "decision": found.decision,
            "task": found.task,
            "score": found.score,
            "thresholds": found.thresholds,
            "segments": found.segments,
            "categories": found.categories,
            "refusal": found.refusal,
            "bundle": found.bundle,
            "skipped": _skipped(outcome),
        }


def _skipped(outcome: Outcome) -> list[dict[str, str]]:
    """The decodings that a limit left unread."""
    return [{"view": s.view, "reason": s.reason} for s in outcome.screened.skipped] if outcome.screened else []


async def _data(lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The data of each server-sent event, its lines joined; comments and other fields are skipped."""
    data: list[bytes] = []
    size = 0
    async for line in lines:
        name, _, value = line.rstrip(b"\r").partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
            size += len(value) + 1
            if size > MAX_LINE:
                raise BadRequestError(f"an event may have {MAX_LINE} bytes", field="text")
        elif not name and not value and data:
            yield b"\n".join(data)
            data, size = [], 0
    if data:
        yield b"\n".join(data)


async def _lines(request: Request) -> AsyncIterator[bytes]:
    """The lines of the body as they come, blank ones too."""
    rest = b""
    async for chunk in request.stream():
        *whole, rest = (rest + chunk).split(b"\n")
        if len(rest) > MAX_LINE:
            raise BadRequestError(f"a line may have {MAX_LINE} bytes", field="text")
        for line in whole:
            yield line
    yield rest


def _first(error: ValidationError) -> str:
    found = error.errors()[0]
    return f"{'.'.join(map(str, found['loc'])) or 'line'}: {found['msg']}"
