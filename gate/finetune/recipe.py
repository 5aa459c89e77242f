"""The recipe of a fine-tune: YAML in, frozen `Recipe` out. Everything that makes an adapter what it is stands here.

Paths are relative to the recipe's file. Unknown keys, duplicate keys and what cannot be meant together are errors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from gate.errors import RecipeError
from gate.records import Record
from gate.yaml_record import parse_record, read_text

SEVEN: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Every linear layer of a Llama block."""
LABEL = r"^[a-z0-9][a-z0-9_-]*$"


class Lora(Record):
    """The low-rank adapter that is trained (Hu et al., arXiv 2106.09685)."""

    r: int = Field(default=16, ge=1)
    """Rank."""
    alpha: int = Field(default=16, ge=1)
    """What the product is multiplied by, divided by the rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: tuple[str, ...] = Field(default=SEVEN, min_length=1)
    """Names of the linear layers that get an adapter."""


class Columns(Record):
    """The table's own names for what is read. Left out: the name of the field itself."""

    prompt: str | None = None
    """The user's turn; with `answer` one of the two layouts."""
    answer: str | None = None
    system: str | None = None
    """A system turn in front of `prompt`; an empty cell is none."""
    messages: str | None = None
    """The other layout: a list of turns, whose last assistant turn is the answer unless there is a column `answer`."""
    task: str | None = None
    kind: str | None = None


class Source(Record):
    """One table of training rows."""

    path: str = Field(min_length=1)
    """A .jsonl, .json, .csv or .parquet file, or hf://datasets/org/name@revision/file."""
    task: str | None = Field(default=None, pattern=LABEL)
    """The task of rows that name none: one of the five, or a word of one's own."""
    columns: Columns = Columns()
    share: float | None = Field(default=None, gt=0, le=1)
    """Share of this source among those of its list; all of them name one, or none does and every row is used."""
    limit: int | None = Field(default=None, ge=1)
    """Most rows to use, drawn by the recipe's seed."""


class Safety(Record):
    """Requests to refuse, mixed into every epoch."""

    data: tuple[Source, ...] = Field(min_length=1)
    share: float = Field(gt=0, lt=1)
    """Share of all rows of an epoch."""
    per_task: bool = True
    """Each task's refusals are a cell of their own, drawn equally often; else all are one cell."""


class Evaluation(Record):
    """Rows that are held out to measure the loss on."""

    share: float = Field(default=0.05, gt=0, lt=1)
    """Share of every cell's rows (at least one)."""
    rows_per_cell: int = Field(default=100, ge=1)
    """Most rows of a cell."""
    every: int = Field(default=50, ge=1)
    """Steps from one measurement to the next."""


class EarlyStop(Record):
    """End when the held-out loss has stopped falling; the best weights are kept."""

    patience: int = Field(default=3, ge=1)
    """Measurements without a new best."""
    min_gain: float = Field(default=0.0, ge=0)
    """What a new best must be better by."""


class CobaOptions(Record):
    """CoBa (arXiv 2410.06741): the names and defaults of MFTCoder."""

    warm_up: int = Field(default=100, ge=2)
    """Steps of equal weights."""
    window: int = Field(default=200, ge=2)
    """Steps that slopes are taken over."""
    tau: float = Field(default=5.0, gt=0)
    every: int = Field(default=1, ge=1)
    """Steps from one measurement of the held-out losses to the next."""
    rows_per_cell: int = Field(default=4, ge=1)
    """Held-out rows of each cell per measurement."""


class Recipe(Record):
    """How a base becomes a fine-tuned model."""

    schema_version: Literal["taskgate/recipe/v1"]
    name: str = Field(pattern=LABEL)
    description: str = ""
    base: str = Field(min_length=1)
    """A model folder, or hf://org/name@revision."""
    method: Literal["lora", "qlora", "full"] = "lora"
    """`qlora` holds the base in 4 bits (NF4); it needs bitsandbytes and a GPU. `full` trains all weights."""
    lora: Lora = Lora()
    data: tuple[Source, ...] = Field(min_length=1)
    safety: Safety | None = None
    format: Literal["chat", "alpaca"] = "chat"
    """The base's own chat template, or Stanford Alpaca's."""
    loss_on: Literal["answers", "all"] = "answers"
    """Train on the answers' tokens alone, or on the prompts' too."""
    loss: Literal["token_mean", "sample_mean", "task_mean"] = "task_mean"
    """What a batch's loss is the mean over (MFTCoder, arXiv 2311.02303); a task's refusals are a task of their own."""
    balance: Literal["none", "coba"] = "none"
    """Weights of the tasks in `task_mean`: equal, or CoBa's."""
    coba: CobaOptions = CobaOptions()
    lr: float = Field(default=2e-4, gt=0, lt=1)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Share of the steps in which the rate rises to `lr`."""
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    optimizer: Literal["adamw", "paged_adamw"] = "adamw"
    """`paged_adamw` (32 bits) needs bitsandbytes and a GPU."""
    epochs: float | None = Field(default=None, gt=0)
    """Times that the data is gone through; 1 if neither this nor `max_steps` is given."""
    max_steps: int | None = Field(default=None, ge=1)
    batch: int = Field(default=4, ge=1)
    """Rows per process that go through the model at once."""
    accumulation: int = Field(default=1, ge=1)
    """Such batches per step of the optimizer."""
    max_length: int = Field(default=1024, ge=8)
    """Most tokens of prompt and answer; a longer row is left out and counted."""
    group_by_length: bool = False
    """Batches of like length: less padding, less various batches."""
    gradient_checkpointing: bool = False
    """Less memory, more time."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Of the order, the adapter's first weights and dropout."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the products; `auto` is bfloat16 on a GPU, float32 on a CPU. What is trained is kept in float32."""
    eval: Evaluation | None = None
    early_stop: EarlyStop | None = None
    save_every: int = Field(default=100, ge=1)
    """Steps from one checkpoint to the next."""
    log_every: int = Field(default=10, ge=1)
    """Steps that one point of the loss curves is the mean of."""
    output: Literal["adapter", "merged"] | None = None
    """What is left in the end: an adapter (the default where one is trained), or a whole model."""

    _directory: Path = PrivateAttr(default=Path())

    @property
    def directory(self) -> Path:
        """The folder that relative paths start from: the recipe file's, or the working directory."""
        return self._directory

    @property
    def result(self) -> Literal["adapter", "merged"]:
        """What the finished folder holds."""
        return self.output or ("merged" if self.method == "full" else "adapter")

    @property
    def sources(self) -> tuple[tuple[Source, Literal["task", "safety"]], ...]:
        """Every table with what its rows are for."""
        return tuple((s, "task") for s in self.data) + tuple((s, "safety") for s in (self.safety.data if self.safety else ()))

    @field_validator("data")
    @classmethod
    def _all_or_none_named(cls, value: tuple[Source, ...]) -> tuple[Source, ...]:
        return _shares_add_up(value)

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        """Refuse what could not be meant."""
        if self.safety is not None:
            _shares_add_up(self.safety.data)
        if self.epochs is not None and self.max_steps is not None:
            raise ValueError("epochs and max_steps both say when to end: give one")
        if self.method == "full" and self.output == "adapter":
            raise ValueError("method 'full' trains no adapter: leave output out, or write merged")
        if self.method == "full" and self.lora != Lora():
            raise ValueError("method 'full' has no use for lora: leave it out")
        if self.balance == "coba" and self.loss != "task_mean":
            raise ValueError("balance 'coba' weighs the tasks of loss 'task_mean', and the loss is another")
        if self.balance == "coba" and self.eval is None:
            raise ValueError("balance 'coba' reads held-out losses: give eval")
        if self.balance != "coba" and self.coba != CobaOptions():
            raise ValueError("coba has options and balance does not name it: write balance: coba")
        if self.coba.window < self.coba.warm_up:
            raise ValueError("coba.window is shorter than coba.warm_up: the first weights would forget the start")
        if self.early_stop is not None and self.eval is None:
            raise ValueError("early_stop reads the held-out loss: give eval")
        return self


def _shares_add_up(sources: tuple[Source, ...]) -> tuple[Source, ...]:
    """Refuse shares that are named by some only, or that don't sum to 1."""
    named = [source.share for source in sources if source.share is not None]
    if named and len(named) < len(sources):
        raise ValueError("share is given for some of the sources: give it for all of them or for none")
    if named and abs(sum(named) - 1) > 1e-3:
        raise ValueError(f"the sources' shares sum to {sum(named):g}, not to 1")
    return sources


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe file. Raises `RecipeError` that says where and what is wrong."""
    path = Path(path)
    if not path.is_file():
        raise RecipeError(
            f"there is no recipe {path}",
            expected="a YAML file",
            found="a folder" if path.is_dir() else "nothing there",
            mend="give the path of a recipe; examples/recipes/ holds some to start from",
        )
    return parse_recipe(read_text(path, RecipeError), where=str(path), directory=path.parent)


def parse_recipe(text: str, *, where: str = "recipe", directory: Path = Path()) -> Recipe:
    """Parse a recipe's YAML; its relative paths start from `directory`."""
    example, page = "examples/recipes/paper-lora.yaml", "docs/finetune.md"
    recipe = parse_record(text, Recipe, RecipeError, where=where, what="recipe", example=example, page=page)
    recipe._directory = directory
    return recipe


def recipe_schema() -> dict[str, Any]:
    """JSON Schema of the recipe file (checked in as schemas/recipe.schema.json)."""
    return Recipe.model_json_schema()
