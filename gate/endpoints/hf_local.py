"""Answers asks with transformers' `generate` on this machine: CPU or GPU, a model folder or an adapter on its base.

In: a candidate, asks with rendered prompts. Out: a response per ask as each batch finishes. An answer depends on its own ask
alone: prompts are padded on the left under a mask, and a sampled answer draws from a generator seeded by (seed, prompt, sample).

Decoding is the ask's and nothing else: what the folder's generation_config.json says of sampling or penalties is not read, only
its end-of-sequence tokens are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from gate.endpoints.hf_load import is_out_of_memory, load_model, load_tokenizer, resolve_device, resolve_dtype
from gate.endpoints.templates import NativeTemplate, TemplateFailure, render_case
from gate.errors import CandidateError, InfrastructureError, UnsafeCandidateError
from gate.records import Ask, AttackCase, Candidate, Decoding, EngineInfo, NoResponse, Response
from gate.template_days import FEW_DAYS, GATE_CLOCK, TEMPLATE_ERRORS, Clock, only_prints_the_day

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig, PreTrainedTokenizerBase

_TAIL: Final = 4
"""Prompt tokens decoded before an answer, so that its leading space survives tokenizers that strip it at the start of a text."""


@dataclass(frozen=True)
class Row:
    """An ask and its prompt's token ids."""

    ask: Ask
    ids: list[int]


class HfLocal:
    """A checkpoint loaded with transformers. See `gate.endpoints.base.Endpoint`."""

    def __init__(self, candidate: Candidate, *, device: str = "auto", dtype: str = "auto", batch_size: int = 64) -> None:
        """Load. Raises `CandidateError` for what cannot be loaded whole, `InfrastructureError` when memory does not suffice."""
        self._device = resolve_device(device)
        self._dtype = resolve_dtype(dtype, self._device)
        self._batch_size = batch_size
        self._tokenizer = load_tokenizer(candidate)
        self._native = native_template(self._tokenizer, candidate.chat_template)
        self._bos = _beginning(self._tokenizer)
        self._model = load_model(candidate, self._device, self._dtype)
        self._eos = sorted(
            {*_listed(self._model.generation_config.eos_token_id), *_listed(self._tokenizer.eos_token_id)}
            | end_of_turn(self._tokenizer, candidate.chat_template)
        )
        self._pad = next(iter([*_listed(self._tokenizer.pad_token_id), *self._eos]), 0)
        self._model.generation_config = self._config(max_new_tokens=None)
        text_config = self._model.config.get_text_config()
        self._context: int | None = getattr(text_config, "max_position_embeddings", None)
        self._vocabulary: int = self._model.get_input_embeddings().weight.shape[0]

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
        return render_case(case, self._native, self._bos)

    def generate(self, asks: Sequence[Ask]) -> Iterator[Response | NoResponse]:
        """Answer every ask exactly once, longest prompts first within a decoding, as batches finish."""
        groups: dict[tuple[float, float, int], list[Row]] = {}
        for row in self.tokenise(asks):
            reason = self._unsupported(row)
            if reason:
                yield _failure(row.ask, "unsupported", reason)
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
        if not asks:
            return []
        prompts = [ask.prompt for ask in asks]
        encoded: list[list[int]] = self._tokenizer(prompts, add_special_tokens=False, verbose=False)["input_ids"]
        return [Row(ask, ids) for ask, ids in zip(asks, encoded, strict=True)]

    def _unsupported(self, row: Row) -> str:
        """Why the model cannot be given this prompt; empty when it can."""
        new = row.ask.decoding.max_new_tokens
        if not row.ids:
            return "the prompt has no tokens"
        if self._context is not None and len(row.ids) + new > self._context:
            return f"the prompt's {len(row.ids)} tokens and {new} new ones exceed the model's context of {self._context}"
        if max(row.ids) >= self._vocabulary:
            return f"the prompt has the token {max(row.ids)}, the model embeds {self._vocabulary}"
        return ""

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
        return [self._record(row, tokens, bad) for row, tokens, bad in zip(batch, new, broken, strict=True)]

    def _record(self, row: Row, tokens: list[int], bad_step: int) -> Response | NoResponse:
        """The record of one row's new tokens, which end at the first end-of-sequence token; `bad_step` -1 is none."""
        end = next((i for i, token in enumerate(tokens) if token in self._eos), None)
        kept = tokens if end is None else tokens[: end + 1]
        if 0 <= bad_step < len(kept):
            return _failure(row.ask, "error", f"the model's scores are not finite at answer token {bad_step}")
        return Response(
            case_id=row.ask.case.id,
            sample=row.ask.sample,
            key=row.ask.key,
            text=self._text(row.ids[-_TAIL:], kept),
            finish_reason="length" if end is None else "stop",
            prompt_tokens=len(row.ids),
            completion_tokens=len(kept),
        )

    def _text(self, tail: list[int], new: list[int]) -> str:
        """The new tokens' text, as it stands after the prompt's last tokens."""
        whole, before = (
            self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            for ids in ([*tail, *new], tail)
        )
        if whole.startswith(before):
            return str(whole[len(before) :])
        return str(self._tokenizer.decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False))

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


def row_seed(ask: Ask) -> int:
    """63 bits from (seed, sample number, prompt)."""
    digest = hashlib.sha256(f"{ask.decoding.seed}\x1f{ask.sample}\x1f{ask.prompt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def native_template(tokenizer: PreTrainedTokenizerBase, template: str) -> NativeTemplate:
    """The chat template as transformers renders it: sandboxed, with the generation prompt, on a fixed day.

    What it makes raises `CandidateError` when the candidate has no template, and `UnsafeCandidateError` when these turns are
    rendered otherwise on another day, the dates in them aside: the scan tries a sample, and a template could know the sample.
    """

    def on_day(turns: Sequence[Mapping[str, str]], clock: Clock) -> str | None:
        try:
            return _apply(tokenizer, template, turns, generation_prompt=True, clock=clock)
        except TemplateFailure:
            return None

    def render(turns: Sequence[Mapping[str, str]]) -> str:
        if not template:
            raise CandidateError(
                "the candidate has no chat template",
                expected="a chat template for the native calibrations",
                found="none in the tokenizer's files",
                mend="add chat_template.jinja to the folder, or leave the native calibrations out of the policy",
            )
        if "strftime_now" in template and not only_prints_the_day(lambda clock: on_day(turns, clock), FEW_DAYS):
            raise UnsafeCandidateError(
                "the chat template gives another prompt on another day, the date itself aside",
                expected="a template that does nothing with the day but print it",
                found="a prompt that production would not see",
                mend="give the model a template that prints what strftime_now returns, or none of it",
            )
        return _apply(tokenizer, template, turns, generation_prompt=True)

    return render


def end_of_turn(tokenizer: PreTrainedTokenizerBase, template: str) -> set[int]:
    """The special token that the chat template puts right after an assistant's text, if it puts one: there an answer ends."""
    if not template:
        return set()
    sentinel = "fin"
    turns = [{"role": "user", "content": sentinel}, {"role": "assistant", "content": sentinel}]
    try:
        after = _apply(tokenizer, template, turns, generation_prompt=False).rpartition(sentinel)[2].lstrip()
    except TemplateFailure:
        return set()
    ids: list[int] = tokenizer(after, add_special_tokens=False)["input_ids"]
    special = {*tokenizer.all_special_ids, *(i for i, token in tokenizer.added_tokens_decoder.items() if token.special)}
    return set(ids[:1]) & special


def _apply(
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    turns: Sequence[Mapping[str, str]],
    *,
    generation_prompt: bool,
    clock: Clock = GATE_CLOCK,
) -> str:
    """Render, and turn whatever the template raises into `TemplateFailure`."""
    try:
        text = tokenizer.apply_chat_template(
            [dict(turn) for turn in turns],
            chat_template=template,
            tokenize=False,
            add_generation_prompt=generation_prompt,
            strftime_now=clock,
        )
    except TEMPLATE_ERRORS as error:
        raise TemplateFailure(f"{type(error).__name__}: {error}") from error
    return str(text)


def _beginning(tokenizer: PreTrainedTokenizerBase) -> str:
    """The beginning-of-sequence token's text where the tokenizer puts one in front of plain text, else nothing."""
    ids: list[int] = tokenizer("a")["input_ids"]
    return str(tokenizer.bos_token) if ids and ids[0] == tokenizer.bos_token_id else ""


def _listed(ids: int | list[int] | None) -> list[int]:
    """Token ids as transformers' configs hold them (none, one or several), as a list."""
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)


def _failure(ask: Ask, kind: Literal["error", "unsupported"], reason: str) -> NoResponse:
    return NoResponse(case_id=ask.case.id, sample=ask.sample, key=ask.key, kind=kind, reason=reason)
