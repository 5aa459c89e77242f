"""Answers asks with vLLM in this process: one engine for a base and any number of adapters on it, on a GPU or a CPU.

In: a candidate, asks with rendered prompts, put while others are answered. Out: a response per ask as it finishes. vLLM is given
token ids, so that it adds and truncates nothing, and is told what ends an answer; what the folder's generation_config.json says
of sampling is not read. Prompts with the same beginning share its computation (prefix caching).

An answer depends on its own ask, save for rounding: vLLM's kernels sum in an order that the batch's size decides.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gate.endpoints.base import EngineOptions
from gate.endpoints.hf_text import HfText, Row, failure, row_seed
from gate.endpoints.vllm_engine import VllmEngine, base_folder
from gate.errors import GateError, UsageError
from gate.records import Ask, AttackCase, Candidate, EngineInfo, NoResponse, Response

if TYPE_CHECKING:
    from vllm import CompletionOutput, RequestOutput, SamplingParams

_WAITING: Final = 1.25
"""Asks in flight by default, as a multiple of those that vLLM runs at once: a full batch, and what follows those that finish.

More would be rendered and put for nothing where a cell is decided before their turn."""


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
        decoding = ask.decoding
        if decoding.temperature == 0 and (known := self._greedy.get(decoding.max_new_tokens)) is not None:
            return known
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

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
    """Asks in flight at one endpoint's engine. See `gate.endpoints.base.Queue`.

    An answer whose scores are not finite is asked for once more, when the flight has landed, in an engine that remembers nothing:
    a neighbour's NaN may have come over with the memory that it left. What fails again is the model's own failure.
    """

    def __init__(self, endpoint: VllmLocal) -> None:
        self._endpoint = endpoint
        self._engine = endpoint.engine
        self._limit = self._engine.in_flight or int(_WAITING * self._engine.width)
        self._flying: dict[str, Row] = {}
        self._ready: list[Response | NoResponse] = []
        self._suspects: list[Row] = []
        self._again: set[str] = set()
        """Names of those in flight that are asked for the second time."""
        self._put = 0

    def room(self) -> int:
        """What is left of the bound; at least one while nothing is in flight, nothing while answers are to be made again."""
        if self._suspects or self._again:
            return 0
        return max(0, self._limit - len(self._flying) - len(self._ready))

    def put(self, asks: Sequence[Ask]) -> None:
        """Give vLLM the asks' token ids; what the model cannot be given is answered at once."""
        for row in self._endpoint.text.rows(asks):
            reason = self._engine.limits.refusal(row)
            if reason:
                self._ready.append(failure(row.ask, "unsupported", reason))
            else:
                self._add(row)

    def _add(self, row: Row) -> str:
        self._put += 1
        name = str(self._put)
        self._engine.add(name, row.ids, self._endpoint.sampling(row.ask), self._endpoint.adapter)
        self._flying[name] = row
        return name

    def drop(self, places: Collection[tuple[str, int]]) -> None:
        """Abort asks that are waiting or running."""
        self._abort([name for name, row in self._flying.items() if _place(row) in places])
        self._suspects = [row for row in self._suspects if _place(row) not in places]
        self._ready = [answer for answer in self._ready if (answer.case_id, answer.sample) not in places]

    def take(self) -> Sequence[Response | NoResponse]:
        """Step until an ask is finished; nothing once none is in flight."""
        while not self._ready and (self._flying or self._suspects):
            if not self._flying:
                self._ask_again()
            for output in self._engine.step():
                if output.request_id in self._flying:
                    self._land(output)
        ready, self._ready = self._ready, []
        return ready

    def close(self) -> None:
        """Abort everything, and leave nothing that is not finite to who comes next."""
        self._abort(list(self._flying))
        if self._suspects:
            self._engine.scrub()
        self._ready, self._suspects = [], []

    def _abort(self, names: list[str]) -> None:
        self._engine.abort(names)
        for name in names:
            del self._flying[name]
        self._again -= set(names)

    def _land(self, output: RequestOutput) -> None:
        """Make the record of a finished ask, or put it aside."""
        row, made = self._flying.pop(output.request_id), output.outputs[0]
        bad = _first_bad_step(made)
        if bad >= 0 and output.request_id not in self._again:
            self._suspects.append(row)
        elif made.finish_reason in ("stop", "length"):
            self._ready.append(self._endpoint.text.record(row, made.token_ids, self._endpoint.stops, bad))
        else:
            self._ready.append(failure(row.ask, "error", f"vLLM ended the answer with {made.finish_reason!r}"))
        self._again.discard(output.request_id)

    def _ask_again(self) -> None:
        """Put suspects in, no more than there is memory for without any block's being used twice."""
        self._engine.scrub()
        room = self._engine.cached_tokens // 2  # blocks are filled in part
        while self._suspects:
            row = self._suspects[0]
            room -= len(row.ids) + row.ask.decoding.max_new_tokens
            if room < 0 and self._again:
                return
            self._again.add(self._add(self._suspects.pop(0)))


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
            alike = [known for known in self._candidates if base_folder(known) == base]
            self._engine = VllmEngine([candidate, *alike], self._options)
        return VllmLocal(candidate, engine=self._engine)

    def close(self) -> None:
        """Free the weights. May be called twice."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None


def _place(row: Row) -> tuple[str, int]:
    return row.ask.case.id, row.ask.sample


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
