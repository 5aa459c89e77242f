"""The alerts: valid, tested firing and silent by promtool, each with a runbook, and about series that are really exposed."""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from gate.conformance.scene import Model, Scene, complies_with, safe
from gate.history.entries import read_entry
from gate.metrics import Shown, alone, exposition
from guard_server.metrics import Metrics
from tests.conftest import ROOT
from tests.monitoring.programs import promtool

RULES = ROOT / "helm" / "taskgate" / "rules" / "taskgate.yml"
UNIT_TESTS = sorted((ROOT / "tests" / "monitoring" / "rules").glob("*.yml"))


def all_rules() -> list[dict[str, Any]]:
    """Every rule of the file."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in all_rules() if "alert" in rule}


def outcomes() -> dict[str, list[bool]]:
    """Alert → whether each of its promtool tests expects it to fire."""
    found: dict[str, list[bool]] = defaultdict(list)
    for path in UNIT_TESTS:
        for test in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            for check in test["promql_expr_test"]:
                (alert,) = re.findall(r'ALERTS\{alertname="(\w+)", alertstate="firing"\}', check["expr"])
                assert test["name"].startswith(f"{alert} "), test["name"]
                found[alert].append(bool(check["exp_samples"]))
    return found


def test_the_rules_are_valid() -> None:
    """Promtool has no complaint about the file as it lies there."""
    done = promtool("check", "rules", "--lint-fatal", RULES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(all_rules())} rules found" in done.stdout


@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: path.stem)
def test_alerts_fire_and_stay_silent_as_their_tests_say(path: Path) -> None:
    """Promtool's unit tests pass."""
    done = promtool("test", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_is_tested_firing_and_silent(alert: str) -> None:
    """No alert lacks a promtool test in which it fires, or one in which it does not."""
    assert set(outcomes()[alert]) == {True, False}


def test_no_test_is_of_an_alert_that_is_gone() -> None:
    """Each promtool test is about a rule of the file: a misspelt name would be silent for ever."""
    assert set(outcomes()) == set(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_says_what_it_is_and_where_to_read_on(alert: str) -> None:
    """Severity, summary, description and a runbook whose anchor is the alert's name."""
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"]
    assert rule["annotations"]["runbook_url"] == f"docs/operations.md#{alert.lower()}"


def exposed(folder: Path) -> set[str]:
    """Names of all series that gate and guard expose."""
    Scene(folder).run(Model("worse", complies_with(5)), baseline=Model("before", safe))
    standing = read_entry(folder / "run").standing
    text = exposition([Shown(standing, 1.0, standing), alone(standing)], "1").decode() + Metrics().exposition().decode()
    return set(re.findall(r"^# TYPE (\w+)", text, re.M))


def test_rules_and_tests_name_only_series_that_are_exposed(tmp_path: Path) -> None:
    """Every series an expression reads is one that the programs expose, or that a rule records."""
    known = exposed(tmp_path) | {"gate_history_reachable"}  # the exporter's own; tests/monitoring/test_exporter.py sees it
    named = {name for rule in all_rules() for name in re.findall(r"\b((?:gate|guard)_\w+)\b(?!:)", rule["expr"])}
    series = {name for path in UNIT_TESTS for name in re.findall(r"series: '(\w+)", path.read_text(encoding="utf-8"))} - {"up"}
    recorded = {"guard_block", "guard_errors"}  # within the names of recorded series
    assert (named | series) - recorded - known == set()


def test_the_documented_command_makes_addresses_of_the_runbooks(tmp_path: Path) -> None:
    """The sed of docs/monitoring.md leaves rules that promtool takes, and an address with the alert's anchor in each."""
    (command,) = re.findall(r"^    (sed .*)$", (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8"), re.MULTILINE)
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    (tmp_path / "rules.yml").write_text(done.stdout, encoding="utf-8")
    assert promtool("check", "rules", tmp_path / "rules.yml").returncode == 0
    urls = re.findall(r"runbook_url: (\S+)", done.stdout)
    assert len(urls) == len(ALERTS)
    assert all(re.fullmatch(r"https://git\.example/\S+/docs/operations\.md#\w+", url) for url in urls)
