"""What a caller may bring to a fine-tune: someone to watch it, and a weight for every trained token.

In: protocols and the record that an observer is given. Nothing here trains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, Protocol

from pydantic import Field

from gate.records import Record

if TYPE_CHECKING:
    import torch

Setting = str | int | float | bool


class Progress(Record):
    """Where a fine-tune stands."""

    phase: Literal["reading", "training", "measuring", "saving", "done"]
    step: int = 0
    steps: int = 0
    losses: dict[str, float] = Field(default_factory=dict)
    """The last point of the training curve, by cell."""
    held_out: dict[str, float] = Field(default_factory=dict)
    """The last measurement on held-out rows, by cell."""
    note: str = ""
    """A sentence for a person; empty when there is nothing to say."""


Observer = Callable[[Progress], None]


class TokenWeights(Protocol):
    """A weight for every trained token's loss, e.g. of token-wise constrained fine-tuning (arXiv 2406.05946).

    Needs an adapter: the reference is the base without it.
    """

    @property
    def name(self) -> str:
        """Stands in the card."""
        ...

    @property
    def settings(self) -> Mapping[str, Setting]:
        """All that the weights depend on; stands in the card and in the recipe's digest."""
        ...

    def __call__(self, losses: torch.Tensor, reference: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """The weights, without gradient.

        `losses` are the tokens' losses under the model as it is, `reference` under its base, `places` their numbers in the
        answer, from 0.
        """
        ...
