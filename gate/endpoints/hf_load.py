"""Loads a candidate's weights and tokenizer with transformers and PEFT: local files only, safetensors only, no remote code.

In: a `Candidate` that the scan let through. Out: a model in evaluation mode and its tokenizer. What transformers would load half
(weights that the files lack are drawn at random) is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gate.errors import CandidateError, InfrastructureError, UsageError
from gate.records import Candidate
from gate.tokenizer_files import tokenizer_folder

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"


def resolve_device(device: str) -> torch.device:
    """`auto` (the GPU where there is one), `cpu`, `cuda` or `cuda:1`. Raises `UsageError` for a device that is not there."""
    import torch

    usable = torch.cuda.device_count()
    try:
        found = torch.device(("cuda" if usable else "cpu") if device == "auto" else device)
    except RuntimeError as error:
        raise UsageError(f"no device is called {device}", expected="auto, cpu, cuda or cuda:1", found=device) from error
    if found.type == "cuda" and (found.index or 0) >= usable:
        raise UsageError(
            f"the device {device} is not there",
            expected="a GPU that torch can use",
            found=f"{usable} of them",
            mend="give cpu or auto",
        )
    return found


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`auto` is float32 on a CPU, where it is exact and fast enough, and bfloat16 on a GPU, where models are served in it."""
    import torch

    name = dtype
    if name == "auto":
        name = "float32" if device.type == "cpu" else "bfloat16"
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise UsageError(f"no dtype is called {name}", expected=", ".join(["auto", *known]), found=name)
    return known[name]


def load_tokenizer(candidate: Candidate) -> PreTrainedTokenizerBase:
    """The tokenizer of the candidate's folder; of its base where an adapter brings none (`gate.tokenizer_files` decides)."""
    from transformers import AutoTokenizer

    places = [Path(place) for place in (candidate.path, candidate.base_path) if place]
    folder = str(tokenizer_folder(places) or candidate.path)
    with loading(folder, "tokenizer"):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def load_model(candidate: Candidate, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """The candidate's weights on `device` in `dtype`, with the adapter applied, ready for inference.

    A LoRA adapter is merged in float32, where that changes products by rounding only and saves two of three matrix products. In
    16-bit types it stays beside the base: adding it to weights of 8 or 11 significant bits would round a small adapter away.
    """
    folder = candidate.base_path if candidate.kind == "adapter" else candidate.path
    with loading(folder, "model"):
        model = _load_whole(folder, dtype)
    if candidate.kind == "adapter":
        with loading(candidate.path, "adapter"):
            model = _apply_adapter(model, candidate.path, merge=str(dtype) == "torch.float32")
    with loading(candidate.path, "model"):
        return model.to(device).eval()


def _load_whole(folder: str, dtype: torch.dtype) -> PreTrainedModel:
    """The model of `folder`. Raises `CandidateError` when a weight is missing or has another shape."""
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    refuse_lacking(folder, "weights", [str(key) for name in ("missing_keys", "mismatched_keys") for key in info[name]])
    return model


def _apply_adapter(base: PreTrainedModel, folder: str, *, merge: bool) -> PreTrainedModel:
    """`base` with the adapter of `folder`. Raises `CandidateError` when its weights don't cover what its config names."""
    from peft import LoraModel, PeftModel

    adapter_weights(folder)
    model = PeftModel.from_pretrained(base, folder, local_files_only=True)
    _refuse_uncovered(model, folder)
    return model.merge_and_unload(safe_merge=True) if merge and isinstance(model.base_model, LoraModel) else model


def check_adapter(candidate: Candidate) -> None:
    """Refuse an adapter that is anything else than the LoRA factors that its config names of its base's modules, by their names.

    For engines that pass over in silence what they do not know: they would answer with the bare base. Loads no weights. Raises
    `CandidateError`.
    """
    import torch
    from peft import PeftConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    with loading(candidate.path, "adapter"):
        with torch.device("meta"):
            base = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(candidate.base_path, local_files_only=True))
        config = PeftConfig.from_pretrained(candidate.path, local_files_only=True)
        config.init_lora_weights = True  # others are computed from the base's weights, and change no name
        more = _refuse_uncovered(get_peft_model(base, config, low_cpu_mem_usage=True), candidate.path)
    if more:
        raise CandidateError(
            f"the adapter in {candidate.path} has more than LoRA factors, which this engine would leave out",
            expected="lora_A and lora_B for each adapted module, and nothing else",
            found=f"{len(more)} others, first {', '.join(more[:3])}",
            mend="merge it into its base, or check it with the engine hf_local",
        )


def _refuse_uncovered(model: PeftModel, folder: str) -> list[str]:
    """Raise `CandidateError` where the adapter's stored tensors don't cover what `model` adapts, or adapt what it does not.

    Returns the names of tensors that are no LoRA factors.
    """
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(adapter_weights(folder), framework="pt") as stored:
        found = set(stored.keys())
    wanted = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    refuse_lacking(folder, "adapter weights", sorted(wanted - found))
    astray = sorted(key for key in found - wanted if "lora_" in key)
    if astray:
        raise CandidateError(
            f"the adapter in {folder} has weights for modules that the base model lacks",
            expected="weights for the base model's modules",
            found=", ".join(astray[:3]),
            mend="give the base model that the adapter was trained on",
        )
    return sorted(key for key in found if "lora_" not in key)


def adapter_weights(folder: str) -> Path:
    """The adapter's safetensors. Raises `CandidateError` where there are none: what else lies there is never loaded."""
    weights = Path(folder) / ADAPTER_WEIGHTS
    if not weights.is_file():
        raise CandidateError(
            "the adapter has no weights", expected=str(weights), found="no such file", mend="save it as safetensors"
        )
    return weights


def refuse_lacking(folder: str, what: str, lacking: list[str]) -> None:
    """Raise `CandidateError` for weights that would have been drawn at random."""
    if lacking:
        raise CandidateError(
            f"{folder} lacks {what}; they would be drawn at random",
            expected="a stored tensor of the right shape for every parameter",
            found=f"{len(lacking)} missing or misshapen, first {', '.join(lacking[:3])}",
            mend="save the whole model again",
        )


@contextmanager
def loading(folder: str, what: str) -> Iterator[None]:
    """Keep the libraries quiet, and turn what they raise into the gate's errors."""
    try:
        with quiet():
            yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise InfrastructureError(f"out of memory while loading the {what}", found=str(error)[:200]) from error
        raise _not_loadable(folder, what, error) from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ImportError, _safetensor_error()) as error:
        raise _not_loadable(folder, what, error) from error


def _not_loadable(folder: str, what: str, error: BaseException) -> CandidateError:
    lines = str(error).strip().splitlines()
    return CandidateError(
        f"the {what} in {folder} cannot be loaded",
        expected=f"a {what} that transformers loads from local safetensors",
        found=f"{type(error).__name__}: {lines[0][:300] if lines else ''}",
    )


def _safetensor_error() -> type[Exception]:
    from safetensors import SafetensorError

    error: type[Exception] = SafetensorError
    return error


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, load reports or warnings of transformers and PEFT: what matters in them is checked and raised."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the machine ran out of memory: CUDA's own error, or what torch's CPU allocator says."""
    import torch

    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
