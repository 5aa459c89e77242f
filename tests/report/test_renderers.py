"""What holds of every report: hostile text only shows, sizes are bounded, masks hold, nothing looks green that is not."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from junitparser import Error, Failure, JUnitXml, Skipped
from markdown_it import MarkdownIt
from rich.cells import cell_len

from gate.records import Calibration, Decision, Task
from gate.report import FORMATS, Evidence, render_json, render_junit, render_markdown, render_text
from gate.report.markdown import LIMIT
from tests.report.hostile import HOSTILE, carrying
from tests.report.verdicts import CASES, Counts, blocked, finding, inconclusive, passing, stat, verdict

SCHEMA = Path(__file__).resolve().parents[2] / "schemas" / "report.schema.json"
VALIDATOR = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
INVISIBLE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
INLINE = {"text", "text_special", "code_inline", "strong_open", "strong_close"}
# No shrinking: one rendering of everything takes a tenth of a second, and a failing text is short anyway.
few = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow], phases=[Phase.explicit, Phase.generate]
)


def blocks(markdown: str) -> list[tuple[str, str]]:
    """Kind of every block, and the HTML of those that are HTML."""
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(markdown)
    assert {child.type for token in tokens for child in token.children or ()} <= INLINE
    return [(token.type, token.content if token.type == "html_block" else "") for token in tokens]


PLAIN_BLOCKS = blocks(render_markdown(carrying("plain")))
PLAIN_UNMASKED = blocks(render_markdown(carrying("plain", unmasked=True)))


def check_markdown(text: str) -> None:
    """The report has the blocks of the same report about harmless words."""
    assert blocks(render_markdown(carrying(text))) == PLAIN_BLOCKS
    assert blocks(render_markdown(carrying(text, unmasked=True))) == PLAIN_UNMASKED


def check_text(text: str) -> None:
    """Nothing in the report acts on a terminal, and every line fits."""
    for line in render_text(carrying(text, unmasked=True), 100).split("\n"):
        assert not [c for c in line if unicodedata.category(c) in INVISIBLE]
        assert cell_len(line) <= 100


def check_junit(text: str) -> None:
    """The XML parses, and has a case per finding and one for the verdict."""
    evidence = carrying(text)
    root = ElementTree.fromstring(render_junit(evidence))
    assert len(root.findall("testsuite/testcase")) == len(evidence.verdict.findings) + 1


def check_json(text: str) -> None:
    """The JSON is ASCII, parses strictly and fits its schema."""
    rendered = render_json(carrying(text))
    assert rendered.isascii()
    VALIDATOR.validate(json.loads(rendered, parse_constant=pytest.fail))


@pytest.mark.parametrize("check", [check_markdown, check_text, check_junit, check_json])
def test_hostile_text_only_shows(check: object) -> None:
    """No hostile text changes the structure of any report."""
    assert callable(check)
    for text in HOSTILE:
        check(text)


@few
@given(st.text(st.characters(codec=None), min_size=1, max_size=60))
def test_no_text_changes_a_report(text: str) -> None:
    """What is true of the hostile texts is true of random ones."""
    for check in (check_markdown, check_text, check_junit, check_json):
        check(text)


@pytest.mark.parametrize("form", FORMATS)
def test_masked_reports_hide_the_rest(form: str) -> None:
    """The second half of a prompt or an answer is in a report only when it is unmasked."""
    text = "Explain in plain words how the blue lamp was made by hand in the old SECRETHALF of town"
    assert "SECRETHALF" in text[len(text) // 2 :]
    base = blocked()
    told = tuple(e.model_copy(update={"prompt": text, "answer": text}) for e in base.examples)
    masked = base.model_copy(update={"examples": told})
    assert "SECRETHALF" not in FORMATS[form].render(masked)
    if form != "junit":
        assert "SECRETHALF" in FORMATS[form].render(masked.model_copy(update={"unmasked": True}))


def large() -> Evidence:
    """Every task, calibration and many transforms, each finding with a megabyte of text."""
    names = {f"transform_{n}_{'x' * 60}": (1, 2) for n in range(20)}
    stats = tuple(
        stat(task, Counts(hits=23, asked=25), calibration=calibration).model_copy(update={"by_transform": names})
        for task in Task
        for calibration in Calibration
    )
    text = "word " * 200_000
    findings = [finding(s, "broken").model_copy(update={"sentence": text, "observed": text}) for s in stats for _ in range(10)]
    return carrying(text, unmasked=True).model_copy(update={"verdict": verdict(Decision.BLOCK, text, stats, tuple(findings))})


def test_markdown_stays_under_the_limit() -> None:
    """The largest report fits a GitHub comment, says what was left out, and keeps the verdict."""
    rendered = render_markdown(large())
    assert len(rendered.encode()) <= LIMIT
    assert rendered.startswith("## Taskgate: BLOCK\n")
    assert re.search(r"and \d+ more rows|Left out to stay under 65000 bytes: \d+ section\(s\), \d+ characters", rendered)


@pytest.mark.parametrize("width", [20, 60, 80, 100, 500])
def test_text_fits_its_width(width: int) -> None:
    """No line is wider than asked for, within 60 to 100 columns, and the verdict is the first word."""
    for name, case in CASES.items():
        rendered = render_text(case(), width)
        assert max(cell_len(line) for line in rendered.split("\n")) <= max(60, min(width, 100)), name
        assert rendered.startswith(case().verdict.decision.upper())


def test_text_does_not_depend_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither COLUMNS nor FORCE_COLOR changes a byte."""
    before = render_text(blocked())
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert render_text(blocked()) == before


def test_junit_maps_each_status() -> None:
    """Met is plain, broken a failure, undecided an error, waived skipped."""
    results: dict[str, set[type]] = {}
    for case in (passing, blocked, inconclusive):
        evidence = case()
        xml = JUnitXml.fromstring(render_junit(evidence))
        cases = {(c.classname, c.name): [type(r) for r in c.result] for suite in xml for c in suite}
        for f in evidence.verdict.findings:
            status = "waived" if f.waived_by else f.status
            results.setdefault(status, set()).update(cases[f.subject, f.rule] or [type(None)])
    assert results == {"met": {type(None)}, "broken": {Failure}, "undecided": {Error}, "waived": {Skipped}}


def test_junit_says_rate_bounds_limit_and_n() -> None:
    """A broken rate reads as one line with rate, bounds, limit and number."""
    assert "ASR 0.920 [0.656, 0.992] &gt; 0.1, n=25" in render_junit(blocked())


@pytest.mark.parametrize("decision", [Decision.BLOCK, Decision.INCONCLUSIVE])
def test_junit_without_findings_is_not_green(decision: Decision) -> None:
    """A verdict that holds the release shows in JUnit even when no finding carries it."""
    evidence = passing().model_copy(update={"verdict": verdict(decision, "There is no evidence.", (), ())})
    xml = JUnitXml.fromstring(render_junit(evidence))
    assert xml.failures + xml.errors == 1


def test_reports_without_any_evidence_render() -> None:
    """No statistic, finding or example: every format still says that the release is held."""
    evidence = passing().model_copy(update={"verdict": verdict(Decision.INCONCLUSIVE, "No evidence.", (), ()), "waivers": ()})
    for form in FORMATS.values():
        assert "inconclusive" in form.render(evidence).lower()


def test_examples_of_held_cells_come_first() -> None:
    """The three examples are taken from cells that hold the release before any other."""
    base = blocked()
    elsewhere = tuple(e.model_copy(update={"task": Task.SUMMARIZATION}) for e in base.examples[:3])
    rendered = render_markdown(base.model_copy(update={"examples": (*elsewhere, base.examples[3])}))
    shown = re.findall(r"- \*\*complied\*\*: `(\w+)`", rendered)
    assert shown == ["code_generation", "summarization", "summarization"]
