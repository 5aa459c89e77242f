"""What a repair method is: a folder comes in with what else the method needs, a repaired folder goes out.

A new method is a module with a class of these members and one line in the table of `gate.repair`. A method decides nothing: the
loop in `repair_pipeline` asks for its settings, has each one made, and puts the outcome through the gate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from gate.errors import UsageError
from gate.records import Candidate, Record

Stage = Literal["serve", "post", "retrain"]
"""What a method changes: how the model is served, its weights without training, or its weights by training."""
Need = Literal["adapter", "aligned", "unaligned", "safety", "retain", "safety-adapter", "recipe"]
Search = Literal["climb", "bisect"]
"""`climb`: every setting in turn until one passes; `bisect`: halving, where safety rises along the settings."""
Value = float | int | bool
Tell = Callable[[int, int], None]
"""Is told how many steps of how many a method has done; one that trains takes a while."""

MEANT: Mapping[Need, str] = {
    "adapter": "a LoRA adapter as the candidate",
    "aligned": "--aligned, the model before fine-tuning",
    "unaligned": "--unaligned, the model before alignment",
    "safety": "--safety, rows of requests with refusals",
    "retain": "--retain, rows of what must stay as it is",
    "safety-adapter": "--safety-adapter, a LoRA adapter that was trained to refuse",
    "recipe": "--recipe, the recipe of the fine-tuning",
}
"""What each need is, and how the command is given it."""


class Setting(Record):
    """One point of a method's range."""

    values: dict[str, Value]

    @property
    def label(self) -> str:
        """The values in words: `alpha = 0.25`."""
        return ", ".join(f"{name} = {value if isinstance(value, bool) else f'{value:g}'}" for name, value in self.values.items())

    @property
    def slug(self) -> str:
        """The values as part of a folder's name."""
        return "-".join(f"{n}-{str(v).lower() if isinstance(v, bool) else f'{v:g}'}" for n, v in self.values.items())

    def number(self, name: str, otherwise: float = 0.0) -> float:
        """One value as a number."""
        return float(self.values.get(name, otherwise))

    def flag(self, name: str) -> bool:
        """One value as a yes or no; a value that is not there is a no."""
        return bool(self.values.get(name, False))


@dataclass(frozen=True)
class Source:
    """The candidate to repair, scanned, and what else was given."""

    candidate: Candidate
    aligned: Candidate | None = None
    """The model before fine-tuning: an adapter's base, unless another is given."""
    unaligned: Candidate | None = None
    """The model before alignment: same architecture as `aligned`."""
    safety: Path | None = None
    """JSON Lines of requests with refusals, in the layout of `gate finetune`."""
    retain: Path | None = None
    """JSON Lines of requests with the answers to keep, in the same layout."""
    safety_adapter: Candidate | None = None
    recipe: Path | None = None
    device: str = "auto"
    seed: int = 0
    """Of whatever a method draws."""

    def lacking(self, needs: Sequence[Need]) -> tuple[str, ...]:
        """What of `needs` was not given, in words."""
        there: dict[Need, bool] = {
            "adapter": self.candidate.kind == "adapter",
            "aligned": self.aligned is not None,
            "unaligned": self.unaligned is not None,
            "safety": self.safety is not None,
            "retain": self.retain is not None,
            "safety-adapter": self.safety_adapter is not None,
            "recipe": self.recipe is not None,
        }
        return tuple(MEANT[need] for need in needs if not there[need])


class Method(Protocol):
    """One way to repair a candidate."""

    name: str
    """As the command and the records name it."""
    title: str
    """What it does, in a few words, with the paper it comes from."""
    stage: Stage
    needs: tuple[Need, ...]
    search: Search
    experimental: bool
    keys: tuple[str, ...]
    """What a setting of the method may say; a number that is left out is the method's own, a yes-or-no that is, no."""

    def unfit(self, source: Source) -> str:
        """Why this candidate can't be repaired so, though nothing lacks; empty when it can be tried."""
        ...

    def settings(self) -> tuple[Setting, ...]:
        """The settings to try: the smallest change to the candidate first."""
        ...

    def apply(self, source: Source, setting: Setting, out: Path, tell: Tell) -> Path:
        """Write the repaired folder to `out`, whole or not at all; returns `out`. Safetensors alone; the source is left as it is.

        Raises `CandidateError` where the files don't fit together.
        """
        ...


def setting_of(method: Method, given: Mapping[str, Value]) -> Setting:
    """A setting with the given values, which are keys of the method. Raises `UsageError` for one that it does not have."""
    if strange := sorted(set(given) - set(method.keys)):
        raise UsageError(
            f"the method {method.name} has no setting {', '.join(strange)}",
            expected=", ".join(method.keys) or "none: it has no settings",
            mend="correct --setting",
        )
    return Setting(values=dict(given))


def need(value: Candidate | None) -> Candidate:
    """A model that the loop has seen to be there."""
    if value is None:
        raise AssertionError("a method was applied without what it needs")
    return value


def need_file(value: Path | None) -> Path:
    """A file that the loop has seen to be given."""
    if value is None:
        raise AssertionError("a method was applied without what it needs")
    return value
