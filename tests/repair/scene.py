"""Small models of one family, of random weights: unaligned, aligned, a drifted adapter and a safety adapter.

In: a folder. Out: scanned candidates. The Llama has 16 dimensions and two layers; its tokenizer is the testbed's.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from gate.candidate import load_candidate
from gate.records import Candidate
from gate.repair.base import Source
from testbed import WEIGHTS

if TYPE_CHECKING:
    import torch

TARGETS = ("q_proj", "v_proj", "down_proj")
RANK = 3
SCALING = 8 / RANK


def make_source(folder: Path, *, safety_rank: int = 2) -> Source:
    """A source with everything that the methods without training need."""
    unaligned = make_model(folder / "unaligned", seed=1)
    aligned = make_model(folder / "aligned", seed=1, moved_by=2)
    return Source(
        candidate=load_candidate(str(make_adapter(folder / "drifted", aligned, seed=3))),
        aligned=load_candidate(str(aligned)),
        unaligned=load_candidate(str(unaligned)),
        safety_adapter=load_candidate(str(make_adapter(folder / "safety", aligned, seed=4, rank=safety_rank))),
    )


def make_model(folder: Path, *, seed: int, moved_by: int = 0) -> Path:
    """A model of random weights; `moved_by` is the seed of what alignment added to them, of low rank and much smaller."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=2048,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    model = LlamaForCausalLM(config)
    if moved_by:
        torch.manual_seed(moved_by)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 2:
                    out, inner = parameter.shape
                    parameter += 0.05 * torch.randn(out, 4) @ torch.randn(4, inner)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(WEIGHTS / "aligned" / name, folder / name)
    return folder


def make_adapter(folder: Path, base: Path, *, seed: int, rank: int = RANK) -> Path:
    """A LoRA adapter on `base` with both factors random; the base is named relative to its folder."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base)
    model.name_or_path = f"../{base.name}"
    config = LoraConfig(r=rank, lora_alpha=8, target_modules=list(TARGETS), init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(model, config).save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    return folder


def served(candidate: Candidate) -> dict[str, torch.Tensor]:
    """The weights that answer: the model as the gate loads it, adapter merged, by name."""
    import torch

    from gate.endpoints.hf_load import load_model

    model = load_model(candidate, torch.device("cpu"), torch.float32)
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def served_folder(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a folder that the gate's own ingest lets through."""
    return served(load_candidate(str(folder)))


def adapted(name: str) -> bool:
    """Whether the scene's adapters change the weight of that name."""
    return any(name.endswith(f"{target}.weight") for target in TARGETS)
