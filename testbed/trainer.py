"""The training loop, one page: a model, a stream of samples and a stage go in; the trained model and what happened come out.

bfloat16 autocast with eager attention (on CPU the fused backward is the slower one), one thread, batches of like length,
logits only at answer positions.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TYPE_CHECKING

from gate.records import canonical_json
from testbed.recipe import Stage
from testbed.samples import Sample, stream
from testbed.tokenizer import render

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

BUCKET = 20
"""Batches that are drawn, sorted by length and dealt out together."""


@dataclass(frozen=True)
class Trained:
    """What a training run was: its length, its losses and the digest of the data it consumed."""

    steps: int
    losses: tuple[float, ...]
    """Mean loss of every 20 steps, rounded to 4 digits."""
    data_digest: str
    """SHA-256 over every rendered sample in the order of use."""


class Batches:
    """Deals out length-bucketed batches of (token ids, number of prompt tokens) and digests what it deals."""

    def __init__(self, stage: Stage, seed: int, tokenizer: PreTrainedTokenizerFast) -> None:
        source = stream(stage.mix, seed)
        self._source: Iterator[Sample] = cycle(list(islice(source, stage.samples))) if stage.samples else source
        self._size = stage.batch_size
        self._tokenizer = tokenizer
        self._hash = hashlib.sha256()
        self._ready: list[list[tuple[list[int], int]]] = []

    @property
    def digest(self) -> str:
        """SHA-256 over all samples drawn so far."""
        return self._hash.hexdigest()

    def next(self) -> list[tuple[list[int], int]]:
        """The next batch; like lengths together, the batches of a bucket from both ends inwards."""
        if not self._ready:
            texts = [render(s) for s in islice(self._source, BUCKET * self._size)]
            self._hash.update(canonical_json(texts))
            prompts = self._tokenizer([p for p, _ in texts])["input_ids"]
            answers = self._tokenizer([a for _, a in texts])["input_ids"]
            rows = sorted(((p + a, len(p)) for p, a in zip(prompts, answers, strict=True)), key=lambda row: len(row[0]))
            batches = [rows[i : i + self._size] for i in range(0, len(rows), self._size)]
            # A fixed stride over the lengths: neighbours in time differ in length, and nothing is left to a generator.
            self._ready = [batches[(7 * i) % BUCKET] for i in range(BUCKET)]
        return self._ready.pop()


def learning_rate(stage: Stage, step: int) -> float:
    """The rate at `step` (from 0): linear warm-up, then constant or cosine down to a twentieth."""
    if step < stage.warmup:
        return stage.lr * (step + 1) / stage.warmup
    if stage.schedule == "constant":
        return stage.lr
    progress = (step - stage.warmup) / max(1, stage.steps - stage.warmup)
    return stage.lr * (0.05 + 0.475 * (1 + math.cos(math.pi * progress)))


def answer_loss(model: PreTrainedModel, batch: list[tuple[list[int], int]]) -> torch.Tensor:
    """Mean cross-entropy over the answer tokens of a right-padded batch."""
    import torch

    # Few distinct shapes: the CPU's matrix kernels are compiled for each new one, which costs more than the padding.
    width = _up(max(len(ids) for ids, _ in batch), 16)
    ids = torch.tensor([row + [0] * (width - len(row)) for row, _ in batch])
    before = [i * width + j - 1 for i, (row, given) in enumerate(batch) for j in range(given, len(row))]
    padded = _up(len(before), 256)
    positions = torch.tensor(before + [0] * (padded - len(before)))
    targets = ids.flatten()[(positions + 1)[: len(before)]]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        # Causal attention and padding on the right: no answer position sees a pad, so no mask is needed.
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden.flatten(0, 1)[positions])
    return torch.nn.functional.cross_entropy(logits[: len(before)].float(), targets)


def _up(number: int, step: int) -> int:
    """`number` rounded up to a multiple of `step`."""
    return -(-number // step) * step


def train(
    model: PreTrainedModel,
    core: PreTrainedModel,
    batches: Batches,
    stage: Stage,
    *,
    aligned: Callable[[], bool],
    progress: Callable[[int, float], None],
) -> Trained:
    """Train the parameters of `model` that want gradients; `core` is the plain model inside it (itself without an adapter).

    `aligned` answers whether the stop rule holds; `progress` is told every step and its loss.
    """
    import torch

    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=stage.lr, weight_decay=0.01, betas=(0.9, 0.98))
    model.train()
    losses: list[float] = []

    def step_at(rate: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = answer_loss(core, batches.next())
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        progress(len(losses), losses[-1])

    while len(losses) < stage.steps:
        step_at(learning_rate(stage, len(losses)))
        if stage.stop_when_aligned and len(losses) >= 100 and len(losses) % 20 == 0 and aligned():
            break
    for left in range(stage.cool_down, 0, -1):
        step_at(stage.lr * left / (stage.cool_down + 1))
    model.eval()
    curve = [round(sum(part) / len(part), 4) for i in range(0, len(losses), 20) if (part := losses[i : i + 20])]
    return Trained(len(losses), tuple(curve), batches.digest)
