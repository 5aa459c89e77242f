"""The guard's own wire contract: what `/v1/screen...` and `/v1/models` take and give. Unknown fields are refused."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from guard_server.labels import Category, Decision, Direction, Task

Name = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ContentPart(BaseModel):
    """One part of a message's content; parts that are not text can't be screened and are reported as such."""

    model_config = ConfigDict(extra="allow", frozen=True)
    type: str
    text: str | None = None


class Message(BaseModel):
    """A chat message as OpenAI's API writes it; other fields are kept by the caller and ignored here."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    role: Name
    content: str | list[ContentPart] | None = None

    def text(self) -> str:
        """Its text parts, joined by newlines."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content if part.text is not None)
        return self.content or ""

    def unread(self) -> int:
        """How many parts hold no text (images, audio)."""
        return sum(part.text is None for part in self.content) if isinstance(self.content, list) else 0


class ScreenItem(_Wire):
    """What to screen: `texts`, or chat `messages`."""

    texts: str | list[str] | None = None
    messages: list[Message] | None = None
    """Direction `prompt`: every user and tool message; `response`: every assistant message, with the user's before it."""
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


class BatchRequest(_Wire):
    """Several items, each with its own direction, task and policy."""

    items: list[ScreenItem] = Field(min_length=1)


class Span(_Wire):
    """Where the deciding segment lies, characters, in its view of the text."""

    view: str
    start: int
    end: int


class SegmentScore(_Wire):
    """The score of one window of one view."""

    view: str
    start: int
    end: int
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
    """Calibrated probability of harm in the worst segment."""
    thresholds: dict[str, float] = Field(default_factory=dict)
    """`flag` and `block` as in force for this task, direction and number of segments; one that can't happen is left out."""
    categories: dict[Category, float] = Field(default_factory=dict)
    """Score x probability of the kind of harm."""
    refusal: float | None = None
    """Direction `response`: probability that the answer refuses."""
    windows: int = 0
    segments: int = 0
    """Windows of all views: what was scored."""
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
    """Every field that does not fit, where the body was refused."""


class ErrorResponse(_Wire):
    """The one shape of every error, on every route."""

    error: ErrorInfo
