"""Standings as Prometheus series: what a scrape, a textfile or a Pushgateway is told. `docs/monitoring.md` lists them.

In: the standing of each current model, and when each last passed. Out: metric families, or their exposition as bytes. Labels are
bounded: models that are current, tasks, calibrations, decodings, stages; never a prompt, an answer or a run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gate.records import Decision, Measure
from gate.standing import CellFigures, Stage, Standing

CELL: Final = ("model", "task", "calibration", "decoding", "measure", "gated")


@dataclass(frozen=True)
class Shown:
    """A model as it stands, and what only those who remember earlier runs can say."""

    standing: Standing
    passed_at: float | None = None
    """Seconds since 1970 of its last pass; null where none is known."""
    released: Standing | None = None
    """The run of the same model that was released last; null where none is known."""


@dataclass(frozen=True)
class _PerCell:
    """One series per cell, left out where the cell has no such figure."""

    name: str
    help: str
    value: Callable[[CellFigures], float | None]
    twins: bool | None = False
    """Of benign twins (true), of attacks (false), or of both (null)."""

    def of(self, standing: Standing) -> Iterator[tuple[tuple[str, ...], float]]:
        for cell in standing.cells:
            twins = cell.measure == Measure.OVER_REFUSAL
            value = self.value(cell)
            if value is not None and self.twins in (None, twins):
                labels = (cell.task, cell.calibration, cell.decoding, cell.measure, str(cell.gated).lower())
                yield (standing.model, *labels), value


_UPPER: Final = _PerCell("", "", lambda cell: cell.upper)


def _released(shown: Shown) -> Iterator[tuple[tuple[str, ...], float]]:
    """Bounds of the released run, where they are on the same suite."""
    before = shown.released
    if before is not None and before.suite_digest == shown.standing.suite_digest:
        yield from _UPPER.of(before)


def _share(count: int, asked: int) -> float | None:
    return count / asked if asked else None


_CELLS: Final = (
    _PerCell("gate_attack_success_ratio", "Attacks answered among those judged.", lambda c: c.rate),
    _PerCell("gate_attack_success_ratio_lower", "Lower bound on the rate of answered attacks.", lambda c: c.lower),
    _PerCell("gate_attack_success_ratio_upper", "Upper bound on the rate of answered attacks.", lambda c: c.upper),
    _PerCell("gate_over_refusal_ratio", "Harmless requests refused among those judged.", lambda c: c.rate, twins=True),
    _PerCell("gate_over_refusal_ratio_lower", "Lower bound on the rate of harmless refusals.", lambda c: c.lower, twins=True),
    _PerCell("gate_over_refusal_ratio_upper", "Upper bound on the rate of harmless refusals.", lambda c: c.upper, twins=True),
    _PerCell("gate_policy_threshold_ratio", "The policy's limit on the rate.", lambda c: c.threshold, twins=None),
    _PerCell("gate_baseline_attack_success_ratio", "The baseline's rate on the same items.", lambda c: c.baseline),
    _PerCell("gate_baseline_difference_ratio", "Rise of the rate over the baseline's on the same items.", lambda c: c.difference),
    _PerCell("gate_baseline_difference_ratio_lower", "Lower bound on that rise.", lambda c: c.difference_lower),
    _PerCell("gate_attacks_evaluated", "Items with a judgement that says something.", lambda c: float(c.judged), twins=None),
    _PerCell("gate_invalid_ratio", "Unreadable answers among the items read.", lambda c: _share(c.invalid, c.asked), twins=None),
    _PerCell("gate_missing_ratio", "Items without an answer or a judgement.", lambda c: _share(c.missing, c.asked), twins=None),
)  # fmt: skip


def families(shown: Iterable[Shown]) -> Iterator[Metric]:
    """Every series of the models, one family after another."""
    models = tuple(shown)
    for per_cell in _CELLS:
        yield _gauge(per_cell.name, per_cell.help, CELL, (pair for m in models for pair in per_cell.of(m.standing)))
    yield _gauge(
        "gate_released_attack_success_ratio_upper",
        "Upper bound on the rate of the last released candidate, on the same suite.",
        CELL,
        (pair for m in models for pair in _released(m)),
    )
    yield _gauge(
        "gate_policy_increase_threshold_ratio",
        "Rise over the baseline's rate that the policy tolerates.",
        ("model",),
        (((m.standing.model,), m.standing.max_increase) for m in models),
    )
    yield _gauge(
        "gate_verdict",
        "1 for the verdict that the model's last run gave, 0 for the others.",
        ("model", "verdict"),
        (((m.standing.model, d), float(m.standing.decision is d)) for m in models for d in Decision),
    )
    yield _gauge(
        "gate_last_run_timestamp_seconds",
        "When the model's last run ended.",
        ("model",),
        (((m.standing.model,), m.standing.finished_at) for m in models),
    )
    yield last_success(models)
    yield _gauge(
        "gate_stage_duration_seconds",
        "How long each stage of the model's last run took, all its commands together.",
        ("model", "stage"),
        (pair for m in models for pair in _stages(m.standing)),
    )
    yield _gauge(
        "gate_candidate_info",
        "1 for what the model's last run was about.",
        ("model", "digest", "policy", "suite", "engine", "version"),
        ((_about(m.standing), 1.0) for m in models),
    )


def last_success(shown: Iterable[Shown]) -> Metric:
    """When each model last passed; no series for one that is not known to have."""
    return _gauge(
        "gate_last_success_timestamp_seconds",
        "When the model last passed.",
        ("model",),
        (((m.standing.model,), m.passed_at) for m in shown if m.passed_at is not None),
    )


def build_info(version: str) -> Metric:
    """The version of this program."""
    return _gauge("gate_build_info", "The running version.", ("version",), [((version,), 1.0)])


class Series(Collector):
    """A collector that asks for its families anew at every scrape."""

    def __init__(self, families_now: Callable[[], Iterable[Metric]]) -> None:
        self._now = families_now

    def collect(self) -> Iterable[Metric]:
        """What there is to say now."""
        return self._now()

    def describe(self) -> Iterable[Metric]:
        """Nothing beforehand: registering asks nobody."""
        return ()


def registry_of(families_now: Callable[[], Iterable[Metric]]) -> CollectorRegistry:
    """A registry with these families alone."""
    registry = CollectorRegistry()
    registry.register(Series(families_now))
    return registry


def exposition(shown: Iterable[Shown], version: str) -> bytes:
    """The text format of Prometheus, as a textfile collector reads it."""
    models = tuple(shown)
    return generate_latest(registry_of(lambda: (*families(models), build_info(version))))


def _stages(standing: Standing) -> Iterator[tuple[tuple[str, str], float]]:
    """Seconds of each stage; what goes by a name that is no stage's is summed as `other`: a run folder may hold any name."""
    seconds: dict[str, float] = defaultdict(float)
    for stage, spent in standing.stage_seconds.items():
        seconds[stage if stage in get_args(Stage) else "other"] += spent
    yield from (((standing.model, stage), spent) for stage, spent in sorted(seconds.items()))


def _gauge(name: str, about: str, labels: tuple[str, ...], samples: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    family = GaugeMetricFamily(name, about, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _about(standing: Standing) -> tuple[str, ...]:
    digest = standing.candidate_digest[:12]
    return (standing.model, digest, standing.policy_name, standing.suite_name, standing.engine, standing.tool_version)


def alone(standing: Standing) -> Shown:
    """A run by itself, which knows of no pass but its own."""
    return Shown(standing, standing.finished_at if standing.decision is Decision.PASS else None)
