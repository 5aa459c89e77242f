"""The Grafana dashboard: every expression is PromQL about series that there are, and the file is one that Grafana imports."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import ROOT
from tests.monitoring.programs import promtool
from tests.monitoring.test_rules import all_rules, exposed

DASHBOARD = json.loads((ROOT / "helm" / "taskgate" / "dashboards" / "taskgate.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]


def plain(expression: str) -> str:
    """An expression with Grafana's variables filled in."""
    return expression.replace("$__rate_interval", "5m").replace("$model", ".*").replace("$task", ".*")


def test_every_expression_is_promql(tmp_path: Path) -> None:
    """Promtool parses each panel's expressions, put into a rules file."""
    rules = [{"record": f"panel:{number}", "expr": plain(expression)} for number, expression in enumerate(EXPRESSIONS)]
    path = tmp_path / "panels.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}), encoding="utf-8")
    done = promtool("check", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "$" not in "".join(map(plain, EXPRESSIONS))
    rules[0]["expr"] = "sum by (model"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}), encoding="utf-8")
    assert promtool("check", "rules", path).returncode != 0


def test_every_series_of_a_panel_is_exposed(tmp_path: Path) -> None:
    """A panel names no series that no program exposes and no rule records."""
    recorded = {rule["record"] for rule in all_rules() if "record" in rule}
    text = " ".join([*EXPRESSIONS, *(v.get("definition", "") for v in DASHBOARD["templating"]["list"])])
    assert set(re.findall(r"taskgate:\w+:\w+", text)) <= recorded
    named = set(re.findall(r"(?<!:)\b((?:gate|guard)_\w+)", re.sub(r"taskgate:\w+:\w+", "", text)))
    known = exposed(tmp_path)
    assert {name.removesuffix("_bucket") for name in named} - known == set()


def test_panels_lie_side_by_side() -> None:
    """Ids are unique, every panel has a title and a place of its own within 24 columns."""
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)
    assert all(panel["title"] for panel in DASHBOARD["panels"])
    taken = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24


def test_every_panel_asks_the_chosen_data_source() -> None:
    """No panel is bound to the Prometheus of whoever drew it."""
    assert {json.dumps(panel["datasource"]) for panel in PANELS} == {'{"type": "prometheus", "uid": "${datasource}"}'}
