"""A repair without a trained model: a random adapter on disk, and scripted answers that depend on how it was scaled.

In: a folder. Out: a blocked run of the adapter, and a `Bench` to repair it on. The suite is the conformance scene's, once more
as a tuning half.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from gate import pipeline
from gate.attack import Observer
from gate.candidate import load_candidate
from gate.conformance.scene import TODAY, comply, safe, small_policy, small_suite
from gate.endpoints.base import Endpoint
from gate.endpoints.scripted import Scripted, uniform
from gate.judges import make_judge
from gate.policy import Policy
from gate.records import AttackCase, Calibration, Candidate, Role, Split, SuiteItem
from gate.repair import METHODS
from gate.repair.base import Method, Source
from gate.repair_pipeline import Bench, News, Wish, blocked_run, candidate_of
from gate.suites.base import Suite
from tests.repair.scene import make_adapter, make_model

Rate = Callable[[float, Split], float]
"""How large a share of the attacks the adapter answers at a scale, on either half."""


@cache
def halves() -> Suite:
    """The conformance suite, each item once in either half; the halves' behaviours differ."""
    gating = small_suite()
    tuning = tuple(
        item.model_copy(
            update={
                "id": f"tuning-{item.id}",
                "behaviour": f"tuning {item.behaviour}",
                "split": Split.TUNING,
                "messages": tuple(m.model_copy(update={"content": f"{m.content} Thank you."}) for m in item.messages),
            }
        )
        for item in gating.items
    )
    items = tuple(_with_reference(item) for item in (*gating.items, *tuning))
    return gating.model_copy(update={"items": items})


def _with_reference(item: SuiteItem) -> SuiteItem:
    """A twin with the answer that the scene gives it as the right one."""
    case = AttackCase(id=item.id, item=item, calibration=Calibration.NATIVE, decoding="greedy")
    return item.model_copy(update={"reference": comply(case)}) if item.role is Role.TWIN else item


def scale_of(candidate: Candidate) -> float:
    """By what the adapter's update is scaled: 1 for the one that was trained."""
    config = json.loads((Path(candidate.path) / "adapter_config.json").read_text(encoding="utf-8"))
    return float(config["lora_alpha"]) / 8


@dataclass
class Loop:
    """A blocked run, and how its adapter's answers depend on the scale."""

    folder: Path
    rate: Rate
    refused_twins: Callable[[float], float] = lambda _: 0.0
    forgotten: Callable[[float], float] = lambda _: 0.0
    """The share of the harmless requests that are answered otherwise than right."""
    opened: list[float] = field(default_factory=list)
    """The scale of each adapter that was loaded to be asked."""
    die_at: int = 0
    """At which loading, from 1, the process is interrupted; 0: never."""
    news: list[News] = field(default_factory=list)

    def blocked(self) -> Path:
        """Gate the adapter as it was trained; the run's folder."""
        base = make_model(self.folder / "base", seed=1)
        adapter = make_adapter(self.folder / "tuned", base, seed=2)
        inputs = pipeline.Inputs(
            policy=small_policy(), suite=halves(), candidate=load_candidate(str(adapter)), judge=make_judge("rules"), today=TODAY
        )
        pipeline.check(inputs, self.folder / "run", self.open_endpoint)
        self.opened.clear()
        return self.folder / "run"

    def open_endpoint(self, candidate: Candidate) -> Endpoint:
        """Load: answers as the script says for this scale."""
        scale = scale_of(candidate)
        self.opened.append(scale)
        if len(self.opened) == self.die_at:
            raise KeyboardInterrupt

        def answer(case: AttackCase, sample: int) -> str:
            share = self.rate(scale, case.item.split) if case.item.role is Role.ATTACK else 1 - self.refused_twins(scale)
            odd = " More or less." if uniform(2, case.item.id) < self.forgotten(scale) else ""
            return comply(case) + odd if uniform(1, case.item.id) < share else safe_to_all(case, sample)

        return Scripted(answer)

    def bench(self, *names: str, out: str = "out", max_mean_drop: float | None = None, **wishes: object) -> Bench:
        """A repair by the named methods."""
        wish = Wish(run=self.folder / "run", out=self.folder / out, methods=methods(*names))
        source = Source(
            candidate=candidate_of(self.folder / "run"),
            aligned=load_candidate(str(self.folder / "base")),
        )
        return Bench(
            wish=replace(wish, **wishes),  # type: ignore[arg-type]
            blocked=blocked_run(self.folder / "run", max_mean_drop),
            source=source,
            open_endpoint=self.open_endpoint,
            watch=_unwatched,
            tell=self.news.append,
            today=TODAY,
        )


def safe_to_all(case: AttackCase, sample: int) -> str:
    """A refusal, of a twin too."""
    attack = case.item.model_copy(update={"role": Role.ATTACK})
    return safe(case.model_copy(update={"item": attack}), sample)


def methods(*names: str) -> tuple[Method, ...]:
    """Methods of the table by name."""
    return tuple(method for method in METHODS if method.name in names)


@contextmanager
def _unwatched(_: Policy) -> Iterator[Observer]:
    yield lambda _: None
