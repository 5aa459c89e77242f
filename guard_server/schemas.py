"""The guard's own wire contract: what `/v1/screen...` and `/v1/models` take and give. Unknown fields are refused."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from guard_server.errors import BadRequestError
from guard_server.labels import Category, Decision, Direction, Task

Name = Annotated[str, StringConstraints(min_length=1, max_length=64)]


MAX_LISTED: Final = 10_000
"""Entries of any list of a request; what may be screened of them is `GUARD_MAX_TEXTS`, far below."""
MAX_FIELDS: Final = 64
"""Keys of a body of ours; an unknown one is an error each, and errors must not grow with the body."""
T = TypeVar("T")
Listed = Annotated[list[T], Field(fail_fast=True, max_length=MAX_LISTED)]
"""A list of a request: bounded, and refused at its first bad entry, because one error an entry can outgrow the body."""
ToolCall = dict[str, object]
"""As OpenAI writes it: `{"type": "function", "function": {"name", "arguments"}}`."""


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Given(_Wire):
    """What a request of ours gives: few fields, none of them unknown."""

    @model_validator(mode="before")
    @classmethod
    def _few_fields(cls, given: object) -> object:
        if isinstance(given, dict) and len(given) > MAX_FIELDS:
            msg = f"{len(given)} fields where at most {MAX_FIELDS} are read"
            raise ValueError(msg)
        return given


class ContentPart(BaseModel):
    """One part of a message's content; parts that are not text can't be screened and are reported as such."""

    model_config = ConfigDict(extra="allow", frozen=True)
    type: str
    text: str | None = None
    refusal: str | None = None
    """Of a part of type `refusal`."""

    def read(self) -> str | None:
        """What can be screened of it; None: nothing (an image, audio)."""
        return self.refusal if self.text is None else self.text


def call_texts(calls: Sequence[ToolCall] | None) -> list[str]:
    """The arguments that a model wants to call its tools with: text of the model like any other.

    Arguments that are no string are read as JSON. Raises `BadRequestError` where they are nested too deep to be written.
    """
    functions = [call.get("function") or call.get("custom") for call in calls or ()]
    found = [_argument(f) for f in functions if isinstance(f, dict)]
    return [text for text in found if text]


def _argument(function: dict[str, object]) -> str:
    given = function.get("arguments", function.get("input"))
    if given is None or isinstance(given, str):
        return given or ""
    try:
        return json.dumps(given, ensure_ascii=False)
    except RecursionError as error:
        raise BadRequestError("a tool call's arguments are nested too deep", field="arguments") from error


class Message(BaseModel):
    """A chat message as OpenAI's API writes it; other fields are kept by the caller and ignored here."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    role: Name
    content: str | Listed[ContentPart] | None = None
    refusal: str | None = None
    tool_calls: Listed[ToolCall] | None = None
    function_call: dict[str, object] | None = None
    """What `tool_calls` was before."""

    def text(self) -> str:
        """All that was written in it, joined by newlines: text parts, refusal, and the arguments of its tool calls."""
        content = [part.read() for part in self.content] if isinstance(self.content, list) else [self.content]
        calls = call_texts([*(self.tool_calls or ()), *([{"function": self.function_call}] if self.function_call else ())])
        return "\n".join(text for text in (*content, self.refusal, *calls) if text)

    def unread(self) -> int:
        """How many parts hold no text (images, audio)."""
        return sum(part.read() is None for part in self.content) if isinstance(self.content, list) else 0


class ScreenItem(Given):
    """What to screen: `texts`, or chat `messages`."""

    texts: str | Listed[str] | None = None
    messages: Listed[Message] | None = None
    """Direction `prompt`: every message but those of system, developer and assistant; `response`: every assistant message, with
    its tool calls' arguments, and the user's before it."""
    direction: Direction = Direction.PROMPT
    prompt: str | None = None
    """With direction `response` and `texts`: the prompt that was answered."""
    task: Task | Literal["auto"] = "auto"
    policy: Name | None = None
    """A policy of guard.yaml; none: the route's own."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.texts is None) == (self.messages is None):
            msg = "expected either texts or messages"
            raise ValueError(msg)
        if self.texts == [] or self.messages == []:
            msg = "nothing to screen: the list is empty"
            raise ValueError(msg)
        if self.prompt is not None and (self.direction is not Direction.RESPONSE or self.texts is None):
            msg = "prompt goes with texts and direction response"
            raise ValueError(msg)
        return self


class BatchRequest(Given):
    """Several items, each with its own direction, task and policy."""

    items: Listed[ScreenItem] = Field(min_length=1)


class Span(_Wire):
    """Where the deciding segment lies, characters, in its view of the text."""

    view: str
    start: int
    end: int
    sentence: bool
    """A sentence or line of a long text, whose thresholds are not those of its windows."""


class SegmentScore(Span):
    """The score of one segment."""

    score: float


class Skipped(_Wire):
    """A decoding that a bound left out."""

    view: str
    reason: str


class TextResult(_Wire):
    """What was found in one text."""

    index: int
    """Of `texts` or of `messages`."""
    decision: Decision
    reason: Literal["score", "failure"]
    """`failure`: it could not be screened and the policy fails open; `failure` below says why."""
    failure: str | None = None
    direction: Direction
    task: Task | None
    task_source: Literal["caller", "model"] | None
    task_probabilities: dict[Task, float] = Field(default_factory=dict)
    score: float | None
    """Calibrated probability of harm in the worst segment: the one that decides, or where none does the highest."""
    thresholds: dict[str, float] = Field(default_factory=dict)
    """`flag` and `block` as in force for the worst segment: by task, direction, number of segments, and whether it is a window
    or a sentence; one that can't happen is left out."""
    categories: dict[Category, float] = Field(default_factory=dict)
    """Score x probability of the kind of harm."""
    refusal: float | None = None
    """Direction `response`: probability that the answer refuses."""
    windows: int = 0
    """Segments of the text as it stands: its windows and, in a long text, its sentences and lines."""
    segments: int = 0
    """Those of all views: what was scored."""
    views: list[str] = Field(default_factory=list)
    skipped: list[Skipped] = Field(default_factory=list)
    worst: Span | None = None
    details: list[SegmentScore] | None = None
    """Every segment's score, with `?details=true`."""
    context_cut: bool = False
    """Only the prompt's end was read with the answer."""
    unread_parts: int = 0
    """Parts of the message that hold no text and were not screened."""


class ModelRef(_Wire):
    """Which bundle answered."""

    name: str
    version: str
    digest: str


class Timings(_Wire):
    """Milliseconds; queue and inference as the sum over the request's segments."""

    total_ms: float
    queue_ms: float
    inference_ms: float


class ScreenResponse(_Wire):
    """The answer to `/v1/screen`."""

    id: str
    decision: Decision
    """The worst of the results."""
    policy: str
    model: ModelRef
    results: list[TextResult]
    not_screened: list[int] = Field(default_factory=list)
    """Indices of the `messages` that the direction leaves out, by their role."""
    timing: Timings


class ItemError(_Wire):
    """An item of a batch that could not be screened."""

    type: str
    message: str
    status: int


class BatchResult(_Wire):
    """One item's answer or its error."""

    index: int
    answer: ScreenResponse | None = None
    error: ItemError | None = None


class BatchResponse(_Wire):
    """The answer to `/v1/screen/batch`."""

    id: str
    results: list[BatchResult]


class BundleEntry(_Wire):
    """A loaded bundle."""

    slot: Literal["current", "previous", "shadow"]
    name: str
    version: str
    digest: str
    verified: bool
    """Its signature was checked against the configured key."""
    encoder: str
    precision: str
    tasks: list[Task]
    categories_assessed: list[Category]
    openai_categories_assessed: list[str]
    openai_categories_not_assessed: list[str]
    """Answered null by `/v1/moderations`."""
    not_assessed: list[str]
    target_fprs: list[float]
    window: dict[str, int]
    card: dict[str, Any]


class ModelsResponse(_Wire):
    """The answer to `GET /v1/models`; `object` and `data[].id` as OpenAI's list has them."""

    object: Literal["list"] = "list"
    data: list[dict[str, Any]]
    bundles: list[BundleEntry]
    policies: list[str]
    policies_digest: str


class ErrorField(_Wire):
    """A field of the request that does not fit."""

    field: str
    message: str


class ErrorInfo(_Wire):
    """What went wrong."""

    type: str
    """The kind of error: `bad_request`, `overloaded`, ..."""
    message: str
    param: str | None
    """The field, where it is about one."""
    request_id: str
    fields: list[ErrorField] = Field(default_factory=list)
    """The fields that do not fit, where the body was refused; the first 20."""


class ErrorResponse(_Wire):
    """The one shape of every error, on every route."""

    error: ErrorInfo
