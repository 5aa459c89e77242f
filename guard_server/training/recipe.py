"""Every number of a training run, in one record that is stored beside the weights. Pure."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from guard_server.bundle_spec import Window
from guard_server.labels import Task
from guard_server.training.model import Shape

Share = float


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Texts(_Part):
    """Which texts are trained on and how much each counts."""

    window: Window = Window(characters=480, overlap=160, sentence=160)
    windows: PositiveInt = 12
    """At most so many windows of a long text train, evenly spread; all are scored."""
    context_characters: PositiveInt = 240
    """How much of the prompt's end an answer is read together with."""
    max_tokens: PositiveInt = 256
    wrapped: Share = Field(default=0.5, ge=0, le=1)
    """Share of prompts that get a copy inside a request of another task."""
    diluted: Share = Field(default=1.0, ge=0, le=1)
    """Share of short harmful prompts that get a copy inside harmless filler; fillers and their sentences stand alone too."""
    set_cap: PositiveInt = 300
    """From so many texts of a task and label on, a set counts no more."""
    foreign: PositiveFloat = 1.0
    """What a foreign set's weight is multiplied with, beside our own."""
    tasks: dict[Task, PositiveFloat] = {
        Task.TEXT_GENERATION: 3.0,
        Task.CODE_GENERATION: 2.0,
        Task.TRANSLATION: 1.0,
        Task.CLASSIFICATION: 1.0,
        Task.SUMMARIZATION: 1.0,
        Task.OTHER: 1.0,
    }
    """Total weight of each task's prompts, half of it on the harmful ones."""


class HeadTraining(_Part):
    """Training of the heads on stored pools of the frozen encoder."""

    epochs: PositiveInt = 4
    batch: PositiveInt = 256
    rate: PositiveFloat = 3e-3
    decay: float = Field(default=0.01, ge=0)
    smoothing: float = Field(default=0.05, ge=0, lt=0.5)
    """Of the harm and response labels."""
    twins: float = Field(default=0.0, ge=0)
    """Weight of the ranking loss on pairs: the harmful twin scores higher."""
    task_loss: float = Field(default=0.2, ge=0)
    category_loss: float = Field(default=0.2, ge=0)
    members: PositiveInt = 3
    """Heads trained from as many seeds; merged into one wider head that gives the mean of their logits."""


class Tuning(_Part):
    """Training of the encoder's last layers together with the heads, after the heads."""

    layers: int = Field(default=0, ge=0)
    """How many of the last layers move; 0: no tuning, the encoder stays as it came."""
    texts: PositiveInt = 12_000
    """How many texts are drawn, by weight and with replacement."""
    answers: Share = Field(default=0.2, ge=0, lt=1)
    """Share of batches that hold answers."""
    rate: PositiveFloat = 5e-5
    head_rate: PositiveFloat = 2e-4
    decay: float = Field(default=0.01, ge=0)
    batch: PositiveInt = 32
    windows: PositiveInt = 2
    """At most so many windows of a text."""
    max_tokens: PositiveInt = 160
    warmup: float = Field(default=0.1, ge=0, lt=1)
    blend: float = Field(default=0.5, gt=0, le=1)
    """Share of the tuned weights in the mean with those before tuning."""


class Recipe(_Part):
    """A whole run."""

    shape: Shape = Shape(layers=(-1,), pools=("mean", "max"), hidden=256, dropout=0.2)
    texts: Texts = Texts()
    heads: HeadTraining = HeadTraining()
    tuning: Tuning = Tuning()
    precision: Literal["fp32", "bf16"] = "bf16"
    """Of the encoder's arithmetic in training; weights are stored in fp32."""
