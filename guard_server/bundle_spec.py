"""The format of a bundle's `bundle.json` and `manifest.json`: what the server needs to know of a model beside its weights.

A bundle is a folder:

    model.onnx       in, int64 [batch, tokens]: input_ids, attention_mask, token_type_ids (the last where the encoder has it);
                     out, float32 logits: task [batch, 6], harm [batch, 6] (one per task), category [batch, 12],
                     response [batch, 2] (harm, refusal)
    tokenizer.json   Hugging Face `tokenizers`, its truncation and padding off
    bundle.json      BundleSpec
    card.json        the evaluation card, with CARD.md for people
    manifest.json    SHA-256 of every file above; the bundle's digest is the SHA-256 of this file's bytes
    manifest.sig     optional: base64 of an ECDSA (P-256, SHA-256) signature over manifest.json's bytes

Pure: pydantic models and arithmetic on them, no I/O.
"""

import math
from bisect import bisect_left
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from guard_server.labels import CATEGORIES, TASKS, Category, Direction, Task


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Window(_Record):
    """How a text is cut, in characters; every span up to `overlap` lies whole in some window."""

    characters: int = Field(gt=0)
    overlap: int = Field(ge=0)
    sentence: int = Field(default=0, ge=0)
    """A text of several windows is read by its sentences and lines too, at most so many characters each; 0: it isn't."""

    @model_validator(mode="after")
    def _moves_on(self) -> Self:
        if self.overlap >= self.characters:
            msg = f"overlap {self.overlap} must be smaller than the window's {self.characters} characters"
            raise ValueError(msg)
        return self


class Scale(_Record):
    """Platt scaling: probability = sigmoid(logit / temperature + bias)."""

    temperature: FiniteFloat = Field(gt=0)
    bias: FiniteFloat = 0.0

    def probability(self, logit: float) -> float:
        """The calibrated probability of a logit."""
        value = logit / self.temperature + self.bias
        # Two forms, so that neither overflows.
        return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


class Calibration(_Record):
    """Scales of the heads, fitted on sets that the model was not trained on."""

    harm: dict[Task, Scale]
    response_harm: Scale
    refusal: Scale
    task_temperature: FiniteFloat = Field(gt=0)
    category_temperature: FiniteFloat = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _every_task(self) -> Self:
        if missing := set(TASKS) - self.harm.keys():
            msg = f"no scale for {sorted(missing)}"
            raise ValueError(msg)
        return self


class Threshold(_Record):
    """For one direction, task and target: the least score that counts, by how many segments (windows x views) were scored."""

    direction: Direction
    task: Task
    target_fpr: FiniteFloat = Field(gt=0, lt=1)
    """Share of harmless requests (not windows) that may score at least the threshold."""
    segments: tuple[int, ...] = Field(min_length=1)
    """Increasing, first 1."""
    at: tuple[FiniteFloat, ...]
    """The threshold for each of `segments`; in between, the next larger one holds; beyond the last, the last."""
    sentences: tuple[FiniteFloat, ...] = ()
    """The same for the sentences and lines that a long text is read by besides its windows; empty: the windows' hold."""
    benign: int = Field(ge=0)
    """How many harmless texts it was set on."""

    @model_validator(mode="after")
    def _aligned(self) -> Self:
        if (
            len(self.at) != len(self.segments)
            or len(self.sentences) not in {0, len(self.segments)}
            or self.segments[0] != 1
            or any(b <= a for a, b in zip(self.segments, self.segments[1:], strict=False))
        ):
            msg = "segments must increase from 1, with one threshold each"
            raise ValueError(msg)
        return self

    def for_segments(self, count: int, *, sentence: bool = False) -> float:
        """The threshold for a window, or a sentence, of a text of which `count` segments were scored; `count` at least 1."""
        at = self.sentences if sentence and self.sentences else self.at
        return at[min(bisect_left(self.segments, count), len(at) - 1)]


class SelfTest(_Record):
    """A text with the score it had when the bundle was built; the server asks it before it serves the bundle."""

    direction: Direction
    text: str
    context: str | None = None
    task: Task
    score: FiniteFloat
    tolerance: FiniteFloat = Field(gt=0)


class BundleSpec(_Record):
    """`bundle.json`."""

    format: Literal[1] = 1
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    version: str
    encoder: str
    """What it was built on, with its licence."""
    precision: Literal["int8", "fp32", "fp16"]
    max_tokens: int = Field(gt=8)
    window: Window
    context_characters: int = Field(gt=0)
    """How much of the prompt's end a response is read together with."""
    tasks: tuple[Task, ...]
    categories: tuple[Category, ...]
    calibration: Calibration
    thresholds: tuple[Threshold, ...] = Field(min_length=1)
    self_tests: tuple[SelfTest, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _knows_our_labels(self) -> Self:
        if self.tasks != TASKS or self.categories != CATEGORIES:
            msg = "tasks and categories must be this version's, in its order"
            raise ValueError(msg)
        if len({(t.direction, t.task, t.target_fpr) for t in self.thresholds}) != len(self.thresholds):
            msg = "a direction, task and target has two thresholds"
            raise ValueError(msg)
        return self

    def threshold(self, direction: Direction, task: Task, target_fpr: float) -> Threshold | None:
        """The threshold for a target, or None where the bundle has none for it."""
        found = (
            t for t in self.thresholds if (t.direction, t.task) == (direction, task) and math.isclose(t.target_fpr, target_fpr)
        )
        return next(found, None)


class Manifest(_Record):
    """`manifest.json`: file name to SHA-256, in hexadecimal."""

    format: Literal[1] = 1
    files: dict[str, str] = Field(min_length=1)
