"""Answers asks with transformers' `generate` on this machine: CPU or GPU, a model folder or an adapter on its base.

In: a candidate, asks with rendered prompts. Out: a response per ask as each batch finishes. An answer depends on its own ask
alone: prompts are padded on the left under a mask, and a sampled answer draws from a generator seeded by (seed, prompt, sample).

Decoding is the ask's and nothing else: what the folder's generation_config.json says of sampling or penalties is not read, only
its end-of-sequence tokens are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from gate.endpoints.hf_load import is_out_of_memory, load_model, resolve_device, resolve_dtype
from gate.endpoints.hf_text import HfText, Limits, Row, failure, listed, row_seed
from gate.errors import InfrastructureError
from gate.records import Ask, AttackCase, Candidate, Decoding, EngineInfo, NoResponse, Response

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig


class HfLocal:
    """A checkpoint loaded with transformers. See `gate.endpoints.base.Endpoint`."""

    def __init__(self, candidate: Candidate, *, device: str = "auto", dtype: str = "auto", batch_size: int = 64) -> None:
        """Load. Raises `CandidateError` for what cannot be loaded whole, `InfrastructureError` when memory does not suffice."""
        self._device = resolve_device(device)
        self._dtype = resolve_dtype(dtype, self._device)
        self._batch_size = batch_size
        self._text = HfText(candidate)
        self._model = load_model(candidate, self._device, self._dtype)
        self._eos = self._text.stop_ids(self._model.generation_config.eos_token_id)
        self._pad = next(iter([*listed(self._text.tokenizer.pad_token_id), *self._eos]), 0)
        self._model.generation_config = self._config(max_new_tokens=None)
        text_config = self._model.config.get_text_config()
        self._limits = Limits(
            context=getattr(text_config, "max_position_embeddings", None),
            vocabulary=self._model.get_input_embeddings().weight.shape[0],
        )

    @property
    def info(self) -> EngineInfo:
        """Versions of transformers and torch, dtype, and the device: a GPU by name, since each rounds its own way."""
        import torch
        import transformers

        on_gpu = self._device.type == "cuda"
        return EngineInfo(
            name="transformers",
            version=f"{transformers.__version__}+torch{torch.__version__}",
            dtype=str(self._dtype).removeprefix("torch."),
            device=torch.cuda.get_device_name(self._device) if on_gpu else self._device.type,
        )

    def render(self, case: AttackCase) -> str:
        """The exact text the model will continue. Raises `CandidateError` when the chat template cannot take the case."""
        return self._text.render(case)

    def generate(self, asks: Sequence[Ask]) -> Iterator[Response | NoResponse]:
        """Answer every ask exactly once, longest prompts first within a decoding, as batches finish."""
        groups: dict[tuple[float, float, int], list[Row]] = {}
        for row in self.tokenise(asks):
            reason = self._limits.refusal(row)
            if reason:
                yield failure(row.ask, "unsupported", reason)
            else:
                d = row.ask.decoding
                groups.setdefault((d.temperature, d.top_p, d.max_new_tokens), []).append(row)
        for rows in groups.values():
            yield from self._answer(sorted(rows, key=lambda row: (-len(row.ids), row.ask.key)))

    def close(self) -> None:
        """Free the weights."""
        import torch

        del self._model
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def decode_batch(
        self, ids: torch.Tensor, mask: torch.Tensor, config: GenerationConfig, processors: list[Processor]
    ) -> torch.Tensor:
        """One call of `generate`: (batch, prompt length) token ids → (batch, new tokens) token ids."""
        import torch
        from transformers import LogitsProcessorList

        with torch.inference_mode():
            output: torch.Tensor = self._model.generate(
                input_ids=ids, attention_mask=mask, generation_config=config, logits_processor=LogitsProcessorList(processors)
            )
        return output[:, ids.shape[1] :]

    def tokenise(self, asks: Sequence[Ask]) -> list[Row]:
        """Every prompt as it stands: no special tokens added, nothing truncated."""
        return self._text.rows(asks)

    def _answer(self, rows: Sequence[Row]) -> Iterator[Response | NoResponse]:
        """Answer rows of one decoding, batch by batch. A batch that does not fit in memory is halved, for good."""
        start = 0
        while start < len(rows):
            batch = rows[start : start + self._batch_size]
            answers = self._try_batch(batch)
            if answers is None:
                self._halve(len(batch))
            else:
                yield from answers
                start += len(batch)

    def _try_batch(self, batch: Sequence[Row]) -> list[Response | NoResponse] | None:
        """The batch's answers; None when memory ran out: returned, since a raised error's traceback would hold the tensors."""
        import torch

        try:
            return self._run_batch(batch)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                return None
            if isinstance(error, torch.AcceleratorError):
                raise InfrastructureError(
                    "the accelerator failed", found=str(error)[:300], mend="run the command again"
                ) from error
            raise

    def _halve(self, tried: int) -> None:
        import torch

        if tried == 1:
            raise InfrastructureError(
                "out of memory with a single prompt in the batch",
                expected="memory for one prompt and its answer",
                found=f"{self._device} too small",
                mend="free memory, lower max_new_tokens, or use a larger machine; the run resumes",
            )
        self._batch_size = tried // 2
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _run_batch(self, batch: Sequence[Row]) -> list[Response | NoResponse]:
        """Generate for one batch and make its records."""
        import torch

        width = max(len(row.ids) for row in batch)
        ids = torch.tensor([[self._pad] * (width - len(row.ids)) + row.ids for row in batch], device=self._device)
        mask = torch.tensor([[0] * (width - len(row.ids)) + [1] * len(row.ids) for row in batch], device=self._device)
        watch = FiniteWatch()
        decoding = batch[0].ask.decoding
        processors: list[Processor] = [watch, *sampling_processors(decoding, [row.ask for row in batch])]
        new = self.decode_batch(ids, mask, self._config(decoding.max_new_tokens), processors).tolist()
        broken = watch.first_bad_steps(len(batch))
        return [self._text.record(row, tokens, self._eos, bad) for row, tokens, bad in zip(batch, new, broken, strict=True)]

    def _config(self, max_new_tokens: int | None) -> GenerationConfig:
        from transformers import GenerationConfig

        return GenerationConfig(
            max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=self._eos or None, pad_token_id=self._pad
        )


class FiniteWatch:
    """A logits processor that changes nothing and remembers, per row, the first step whose scores were not finite."""

    def __init__(self) -> None:
        self._bad: list[torch.Tensor] = []

    def __call__(self, _ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The largest score is NaN if any is, infinite if any is +inf or all are -inf. Nothing is read back to the CPU here."""
        self._bad.append(~scores.amax(dim=-1).isfinite())
        return scores

    def first_bad_steps(self, rows: int) -> list[int]:
        """For each row the first bad step, or -1."""
        import torch

        if not self._bad:
            return [-1] * rows
        bad = torch.stack(self._bad, dim=1)
        first = torch.where(bad.any(dim=1), bad.int().argmax(dim=1), -1)
        return [int(step) for step in first.tolist()]


class GumbelNoise:
    """A logits processor that turns the greedy choice into an exact sample: argmax(log p + G), G standard Gumbel (Gumbel-max).

    Each row draws from a generator of its own, so that its sample is the same whatever else is in the batch.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._seeds = tuple(seeds)
        self._generators: list[torch.Generator] = []

    def __call__(self, _ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """(rows, vocabulary) scores with noise added: -log E is standard Gumbel for E standard exponential."""
        import torch

        if not self._generators:
            self._generators = [torch.Generator(scores.device).manual_seed(seed) for seed in self._seeds]
        noise = torch.empty_like(scores)
        for row, generator in zip(noise, self._generators, strict=True):
            row.exponential_(generator=generator)
        return scores - noise.log_()


Processor = FiniteWatch | GumbelNoise
"""What `generate` is given to look at or change the scores; transformers' own warpers have the same call."""


def sampling_processors(decoding: Decoding, asks: Sequence[Ask]) -> list[Processor]:
    """What makes greedy decoding sample as `decoding` says: temperature, nucleus (top-p), then noise. Empty when it is greedy."""
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    if decoding.temperature == 0:
        return []
    nucleus = [TopPLogitsWarper(decoding.top_p)] if decoding.top_p < 1 else []
    return [TemperatureLogitsWarper(decoding.temperature), *nucleus, GumbelNoise([row_seed(ask) for ask in asks])]
