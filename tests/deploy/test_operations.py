"""The runbook: a heading for each alert."""

from __future__ import annotations

import re

import yaml

from tests.conftest import ROOT


def test_every_alert_leads_to_its_heading() -> None:
    """Each runbook_url's anchor is a heading of docs/operations.md, and no heading is of an alert that is gone."""
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    headings = {heading.lower() for heading in re.findall(r"^### (\w+)$", text, re.MULTILINE)}
    rules = (ROOT / "helm" / "taskgate" / "rules" / "taskgate.yml").read_text(encoding="utf-8")
    urls = [
        rule["annotations"]["runbook_url"]
        for group in yaml.safe_load(rules)["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    assert {url.partition("#")[2] for url in urls} == headings
