"""What happens at the steps of a run: batches come in, losses go out, and the ledger is kept. The loop itself is transformers'.

Whatever is summed here is summed over all processes, so that the losses and curves are those of the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from gate.errors import RecipeError
from gate.finetune.coba import coba_weights
from gate.finetune.hooks import Observer, Progress, TokenWeights
from gate.finetune.ledger import Ledger, Point, mean_over_cells
from gate.finetune.losses import (
    IGNORED,
    batch_loss,
    counts,
    row_coefficients,
    sums_by_cell,
    token_losses,
    trained_tokens,
)
from gate.finetune.recipe import Recipe
from gate.finetune.text import Encoded

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from transformers import PreTrainedModel

DIGITS = 6
"""Of the losses in curves."""
Batch = dict[str, Any]


class Item(NamedTuple):
    """A row of the run with the number of its cell."""

    row: Encoded
    cell: int


class Collate:
    """Makes a batch of items: padded on the right, labels on what is trained."""

    def __init__(self, pad: int, *, answers_only: bool) -> None:
        self._pad = pad
        self._answers_only = answers_only

    def __call__(self, items: Sequence[Item]) -> Batch:
        """`input_ids`, `attention_mask`, `labels`, and `cells` by row."""
        import torch

        width = -(-max(len(item.row.ids) for item in items) // 8) * 8
        ids = torch.full((len(items), width), self._pad, dtype=torch.long)
        labels = torch.full((len(items), width), IGNORED, dtype=torch.long)
        mask = torch.zeros((len(items), width), dtype=torch.long)
        for line, item in enumerate(items):
            own = torch.from_numpy(item.row.ids).long()
            begin = item.row.prompt if self._answers_only else 0
            ids[line, : len(own)] = own
            mask[line, : len(own)] = 1
            labels[line, begin : len(own)] = own[begin:]
        return {"input_ids": ids, "attention_mask": mask, "labels": labels, "cells": torch.tensor([i.cell for i in items])}


class Course:
    """One run's losses and measurements."""

    def __init__(
        self,
        recipe: Recipe,
        cells: Sequence[str],
        held_out: Sequence[Item],
        collate: Collate,
        ledger: Ledger,
        observe: Observer,
        token_weights: TokenWeights | None,
    ) -> None:
        """`cells` are the names by number; `held_out` the rows to measure on; `ledger` what was measured before."""
        self.recipe = recipe
        self.ledger = ledger
        self.steps = 0
        self._cells = tuple(cells)
        self._held_out = tuple(held_out)
        self._collate = collate
        self._observe = observe
        self._token_weights = token_weights
        self._sums: torch.Tensor | None = None
        self._balance = self._weights()

    @property
    def balance(self) -> list[float]:
        """The cells' weights as they stand."""
        return self._balance

    def whole(self, batches: Sequence[Batch], device: torch.device, accelerator: Accelerator) -> torch.Tensor:
        """Trained tokens and rows by cell of an optimizer step's batches on all processes."""
        found = sum(counts(batch["labels"].to(device), batch["cells"].to(device), len(self._cells)) for batch in batches)
        reduced: torch.Tensor = accelerator.reduce(found, "sum")
        return reduced

    def loss(self, model: PreTrainedModel, batch: Batch, whole: torch.Tensor, accelerator: Accelerator) -> torch.Tensor:
        """What this batch adds to the step's loss. Times the number of processes, over whom gradients are averaged."""
        import torch

        labels, cells = batch["labels"], batch["cells"]
        losses, rows = forward(model, batch)
        weights = self._weighed(model, batch, losses.detach(), rows, accelerator)
        balance = torch.tensor(self._balance, dtype=torch.float64, device=labels.device)
        coefficients = row_coefficients(self.recipe.loss, whole, balance, cells, trained_tokens(labels))
        self._add(sums_by_cell(losses, rows, cells, len(self._cells)))
        processes: int = accelerator.num_processes
        return batch_loss(losses, rows, coefficients, weights) * processes

    def before_step(self, model: PreTrainedModel, step: int, accelerator: Accelerator) -> None:
        """Measure for CoBa where it is its turn."""
        if self.recipe.balance == "coba" and step % self.recipe.coba.every == 0:
            turn = len(self.ledger.balance)
            losses = self._measure(model, self._few(turn), accelerator)
            line = tuple(losses.get(cell, 0.0) for cell in self._cells)
            self.ledger = self.ledger.model_copy(update={"balance": (*self.ledger.balance, line)})
            self._balance = self._weights()

    def after_step(self, step: int, accelerator: Accelerator) -> None:
        """Add a point to the training curve where it is its turn, and tell the observer."""
        if step % self.recipe.log_every == 0 or step == self.steps:
            losses = self._by_cell(self._gathered(accelerator))
            self._sums = None
            self.ledger = self.ledger.model_copy(update={"training": (*self.ledger.training, Point(step=step, losses=losses))})
        self.tell("training", step)

    def measure(self, model: PreTrainedModel, step: int, accelerator: Accelerator) -> float:
        """Measure on all held-out rows; the mean over cells."""
        self.tell("measuring", step)
        losses = self._measure(model, self._held_out, accelerator)
        self.ledger = self.ledger.with_held_out(step, losses, self.recipe.early_stop)
        self.tell("training", step)
        return mean_over_cells(losses)

    def entry(self, step: int, accelerator: Accelerator) -> Ledger:
        """The ledger to store with a checkpoint. From here on the first process holds all sums, as it does after a resume."""
        whole = self._gathered(accelerator)
        self._sums = whole if accelerator.is_main_process else None
        self.ledger = self.ledger.model_copy(update={"step": step, "sums": tuple(whole.flatten().tolist())})
        return self.ledger

    def resumed(self, device: torch.device, accelerator: Accelerator) -> None:
        """Take up the sums of the ledger."""
        import torch

        if self.ledger.sums and accelerator.is_main_process:
            self._sums = torch.tensor(self.ledger.sums, dtype=torch.float64, device=device).reshape(2, -1)

    def tell(self, phase: Any, step: int, note: str = "") -> None:  # noqa: ANN401 - Progress checks it
        """Tell the observer where the run stands."""
        training, held_out = self.ledger.training[-1:], self.ledger.held_out[-1:]
        self._observe(
            Progress(
                phase=phase,
                step=step,
                steps=self.steps,
                losses=training[0].losses if training else {},
                held_out=held_out[0].losses if held_out else {},
                note=note,
            )
        )

    def _weights(self) -> list[float]:
        """The cells' weights in the task mean."""
        options = self.recipe.coba
        if self.recipe.balance == "none" or not self.ledger.balance:
            return [1.0] * len(self._cells)
        return coba_weights(self.ledger.balance, warm_up=options.warm_up, window=options.window, tau=options.tau)

    def _weighed(
        self, model: PreTrainedModel, batch: Batch, losses: torch.Tensor, rows: torch.Tensor, accelerator: Accelerator
    ) -> torch.Tensor | None:
        """The tokens' weights, where the caller brings some."""
        import torch

        if self._token_weights is None:
            return None
        bare = accelerator.unwrap_model(model)
        training = bare.training
        bare.eval()
        with torch.no_grad(), bare.disable_adapter():
            reference, _ = forward(bare, batch)
        bare.train(training)
        first = torch.searchsorted(rows, torch.arange(len(batch["labels"]), device=rows.device))
        places = torch.arange(len(rows), device=rows.device) - first[rows]
        return self._token_weights(losses, reference, places).detach()

    def _few(self, turn: int) -> list[Item]:
        """CoBa's rows of one measurement: some of every cell, others each time."""
        wanted = self.recipe.coba.rows_per_cell
        out: list[Item] = []
        for cell in range(len(self._cells)):
            own = [item for item in self._held_out if item.cell == cell]
            out += [own[(turn * wanted + i) % len(own)] for i in range(min(wanted, len(own)))]
        return out

    def _measure(self, model: PreTrainedModel, items: Sequence[Item], accelerator: Accelerator) -> dict[str, float]:
        """Mean loss per token by cell, without dropout, the rows dealt out to the processes."""
        import torch

        mine = items[accelerator.process_index :: accelerator.num_processes]
        sums = torch.zeros(2, len(self._cells), dtype=torch.float64, device=accelerator.device)
        training = model.training
        model.eval()
        with torch.no_grad():
            for start in range(0, len(mine), self.recipe.batch):
                batch = {k: v.to(accelerator.device) for k, v in self._collate(mine[start : start + self.recipe.batch]).items()}
                losses, rows = forward(model, batch)
                sums += sums_by_cell(losses, rows, batch["cells"], len(self._cells))
        model.train(training)
        return self._by_cell(accelerator.reduce(sums, "sum"))

    def _add(self, sums: torch.Tensor) -> None:
        self._sums = sums if self._sums is None else self._sums + sums

    def _gathered(self, accelerator: Accelerator) -> torch.Tensor:
        import torch

        empty = torch.zeros(2, len(self._cells), dtype=torch.float64, device=accelerator.device)
        reduced: torch.Tensor = accelerator.reduce(empty if self._sums is None else self._sums, "sum")
        return reduced

    def _by_cell(self, sums: torch.Tensor) -> dict[str, float]:
        losses, tokens = sums.tolist()
        if lost := [cell for cell, loss in zip(self._cells, losses, strict=True) if not math.isfinite(loss)]:
            raise RecipeError(
                "the training has diverged: its loss is not a finite number any more",
                expected="a loss that falls",
                found=f"none for {', '.join(lost)}",
                mend="lower lr or max_grad_norm, raise warmup_ratio, or train with another dtype",
            )
        return {cell: round(loss / count, DIGITS) for cell, loss, count in zip(self._cells, losses, tokens, strict=True) if count}


def forward(model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses of a batch's trained tokens, and the row that each belongs to."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    return token_losses(logits, batch["labels"])
