"""The model that is trained: a scanned base and a recipe come in, a transformers model with its adapter goes out.

All that draws at random here (an adapter's first weights) draws from the recipe's seed.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from gate.adapter_fit import read_json_object
from gate.endpoints.hf_load import load_model, loading, refuse_lacking, resolve_device, resolve_dtype
from gate.errors import RecipeError
from gate.finetune.recipe import Recipe
from gate.records import Candidate

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def compute_dtype(recipe: Recipe) -> torch.dtype:
    """What products are computed in. Raises `RecipeError` for what this machine can't do."""
    device = resolve_device("auto")
    dtype = resolve_dtype(recipe.dtype, device)
    if recipe.dtype == "float16" and device.type == "cpu":
        raise RecipeError(
            "dtype float16 is trained with a scaled loss, which needs a GPU",
            expected="auto, float32 or bfloat16 on a CPU",
            found="no GPU that torch can use",
            mend="write dtype: auto",
        )
    return dtype


def check_needs(recipe: Recipe) -> None:
    """Refuse a recipe that needs bitsandbytes and a GPU where they are not, before anything is read."""
    wants = [f"method: {recipe.method}"] if recipe.method == "qlora" else []
    wants += [f"optimizer: {recipe.optimizer}"] if recipe.optimizer == "paged_adamw" else []
    if not wants:
        return
    gpu = resolve_device("auto").type == "cuda"
    lacking = ([] if find_spec("bitsandbytes") else ["bitsandbytes"]) + ([] if gpu else ["a GPU that torch can use"])
    if lacking:
        raise RecipeError(
            f"{' and '.join(wants)} needs what is not here",
            expected="bitsandbytes and a CUDA GPU",
            found=f"without {' and '.join(lacking)}",
            mend="pip install bitsandbytes on a machine with a GPU, or train with method: lora and optimizer: adamw",
        )


def load_base(recipe: Recipe, base: Candidate) -> PreTrainedModel:
    """The base's weights where they will be trained. A CPU has them in float32; so has a model that is trained whole."""
    device = resolve_device("auto")
    dtype = compute_dtype(recipe)
    if recipe.method == "qlora":
        return _load_in_4_bits(base.path, dtype, device)
    plain = recipe.method == "full" or device.type == "cpu"
    model = load_model(base, device, resolve_dtype("float32" if plain else recipe.dtype, device))
    if device.type == "cpu":
        model.set_attn_implementation("eager")  # torch's fused attention is the slower one backwards on a CPU
    return model


def _load_in_4_bits(folder: str, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    from peft import prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    with loading(folder, "model"):
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            quantization_config=config,
            device_map={"": device},
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
        refuse_lacking(folder, "weights", [str(key) for name in ("missing_keys", "mismatched_keys") for key in info[name]])
        return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def trainee(recipe: Recipe, base: Candidate) -> PreTrainedModel:
    """The model to train: the base itself, or with a fresh adapter on every layer that the recipe names."""
    import torch

    model = load_base(recipe, base)
    if recipe.method == "full":
        return model.requires_grad_(True)
    from peft import LoraConfig, get_peft_model

    matrices = (name for name, module in model.named_modules() if getattr(getattr(module, "weight", None), "ndim", 0) > 1)
    names = {name.rpartition(".")[2] for name in matrices}
    absent = [target for target in recipe.lora.targets if target not in names]
    if absent:
        raise RecipeError(
            f"the base has no layer called {', '.join(absent)}",
            expected="names of its linear layers in lora.targets",
            found=", ".join(sorted(names)),
            mend="write the names of this architecture's layers",
        )
    config = LoraConfig(
        r=recipe.lora.r,
        lora_alpha=recipe.lora.alpha,
        lora_dropout=recipe.lora.dropout,
        target_modules=list(recipe.lora.targets),
        bias="none",
        task_type="CAUSAL_LM",
    )
    if recipe.gradient_checkpointing:
        model.enable_input_require_grads()
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        return get_peft_model(model, config)


def stored_dtype(base: Candidate) -> str:
    """The dtype that the base's files are in, as its config says; float32 where it says nothing."""
    config = read_json_object(Path(base.path) / "config.json")
    named = config.get("dtype") or config.get("torch_dtype")
    return str(named) if named in ("float32", "bfloat16", "float16") else "float32"
