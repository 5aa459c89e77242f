"""What the guard's counters say before anything was counted: a series that appears with its first count has not increased."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from guard_server.labels import TASKS, Direction
from tests.conftest import ROOT
from tests.guard.app_client import HARMFUL, HARMLESS, client, held, make_app, metric
from tests.guard.tiny_bundle import NOT_A_NUMBER, write_tiny_bundle

RULES = ROOT / "helm" / "taskgate" / "rules" / "taskgate.yml"
SECONDS = 30.0


def counters_of_the_alerts() -> set[str]:
    """The counters that the rules take a rate or an increase of."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return {name for g in groups for rule in g["rules"] for name in re.findall(r"\bguard_\w+_total\b", rule["expr"])}


def series(app: TestClient) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """What the alerts count, with its value: no probe, no fault of the caller, no decision without a score."""
    names, found = counters_of_the_alerts(), {}
    for sample in (s for f in text_string_to_metric_families(app.get("/metrics").text) for s in f.samples):
        of = sample.labels
        probe = of.get("route") in {"/healthz", "/readyz", "/metrics"}
        if sample.name in names and not probe and not of.get("code", "").startswith("4") and of.get("reason") != "failure":
            found[sample.name, frozenset(of.items())] = sample.value
    return found


@contextmanager
def announced(app: TestClient) -> Iterator[None]:
    """Nothing is counted yet; then whatever is counted inside was there before at 0, and something is."""
    before = series(app)
    assert set(before.values()) == {0.0}
    yield
    counted = {key for key, value in series(app).items() if value}
    assert counted
    assert not counted - before.keys()


def wait(until: Callable[[], bool]) -> None:
    """Until it is so."""
    end = time.monotonic() + SECONDS
    while not until():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_first_count_is_an_increase(tiny_bundle: Path) -> None:
    """Decisions, the model's failure closed and open, and an administrator's error: each series was at 0 from the start."""
    with client(tiny_bundle) as app, announced(app):
        for route, body in (("/v1/screen", {"texts": [HARMFUL, HARMLESS]}), ("/v1/moderations", {"input": HARMFUL})):
            assert app.post(route, json=body).status_code == 200
        assert app.post("/v1/screen", json={"texts": NOT_A_NUMBER}).status_code == 500
        assert app.post("/v1/screen", json={"texts": NOT_A_NUMBER, "policy": "observe"}).status_code == 200
        text = app.get("/metrics").text
        assert metric(text, "guard_requests_total", route="/v1/screen", code="500") == 1
        assert metric(text, "guard_failures_total", kind="inference_failed", action="open") == 1


def test_a_first_refusal_for_want_of_time_or_room_is_an_increase(tiny_bundle: Path) -> None:
    """503 before a bundle is loaded and with every permit taken, 504 past the deadline."""
    unloaded = TestClient(make_app(tiny_bundle))  # without its lifespan
    with announced(unloaded):
        assert unloaded.post("/v1/screen", json={"texts": "a"}).status_code == 503
    with client(tiny_bundle, deadline_seconds=1e-6) as app, announced(app):
        assert app.post("/v1/screen", json={"texts": "a"}).status_code == 504
    hold = threading.Event()
    with client(tiny_bundle, held(hold), max_requests=1) as app, ThreadPoolExecutor(1) as pool, announced(app):
        hold.set()
        first = pool.submit(app.post, "/v1/screen", json={"texts": HARMFUL})
        wait(lambda: metric(app.get("/metrics").text, "guard_requests_in_flight") == 1)
        assert app.post("/v1/screen", json={"texts": HARMFUL}).status_code == 503
        hold.clear()
        assert first.result().status_code == 200


def test_a_shadows_first_disagreement_is_an_increase(tmp_path: Path) -> None:
    """A text that the shadow lets pass, and one that both do."""
    lenient = [
        {"direction": d, "task": t, "target_fpr": f, "segments": [1], "at": [1.0], "benign": 100}
        for d, t, f in product(Direction, TASKS, (0.05, 0.01))
    ]
    one = write_tiny_bundle(tmp_path / "one", name="one")
    two = write_tiny_bundle(tmp_path / "two", name="two", thresholds=lenient)
    with client(one, shadow_bundle=two) as app, announced(app):
        assert app.post("/v1/screen", json={"texts": [HARMFUL, HARMLESS]}).json()["decision"] == "block"
        wait(lambda: metric(app.get("/metrics").text, "guard_shadow_comparisons_total") == 2)
        assert metric(app.get("/metrics").text, "guard_shadow_comparisons_total", agreement="block_to_allow") == 1


def test_what_is_at_0_from_the_start_is_bounded(tiny_bundle: Path) -> None:
    """Some hundred series, among them the refusal that no route has yet, and a comparison that failed."""
    with client(tiny_bundle) as app:
        found = series(app)
    assert ("guard_requests_total", frozenset({("route", "unknown"), ("code", "503")})) in found
    assert ("guard_shadow_comparisons_total", frozenset({("agreement", "failed")})) in found
    assert len(found) < 150
