"""What a run has measured so far: it stands in every checkpoint, so that a resumed run tells the same story.

In: sums of losses by cell, held-out losses, CoBa's measurements. Out: curves, the best step, and whether to stop.
"""

from __future__ import annotations

from gate.finetune.recipe import EarlyStop
from gate.records import Record


class Point(Record):
    """Losses by cell at a step: of training, the mean over the steps since the last point. A cell without tokens is absent."""

    step: int
    losses: dict[str, float]


class Ledger(Record):
    """The measurements of a run up to a step."""

    step: int = 0
    sums: tuple[float, ...] = ()
    """Losses and tokens by cell since the last point of the training curve: first all sums, then all counts."""
    training: tuple[Point, ...] = ()
    held_out: tuple[Point, ...] = ()
    best: float | None = None
    """The least mean over cells of the held-out losses."""
    best_step: int = 0
    worse: int = 0
    """Measurements since one that was enough better than the best before it."""
    stopped: bool = False
    """Whether the early stop has ended the run at this step."""
    balance: tuple[tuple[float, ...], ...] = ()
    """CoBa's measurements, by cell."""

    def with_held_out(self, step: int, losses: dict[str, float], rule: EarlyStop | None) -> Ledger:
        """The ledger after a measurement on the held-out rows."""
        mean = mean_over_cells(losses)
        better = self.best is None or mean < self.best
        enough = self.best is None or mean < self.best - (rule.min_gain if rule else 0.0)
        worse = 0 if enough else self.worse + 1
        return self.model_copy(
            update={
                "held_out": (*self.held_out, Point(step=step, losses=losses)),
                "best": mean if better else self.best,
                "best_step": step if better else self.best_step,
                "worse": worse,
                "stopped": rule is not None and worse >= rule.patience,
            }
        )


def mean_over_cells(losses: dict[str, float]) -> float:
    """Every cell counts the same."""
    return sum(losses.values()) / len(losses)
