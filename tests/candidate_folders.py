"""Tiny model and adapter folders, built by hand from numpy arrays and JSON: nothing is trained and torch is not needed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

HIDDEN, INNER = 8, 16
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}\\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def write_json(file: Path, value: object) -> None:
    """Write `value` as JSON."""
    file.write_text(json.dumps(value), encoding="utf-8")


def edit_json(file: Path, **changes: object) -> None:
    """Set keys of the JSON object in `file`."""
    write_json(file, {**json.loads(file.read_text(encoding="utf-8")), **changes})


def write_tokenizer(file: Path, corpus: tuple[str, ...] = ("the cat sat on the mat", "a dog ran")) -> int:
    """Train a byte-pair tokenizer on `corpus`; the size of its vocabulary."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=["<unk>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.save(str(file))
    return tokenizer.get_vocab_size()


def tensors(vocabulary: int) -> dict[str, np.ndarray]:
    """One decoder layer's worth of weights, embeddings tied."""
    draw = np.random.default_rng(0)
    shapes = {
        "model.embed_tokens.weight": (vocabulary, HIDDEN),
        "model.layers.0.self_attn.q_proj.weight": (HIDDEN, HIDDEN),
        "model.layers.0.mlp.down_proj.weight": (HIDDEN, INNER),
        "model.norm.weight": (HIDDEN,),
    }
    return {name: draw.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def make_model(folder: Path) -> Path:
    """A complete model folder in the Hugging Face layout."""
    folder.mkdir(parents=True)
    vocabulary = write_tokenizer(folder / "tokenizer.json")
    write_json(folder / "config.json", {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocabulary})
    write_json(folder / "tokenizer_config.json", {"chat_template": TEMPLATE, "eos_token": "</s>"})
    save_file(tensors(vocabulary), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def lora(vocabulary: int, rank: int = 2, inner: int = INNER) -> dict[str, np.ndarray]:
    """LoRA factors for q_proj and down_proj, and a whole lm_head as modules_to_save leaves it."""
    layer = "base_model.model.model.layers.0"
    shapes = {
        f"{layer}.self_attn.q_proj.lora_A.weight": (rank, HIDDEN),
        f"{layer}.self_attn.q_proj.lora_B.weight": (HIDDEN, rank),
        f"{layer}.mlp.down_proj.lora_A.weight": (rank, inner),
        f"{layer}.mlp.down_proj.lora_B.weight": (HIDDEN, rank),
        "base_model.model.lm_head.weight": (vocabulary, HIDDEN),
    }
    return {name: np.zeros(shape, dtype=np.float32) for name, shape in shapes.items()}


def vocabulary_of(model: Path) -> int:
    """The vocabulary size of a model folder."""
    return int(json.loads((model / "config.json").read_text(encoding="utf-8"))["vocab_size"])


def make_adapter(folder: Path, base: Path, named: str | None = None) -> Path:
    """A PEFT adapter folder on `base`, which its config names as `named` (the relative path unless given)."""
    folder.mkdir(parents=True)
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": f"../{base.name}" if named is None else named,
        "r": 2,
        "target_modules": ["q_proj", "down_proj"],
        "modules_to_save": ["lm_head"],
    }
    write_json(folder / "adapter_config.json", config)
    save_file(lora(vocabulary_of(base)), folder / "adapter_model.safetensors")
    return folder
