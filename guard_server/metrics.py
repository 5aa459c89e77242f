"""The guard's Prometheus metrics, one registry an app. Labels are bounded (tasks, routes, kinds): never text, keys or ids."""

from collections.abc import Iterable
from itertools import product
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from guard_server import __version__
from guard_server.batching import DropReason
from guard_server.labels import Decision, Direction, Task
from guard_server.policy import OnFailure
from guard_server.screening import Screened

LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SCORE = (*(round(i / 20, 2) for i in range(1, 20)), 0.99)
SEGMENTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def agreement(ours: Decision, other: Decision) -> str:
    """How the shadow bundle's decision on a text compares with the one that was answered."""
    return "same" if other is ours else f"{ours}_to_{other}"


class Metrics:
    """Every series the guard exposes; also the observer of the queue (`batching.QueueObserver`)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._models: set[str] = set()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self._requests(self.registry)
        self._texts(self.registry)
        self._engine(self.registry)
        self._bundles(self.registry)
        Info("guard_build", "The running version.", registry=self.registry).info({"version": __version__})

    def _requests(self, r: CollectorRegistry) -> None:
        self.requests = Counter("guard_requests", "HTTP requests by route and status.", ["route", "code"], registry=r)
        self.request_seconds = Histogram(
            "guard_request_duration_seconds",
            "From the request's head to the answer's end.",
            ["route"],
            buckets=LATENCY,
            registry=r,
        )

    def _texts(self, r: CollectorRegistry) -> None:
        self.decisions = Counter(
            "guard_decisions", "Screened texts by direction, task and decision; reason: score or failure.",
            ["direction", "task", "decision", "reason"], registry=r,
        )  # fmt: skip
        self.score = Histogram(
            "guard_score", "Calibrated score of the worst segment of each text.", ["direction", "task"], buckets=SCORE, registry=r
        )
        self.segments = Histogram("guard_segments", "Segments (windows of views) scored per text.", buckets=SEGMENTS, registry=r)
        self.views = Counter("guard_views", "Decoded views that were scored, by kind.", ["view"], registry=r)
        self.views_skipped = Counter("guard_views_skipped", "Views that a bound left unread, by kind.", ["view"], registry=r)
        self.prepare_seconds = Histogram(
            "guard_prepare_duration_seconds", "Making views, windows and token ids of a request.", buckets=LATENCY, registry=r
        )

    def _engine(self, r: CollectorRegistry) -> None:
        self.inference_seconds = Histogram(
            "guard_inference_duration_seconds", "Inference of one segment or batch.", ["model"], buckets=LATENCY, registry=r
        )
        self.queue_seconds = Histogram(
            "guard_queue_duration_seconds", "Waiting for a session.", ["model"], buckets=LATENCY, registry=r
        )
        self.scored_segments = Counter("guard_scored_segments", "Segments scored.", ["model"], registry=r)
        self.scored_tokens = Counter("guard_scored_tokens", "Tokens scored.", ["model"], registry=r)
        self.queue_segments = Gauge("guard_queue_segments", "Segments waiting for a session.", ["model"], registry=r)
        self.queue_tokens = Gauge("guard_queue_tokens", "Tokens waiting for a session.", ["model"], registry=r)
        self.dropped = Counter("guard_dropped", "Segments that left the queue unscored.", ["model", "reason"], registry=r)
        self._of_models = (
            self.inference_seconds, self.queue_seconds, self.scored_segments, self.scored_tokens,
            self.queue_segments, self.queue_tokens,
        )  # fmt: skip
        self.unread = Counter(
            "guard_unread_parts", "Parts of requests that hold no text and were not screened.", ["kind"], registry=r
        )
        self.in_flight = Gauge("guard_requests_in_flight", "Permits taken.", registry=r)
        self.shed = Counter("guard_shed", "Requests or items refused for want of a permit or of room.", registry=r)
        self.failures = Counter(
            "guard_failures", "Texts that could not be screened, and what was done.", ["kind", "action"], registry=r
        )

    def _bundles(self, r: CollectorRegistry) -> None:
        self.model_info = Gauge(
            "guard_model_info", "1 for each loaded bundle.", ["slot", "model", "version", "digest", "verified"], registry=r
        )
        self.reloads = Counter("guard_reloads", "Bundle reloads by outcome.", ["outcome"], registry=r)
        self.shadow = Counter(
            "guard_shadow_comparisons", "Texts scored by both bundles, by agreement of the decision.", ["agreement"], registry=r
        )
        self.shadow_difference = Histogram(
            "guard_shadow_score_difference", "Absolute difference of the two bundles' scores.",
            buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0), registry=r,
        )  # fmt: skip
        self.stream_released = Histogram(
            "guard_stream_released_characters", "Characters that had left before a stream was blocked.",
            buckets=(0, 100, 500, 1000, 5000, 20000), registry=r,
        )  # fmt: skip

    def expect(self, routes: Iterable[str], failed: Iterable[int], failures: Iterable[str]) -> None:
        """Expose at 0 each series that the alerts count: one that appears with its first count has not increased.

        `routes` count against the error budget, `failed` are the statuses of server errors, `failures` what `on_failure` is for.
        """
        for route, code in (*product(routes, (200, *failed)), *(("unknown", code) for code in failed)):
            self.requests.labels(route, str(code))
        for kind, action in product(failures, get_args(OnFailure)):
            self.failures.labels(kind, action)
        for direction, task, decision in product(Direction, Task, Decision):
            self.decisions.labels(direction, task, decision, "score")
        for ours, other in product(Decision, Decision):
            self.shadow.labels(agreement(ours, other))
        self.shadow.labels("failed")

    def observe(self, found: Screened, direction: Direction) -> None:
        """One screened text."""
        self.decisions.labels(direction, found.task, found.decision, "score").inc()
        self.score.labels(direction, found.task).observe(found.score)
        self.segments.observe(found.segments)
        # A view found inside another is counted for each, so that the label has as many values as there are decoders.
        for name in (part for view in found.views for part in view.split("+")):
            self.views.labels(name).inc()
        for name in (part for skipped in found.skipped for part in skipped.view.split("+")):
            self.views_skipped.labels(name).inc()

    def keep_models(self, loaded: set[str]) -> None:
        """Forget the series of bundles that are loaded no more, so that reloads do not add labels for ever."""
        for model in self._models - loaded:
            self._models.discard(model)
            for series in self._of_models:
                series.remove(model)
            for reason in get_args(DropReason):
                self.dropped.remove(model, reason)

    def on_queue(self, model: str, segments: int, tokens: int) -> None:
        """`batching.QueueObserver`: so many wait now."""
        self._models.add(model)
        self.queue_segments.labels(model).set(segments)
        self.queue_tokens.labels(model).set(tokens)

    def on_dropped(self, model: str, segments: int, reason: str) -> None:
        """`batching.QueueObserver`: segments left the queue unscored."""
        self._models.add(model)
        self.dropped.labels(model, reason).inc(segments)

    def on_scored(self, model: str, segments: int, tokens: int, queued: float, inference: float) -> None:
        """`batching.QueueObserver`: one run of the model has ended, seconds."""
        self._models.add(model)
        self.scored_segments.labels(model).inc(segments)
        self.scored_tokens.labels(model).inc(tokens)
        self.queue_seconds.labels(model).observe(queued)
        self.inference_seconds.labels(model).observe(inference)

    def exposition(self) -> bytes:
        """The text format that Prometheus scrapes."""
        return generate_latest(self.registry)
