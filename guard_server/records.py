"""The records that travel through a screening, and the two protocols at which the server can be given a substitute.

    request -> Segment* (windows of views) -> Encoded* -> Scores* -> worst per text -> Decision

Frozen; no I/O; imports `labels` alone. Positions and lengths are in characters (Python code points) unless a name says tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from guard_server.labels import Category, Direction, Task


@dataclass(frozen=True, slots=True)
class Segment:
    """A window of one view of a text: what is scored."""

    text: str
    view: str
    """`original`, or the name of the decoding that gave the view."""
    start: int
    end: int
    """Where it lies in its view, characters, end excluded."""
    sentence: bool = False
    """Whether it is one of the sentences that a long text is read by besides, not a window."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of one segment (for a response: of the prompt's end and the segment), special tokens included."""

    ids: tuple[int, ...]
    type_ids: tuple[int, ...]
    unknown: tuple[tuple[int, int], ...] = ()
    """Where in the segment's text (characters, end excluded) the tokenizer knows nothing; the model cannot tell these apart."""

    def __len__(self) -> int:
        """The number of tokens: what batches are filled by."""
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Scores:
    """What the model says of one segment: calibrated probabilities, all finite."""

    task: dict[Task, float]
    """Sums to 1."""
    harm: dict[Task, float]
    """Harm of a prompt, given that it is of that task."""
    category: dict[Category, float]
    """Sums to 1: the kind of harm, given that there is any."""
    response_harm: float
    """Harm of an answer (meaningful when the segment is one)."""
    refusal: float
    """Whether the answer refuses (meaningful when the segment is one)."""

    def risk(self, direction: Direction, task: Task) -> float:
        """The probability that decides: of harm in the prompt given its task, or of harm in the answer."""
        return self.harm[task] if direction is Direction.PROMPT else self.response_harm


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time of one scored batch went, in seconds."""

    queued: float
    inference: float


class Tokenizer(Protocol):
    """Text to token ids; thread-safe, never truncates: the caller has cut the text to windows that fit."""

    max_tokens: int

    def encode(self, text: str, *, context: str | None = None) -> Encoded:
        """Ids of the text, or of the pair (context, text) where a context is given; may be longer than `max_tokens`."""


class Engine(Protocol):
    """What scores encoded segments; one per loaded bundle. The same segment gets the same scores whatever else is in flight."""

    async def score(self, batch: Sequence[Encoded], *, deadline: float) -> tuple[list[Scores], Timing]:
        """Scores in the batch's order; `deadline` on the event loop's clock.

        Raises `OverloadedError` when the queue is full, `TooLargeError` for a batch that could never fit it,
        `DeadlineExceededError`, `InferenceFailedError` (a NaN score is one).
        Cancelling the awaiting task drops what has not begun.
        """

    async def close(self) -> None:
        """Finish what has begun, refuse the rest, free the sessions."""
