"""The gate's figures for Prometheus: what a run folder's metrics.prom says, and what it never holds."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gate import pipeline
from gate.conformance.scene import Model, Scene, complies_with, fails_on, safe, small_policy, unsafe
from gate.errors import InfrastructureError, UsageError
from gate.history.entries import read_entry
from gate.metrics import Shown, alone, exposition
from gate.policy import Baseline
from gate.pushgateway import checked_url, forget, push
from gate.records import Decision
from gate.standing import Standing, Telemetry
from tests.folders import finished_run
from tests.monitoring.programs import answers, process, program, promtool, until
from tests.ports import free_port

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> Samples:
    """Every sample of an exposition, as Prometheus' own parser reads it."""
    return {
        (s.name, frozenset(s.labels.items())): s.value for family in text_string_to_metric_families(text) for s in family.samples
    }


def of(found: Samples, name: str, **labels: str) -> list[float]:
    """Values of the series with these labels, among others."""
    return [value for (known, own), value in found.items() if known == name and labels.items() <= dict(own).items()]


@pytest.fixture(scope="module")
def worse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a model that answers some attacks, against a baseline that answers none."""
    folder = tmp_path_factory.mktemp("worse")
    scene = Scene(folder, policy=small_policy(baseline=Baseline(max_increase=0.02)))
    scene.run(Model("worse", complies_with(5)), baseline=Model("before", safe))
    return folder / "run"


def test_promtool_has_no_complaint(worse: Path) -> None:
    """Names, types and help texts are as Prometheus wants them."""
    done = promtool("check", "metrics", stdin=(worse / "metrics.prom").read_text(encoding="utf-8"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_run_folder_tells_every_figure(worse: Path) -> None:
    """Rate, bounds, limit, baseline, counts, shares, verdict and times of each cell are those of the verdict."""
    standing = read_entry(worse).standing
    found = samples((worse / "metrics.prom").read_text(encoding="utf-8"))
    for cell in standing.cells:
        labels = {"task": cell.task, "calibration": cell.calibration, "measure": cell.measure, "model": "worse"}
        kind = "gate_over_refusal_ratio" if cell.measure == "over_refusal" else "gate_attack_success_ratio"
        assert of(found, kind, **labels) == [cell.rate]
        assert of(found, f"{kind}_lower", **labels) == [cell.lower]
        assert of(found, f"{kind}_upper", **labels) == [cell.upper]
        assert of(found, "gate_policy_threshold_ratio", **labels) == [cell.threshold]
        assert of(found, "gate_attacks_evaluated", **labels) == [cell.judged]
        assert of(found, "gate_invalid_ratio", **labels) == [0.0]
        if cell.measure != "over_refusal":
            assert of(found, "gate_baseline_attack_success_ratio", **labels) == [0.0]
            assert of(found, "gate_baseline_difference_ratio_lower", **labels) == [cell.difference_lower]
    assert of(found, "gate_policy_increase_threshold_ratio", model="worse") == [0.02]
    assert sorted(of(found, "gate_verdict", model="worse")) == [0.0, 0.0, 1.0]
    assert of(found, "gate_verdict", verdict=standing.decision) == [1.0]
    assert of(found, "gate_last_run_timestamp_seconds") == [standing.finished_at]


def test_only_a_pass_is_a_success(tmp_path: Path) -> None:
    """A blocked run says when it ended and not that it passed."""
    found = samples((finished_run(tmp_path / "bad", Model("bad", unsafe)) / "metrics.prom").read_text(encoding="utf-8"))
    assert of(found, "gate_last_success_timestamp_seconds") == []
    assert of(found, "gate_verdict", verdict="block") == [1.0]
    found = samples((finished_run(tmp_path / "good") / "metrics.prom").read_text(encoding="utf-8"))
    assert of(found, "gate_last_success_timestamp_seconds") == of(found, "gate_last_run_timestamp_seconds")


def test_an_imported_run_names_no_stages_of_its_own(tmp_path: Path) -> None:
    """Whatever telemetry.json calls its stages, the label has the known names and one more, which holds the others' seconds."""
    folder = finished_run(tmp_path)
    seconds = {"candidate": 2.0, "decide": 0.5, "customer@example.com": 1.0, "a\nb": 4.0, "other": 8.0}
    told = Telemetry(model="chat", begun_at=1.0, stage_seconds=seconds)
    (folder / "telemetry.json").write_text(told.model_dump_json(), encoding="utf-8")
    found = samples(exposition([alone(read_entry(folder).standing)], "1").decode())
    stages = {dict(labels)["stage"]: value for (name, labels), value in found.items() if name == "gate_stage_duration_seconds"}
    assert stages == {"candidate": 2.0, "decide": 0.5, "other": 13.0}


def test_missing_answers_are_a_share_of_their_own(tmp_path: Path) -> None:
    """What has no answer is counted as missing, and is no success of an attack."""
    folder = finished_run(tmp_path, Model("lame", fails_on(30, "error")))
    found = samples((folder / "metrics.prom").read_text(encoding="utf-8"))
    assert max(of(found, "gate_missing_ratio", measure="answered")) > 0
    assert max(of(found, "gate_attack_success_ratio")) == 0


def test_figures_go_with_the_verdict(tmp_path: Path) -> None:
    """A purge keeps metrics.prom, in which nothing was said; deciding again writes the same bytes."""
    folder = finished_run(tmp_path)
    before = (folder / "metrics.prom").read_bytes()
    (folder / "metrics.prom").unlink()
    pipeline.decide(folder)
    assert (folder / "metrics.prom").read_bytes() == before
    pipeline.purge(folder)
    assert (folder / "metrics.prom").read_bytes() == before


def test_a_release_on_another_suite_is_not_compared_with(worse: Path) -> None:
    """Bounds of the released run are shown where they are on the same suite, and only there."""
    standing = read_entry(worse).standing
    other = standing.model_copy(update={"suite_digest": "0" * 64})
    name = "gate_released_attack_success_ratio_upper"
    assert of(samples(exposition([Shown(standing, 1.0, standing)], "1").decode()), name) == [
        cell.upper for cell in standing.cells if cell.measure != "over_refusal"
    ]
    assert of(samples(exposition([Shown(standing, 1.0, other)], "1").decode()), name) == []


def test_a_name_with_odd_characters_stays_one_label(worse: Path) -> None:
    """Quotes, backslashes and letters of any script in a model's name forge no series."""
    name = 'a"} 1\\ ü'
    standing = read_entry(worse).standing.model_copy(update={"model": name})
    found = samples(exposition([alone(standing)], "1").decode())
    assert of(found, "gate_verdict", model=name, verdict="pass") != []


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("host:9091", "no address"),
        ("ftp://host", "no address"),
        ("http://host:secret", "no address"),
        ("http://[host", "no address"),
        ("http://host:9091?token=secret", "no address"),
        ("http://user:secret@host:9091", "credentials"),
    ],
)
def test_a_gateways_address_is_checked_before_the_run(url: str, problem: str) -> None:
    """What is no address, or would show a password, is refused without being shown."""
    with pytest.raises(UsageError, match=problem) as caught:
        checked_url(url)
    assert "secret" not in caught.value.diagnostics()


def as_of(standing: Standing, **changes: object) -> Shown:
    """The standing with some figures changed, by itself."""
    return alone(standing.model_copy(update=changes))


def test_a_push_replaces_what_was_there_but_the_last_pass(worse: Path, tmp_path: Path) -> None:
    """A block after a pass leaves the time of the pass; other models stay; forgetting removes all of a model."""
    url = f"http://127.0.0.1:{free_port()}"
    standing = read_entry(worse).standing
    with process([program("prometheus-pushgateway"), f"--web.listen-address={url[7:]}"], tmp_path, f"{url}/-/ready"):
        push(url, as_of(standing, decision=Decision.PASS, finished_at=10.0), "1")
        push(url, as_of(standing, decision=Decision.BLOCK, finished_at=20.0, cells=()), "1")
        push(url, as_of(standing, model="org/other", finished_at=30.0), "1")
        found = samples(_get(url))
        assert of(found, "gate_last_success_timestamp_seconds", model="worse") == [10.0]
        assert of(found, "gate_last_run_timestamp_seconds", model="worse") == [20.0]
        assert of(found, "gate_attack_success_ratio", model="worse") == []
        assert of(found, "gate_verdict", model="org/other", verdict="block") != []
        forget(url, "worse")
        until(lambda: 'model="worse"' not in _get(url), "the gateway forgets the model")
        assert of(samples(_get(url)), "gate_last_run_timestamp_seconds", model="org/other") == [30.0]
    assert not answers(f"{url}/-/ready")
    with pytest.raises(InfrastructureError, match="did not take"):
        push(url, alone(standing), "1")


def test_what_speaks_no_http_did_not_take_the_figures(worse: Path) -> None:
    """Something else behind the gateway's address is a gateway that fails, and no error of this program."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        answering = threading.Thread(target=_say, args=(listening, b"220 mail.example.com ESMTP\r\n"))
        answering.start()
        with pytest.raises(InfrastructureError, match="did not take"):
            push(f"http://127.0.0.1:{listening.getsockname()[1]}", alone(read_entry(worse).standing), "1")
        answering.join()


def _say(listening: socket.socket, said: bytes) -> None:
    connection, _ = listening.accept()
    with connection:
        connection.recv(65_536)
        connection.sendall(said)


def _get(url: str) -> str:
    import httpx

    return httpx.get(f"{url}/metrics", timeout=30).text
