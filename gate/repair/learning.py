"""An adapter whose losses and gradients can be asked for: an adapter, its base and two files of rows come in, numbers go out.

The losses are means over the answers' tokens in evaluation mode, so that the same point has the same loss. Nothing is stepped
here: the caller sets the point.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gate.endpoints.hf_load import load_model, resolve_device, resolve_dtype
from gate.endpoints.hf_text import HfText
from gate.finetune.data import Example, load_data
from gate.finetune.losses import IGNORED, token_losses
from gate.finetune.recipe import Recipe
from gate.finetune.recipe import Source as Table
from gate.finetune.text import Encoded, Writer
from gate.records import Candidate
from gate.repair.tensors import Adapter, Factors

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

ROWS: Final = 128
"""Rows of each file that losses are taken over, drawn evenly over its tasks."""
BATCH: Final = 32


@dataclass
class Learner:
    """The model with its adapter, at some point."""

    model: PeftModel
    refusals: Sequence[Encoded]
    retain: Sequence[Encoded]
    _reference: list[torch.Tensor] | None = None

    @classmethod
    def load(cls, candidate: Candidate, base: Candidate, safety: Path, retain: Path, device: str, seed: int) -> Learner:
        """Load the weights and tokenise the rows."""
        from peft import PeftModel

        where = resolve_device(device)
        text = HfText(candidate)
        writer = Writer(text, "chat", text.stop_ids(None))
        refusals, kept = (writer.encode(rows_of(file, seed), lambda _: None) for file in (safety, retain))
        model = PeftModel.from_pretrained(
            load_model(base, where, resolve_dtype("auto", where)), candidate.path, local_files_only=True, is_trainable=True
        ).to(where)
        return cls(model.eval(), refusals, kept)

    def vector(self) -> torch.Tensor:
        """The point: every factor in one vector, in float32."""
        import torch

        return torch.cat([p.detach().float().flatten() for p in self._parameters()])

    def set(self, theta: torch.Tensor) -> None:
        """Go to a point."""
        import torch

        with torch.no_grad():
            start = 0
            for parameter in self._parameters():
                end = start + parameter.numel()
                parameter.copy_(theta[start:end].view_as(parameter))
                start = end

    def refusal_loss(self) -> float:
        """Mean loss of the refusals' tokens."""
        return self._loss(self.refusals)

    def retain_loss(self) -> float:
        """Mean loss of the retained answers' tokens."""
        return self._loss(self.retain)

    def aligned_refusal_loss(self) -> float:
        """The refusals' loss of the base without the adapter."""
        with self.model.disable_adapter():
            return self._loss(self.refusals)

    def refusal_gradient(self) -> torch.Tensor:
        """Of the refusals' loss, at the point."""
        return self._gradient(self.refusals)

    def retain_gradient(self, batch: int = 0, batches: int = 1) -> torch.Tensor:
        """Of the retained loss, over every `batches`-th row from `batch` on."""
        return self._gradient(self.retain[batch::batches])

    def remember(self) -> None:
        """Take the retained answers' distributions at this point as what `divergence` compares with."""
        import torch

        with torch.no_grad():
            self._reference = [self._log_probabilities(rows) for rows in _batches(self.retain)]

    def divergence(self) -> float:
        """Mean KL divergence of the remembered distributions from those at this point, over the retained answers' tokens."""
        import torch

        assert self._reference is not None
        total, tokens = 0.0, 0
        with torch.no_grad():
            for rows, before in zip(_batches(self.retain), self._reference, strict=True):
                now = self._log_probabilities(rows)
                total += float((before.exp() * (before - now)).sum())
                tokens += before.shape[0]
        return total / tokens

    def factors(self, like: Adapter) -> dict[str, Factors]:
        """The adapter's factors at this point, under the names of `like`."""
        from peft import get_peft_model_state_dict

        state: dict[str, Any] = get_peft_model_state_dict(self.model, save_embedding_layers=False)

        def now(module: str, part: str, old: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = state[f"base_model.model.{module}.lora_{part}.weight"]
            return found.detach().to("cpu", old.dtype)

        return {m: replace(f, a=now(m, "A", f.a), b=now(m, "B", f.b)) for m, f in like.factors.items()}

    def _parameters(self) -> list[torch.nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def _loss(self, rows: Sequence[Encoded]) -> float:
        import torch

        with torch.no_grad():
            found = [self._token_losses(part) for part in _batches(rows)]
        return sum(float(losses.sum()) for losses in found) / sum(map(len, found))

    def _gradient(self, rows: Sequence[Encoded]) -> torch.Tensor:
        import torch

        parameters, tokens = self._parameters(), 0
        total = torch.zeros_like(self.vector())
        for part in _batches(rows):
            losses = self._token_losses(part)
            found = torch.autograd.grad(losses.sum(), parameters)
            total += torch.cat([g.detach().float().flatten() for g in found])
            tokens += len(losses)
        return total / tokens

    def _token_losses(self, rows: Sequence[Encoded]) -> torch.Tensor:
        ids, mask, labels = self._padded(rows)
        losses, _ = token_losses(self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits, labels)
        return losses

    def _log_probabilities(self, rows: Sequence[Encoded]) -> torch.Tensor:
        """Log-probabilities of the whole vocabulary at every place that foretells an answer's token."""
        ids, mask, labels = self._padded(rows)
        logits: torch.Tensor = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return logits[:, :-1][labels[:, 1:] != IGNORED].float().log_softmax(dim=-1)

    def _padded(self, rows: Sequence[Encoded]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Ids, mask and labels of a batch, padded on the right."""
        import torch

        width = max(len(row.ids) for row in rows)
        ids = torch.zeros((len(rows), width), dtype=torch.long)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
        for place, row in enumerate(rows):
            own = torch.tensor(row.ids.tolist())
            ids[place, : len(own)], mask[place, : len(own)] = own, 1
            labels[place, row.prompt : len(own)] = own[row.prompt :]
        where = self.model.device
        return ids.to(where), mask.to(where), labels.to(where)


def rows_of(file: Path, seed: int) -> list[Example]:
    """At most `ROWS` rows of a file, evenly over its tasks, drawn by the seed. Raises `RecipeError` for a bad row."""
    table = Table(path=str(file.resolve()), task="any")
    recipe = Recipe(schema_version="taskgate/recipe/v1", name="rows", base="none", data=(table,))
    by_cell: dict[str, list[Example]] = {}
    for example in load_data(recipe).examples:
        by_cell.setdefault(example.cell, []).append(example)
    rng = random.Random(seed)
    for examples in by_cell.values():
        rng.shuffle(examples)
    rounds = max(map(len, by_cell.values()), default=0)
    dealt = [cell[turn] for turn in range(rounds) for _, cell in sorted(by_cell.items()) if turn < len(cell)]
    return dealt[:ROWS]


def _batches(rows: Sequence[Encoded]) -> Iterator[Sequence[Encoded]]:
    for start in range(0, len(rows), BATCH):
        yield rows[start : start + BATCH]
