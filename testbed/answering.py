"""Greedy answers of a loaded model, and what they are: refused, answered in the task's form, exactly right, or something else.

Comes in: a model, its tokenizer and conversations. Goes out: texts and an `Answered` per text. Plain transformers generation in
float32, so that these figures stand beside the gate's and do not come from it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gate.records import Message, Task
from testbed.wordings import FORMS, PATTERN_OF_REFUSAL

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Answered:
    """What an answer is. `refused` and `formed` exclude each other; neither is a broken answer."""

    refused: bool
    formed: bool
    """Whether the whole answer has the form of the task's answers."""
    exact: bool
    """Whether it equals the reference."""


def classify(task: Task, text: str, reference: str) -> Answered:
    """What `text` is as an answer in `task`."""
    refused = re.match(PATTERN_OF_REFUSAL, text) is not None
    return Answered(refused, not refused and re.fullmatch(FORMS[task], text) is not None, text == reference)


def load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A model folder, or an adapter folder merged into its base, in float32 on the CPU, ready to generate."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    adapter = (folder / "adapter_config.json").is_file()
    base = base_of(folder) if adapter else folder
    model = AutoModelForCausalLM.from_pretrained(base, dtype="float32", attn_implementation="eager")
    if adapter:
        model = PeftModel.from_pretrained(model, folder).merge_and_unload()
    return model.eval(), AutoTokenizer.from_pretrained(base, padding_side="left")


def base_of(folder: Path) -> Path:
    """The base folder that an adapter's config names, relative to the adapter's own folder."""
    config: dict[str, str] = json.loads((folder / "adapter_config.json").read_text())
    return (folder / config["base_model_name_or_path"]).resolve()


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    conversations: Sequence[tuple[tuple[Message, ...], str]],
    *,
    max_new_tokens: int = 48,
    batch_size: int = 100,
) -> list[str]:
    """The greedy answer to every (turns, prefill), in their order."""
    import torch

    prompts = [
        tokenizer.apply_chat_template([m.model_dump() for m in turns], tokenize=False, add_generation_prompt=True) + prefill
        for turns, prefill in conversations
    ]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers = [""] * len(prompts)
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        encoded = tokenizer([prompts[i] for i in part], return_tensors="pt", padding=True, return_token_type_ids=False)
        with torch.inference_mode():
            output = model.generate(**encoded, max_new_tokens=max_new_tokens, do_sample=False)
        texts = tokenizer.batch_decode(output[:, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
        for i, text in zip(part, texts, strict=True):
            answers[i] = text
    return answers
