"""Experimental: lower the loss on refusals along directions that matter little to what must stay.

This is OUR reconstruction of an idea, not the authors' method: Bach et al. (Curvature-aware safety restoration, 2511.18039)
raise the loss on harmful answers by influence functions with an L-BFGS inverse Hessian, and publish neither step counts nor
code that we know of. Here the refusals' loss is lowered instead, which needs no harmful text. One round:

    1  pairs (s, y) of steps along gradients of the retained loss and what they do to them: its curvature, damped
    2  d = −H⁻¹ ∇L_refusal by the two-loop recursion, less its part along ∇L_retain
    3  θ ← θ + η d, η halved until the retained loss has risen by at most `rise` nats a token since the beginning, the answers'
       distribution has moved by a KL divergence of at most `kl`, and the refusals' loss has fallen
    4  end when the refusals' loss is the aligned model's, when no η does, or after `rounds`

In: an adapter, its base, refusals and rows to retain. Out: the same adapter with other factors.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from gate.repair.base import Need, Search, Setting, Source, Stage, Tell, need, need_file
from gate.repair.lbfgs import Pair, curved, inverse_times, without
from gate.repair.tensors import Adapter, unfit_adapter, write_adapter

if TYPE_CHECKING:
    import torch

    from gate.repair.learning import Learner

HALVINGS: Final = 12
STEP: Final = 0.05
"""Length of a step that curvature is read from, in units of the adapter's norm."""
DAMPING: Final = 1e-3


class Rounds(NamedTuple):
    """What the rounds came to."""

    refusal_before: float
    refusal_after: float
    refusal_aligned: float
    retain_before: float
    retain_after: float
    made: int


class Curvature:
    """Descends on refusals where it costs least. See `gate.repair.base.Method`."""

    name = "curvature"
    title = "experimental, our reconstruction of 2511.18039: descend on refusals along flat directions of what must stay"
    stage: Stage = "post"
    needs: tuple[Need, ...] = ("adapter", "aligned", "safety", "retain")
    search: Search = "climb"
    experimental = True
    keys: tuple[str, ...] = ("rise", "kl", "rounds", "pairs")

    def unfit(self, source: Source) -> str:
        """Gradients are taken of LoRA factors."""
        return unfit_adapter(source.candidate)

    def settings(self) -> tuple[Setting, ...]:
        """What the retained loss may rise by, and the divergence: more each time."""
        return tuple(Setting(values={"rise": rise, "kl": 2 * rise}) for rise in (0.01, 0.04, 0.16))

    def apply(self, source: Source, setting: Setting, out: Path, tell: Tell) -> Path:
        """Load, go through the rounds, and write the adapter; what they came to stands in its card."""
        from gate.repair.learning import Learner

        learner = Learner.load(
            source.candidate, need(source.aligned), need_file(source.safety), need_file(source.retain), source.device, source.seed
        )
        found = restore(
            learner,
            rise=setting.number("rise", 0.01),
            kl=setting.number("kl", 0.02),
            rounds=int(setting.number("rounds", 8)),
            pairs=int(setting.number("pairs", 8)),
            tell=tell,
        )
        adapter = Adapter.read(Path(source.candidate.path))
        card = {
            "method": self.name,
            "experimental": True,
            "parent_digest": source.candidate.digest,
            "setting": setting.values,
            "seed": source.seed,
            "came_to": {name: round(value, 6) for name, value in found._asdict().items()},
        }
        return write_adapter(source.candidate, adapter.with_factors(learner.factors(adapter)), out, card)


def restore(learner: Learner, *, rise: float, kl: float, rounds: int, pairs: int, tell: Tell) -> Rounds:
    """Go through the rounds; the learner is left at the best point within the limits."""
    theta = learner.vector()
    retain_start, refusal_start = learner.retain_loss(), learner.refusal_loss()
    aligned = learner.aligned_refusal_loss()
    learner.remember()
    best, made = refusal_start, 0
    while made < rounds and best > aligned:
        tell(made, rounds)
        direction = _direction(learner, theta, pairs)
        moved = _backtrack(learner, theta, direction, best, lambda: learner.retain_loss() - retain_start <= rise, kl)
        if moved is None:
            break
        theta, best = moved
        made += 1
    learner.set(theta)
    tell(rounds, rounds)
    return Rounds(refusal_start, best, aligned, retain_start, learner.retain_loss(), made)


def _direction(learner: Learner, theta: torch.Tensor, pairs: int) -> torch.Tensor:
    """−H⁻¹ ∇L_refusal, orthogonal to ∇L_retain, no longer than the adapter itself."""
    direction = without(-inverse_times(_pairs(learner, theta, pairs), learner.refusal_gradient()), learner.retain_gradient())
    longest = theta.norm()
    shorter: torch.Tensor = direction * (longest / direction.norm()).clamp(max=1.0)
    return shorter


def _pairs(learner: Learner, theta: torch.Tensor, number: int) -> list[Pair]:
    """Pairs from steps along the retained loss's gradient on one batch each; the learner is left at `theta`."""
    found = []
    number = min(number, len(learner.retain))
    for batch in range(number):
        before = learner.retain_gradient(batch, number)
        step = -before * (STEP * theta.norm() / before.norm()) if float(before.norm()) > 0 else before
        learner.set(theta + step)
        after = learner.retain_gradient(batch, number)
        learner.set(theta)
        if (pair := curved(step, before, after, DAMPING)) is not None:
            found.append(pair)
    return found


def _backtrack(
    learner: Learner, theta: torch.Tensor, direction: torch.Tensor, best: float, kept: Callable[[], bool], kl: float
) -> tuple[torch.Tensor, float] | None:
    """The longest step of η = 1, ½, ¼ … that lowers the refusals' loss within the limits; null where none does."""
    for halving in range(HALVINGS):
        moved = theta + direction * 0.5**halving
        learner.set(moved)
        refusal = learner.refusal_loss()
        if refusal < best and kept() and learner.divergence() <= kl:
            return moved, refusal
    learner.set(theta)
    return None
