"""The report for a browser: evidence in, one self-contained HTML page out; why, how sure and what now stand first.

The page has no script and fetches nothing; its policy (CSP) allows its own style sheet alone, by digest. Every text goes through
`escape.html_text` and Jinja's autoescaping, the drawings through an XML serialiser. Tables, lists, drawings and excerpts are cut
with a count, so that the page stays within `LIMIT` bytes whatever the run.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from typing import NamedTuple

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup, escape

from gate.records import TaskStats, Verdict
from gate.report.escape import cut, excerpt, html_text, visible
from gate.report.evidence import Evidence, Example
from gate.report.first_screen import first_screen
from gate.report.flip import first_flips
from gate.report.heat import heat_map
from gate.report.interval_plot import SIGNS, interval_plot
from gate.report.path_plot import PathPlot, path_plot
from gate.report.tables import (
    CONSEQUENCES,
    Table,
    baseline_table,
    behaviours_table,
    comparison_table,
    examples_first,
    findings_table,
    gated_table,
    headline,
    is_attack,
    missing_table,
    over_refusal_table,
    provenance,
    reported_table,
    transforms_table,
    waiver_lines,
    worst_first,
)

LIMIT = 4_000_000
"""Bytes that no page exceeds; one of a usual run has some 150,000."""
ROWS = 200
LINES = 100
INTERVALS = 40
PATHS = 24
OPEN_PATHS = 4
EXAMPLES = 12
UNMASKED_LIMIT = 4_000
"""Characters of one prompt or answer in an unmasked page."""


class Plot(NamedTuple):
    """A drawing of rates, and how many cells it leaves out."""

    title: str
    svg: Markup
    left_out: int


class DrawnPath(NamedTuple):
    """A cell's path."""

    name: str
    caption: str
    svg: Markup
    table: Table


class Quoted(NamedTuple):
    """What is shown of a prompt or an answer, its lines kept, and what tells the whole apart."""

    text: Markup
    rest: int
    length: int
    digest: str


class Shown(NamedTuple):
    """An example as the page shows it."""

    example: Example
    prompt: Quoted
    answer: Quoted


def render_html(evidence: Evidence) -> str:
    """The page, as UTF-8 text with a final newline."""
    verdict = evidence.verdict
    sheet = _part("page.css")
    gated = worst_first((s for s in verdict.stats if s.gated), verdict)
    attacks, twins = [s for s in gated if is_attack(s)], [s for s in gated if not is_attack(s)]
    paths = [path for s in gated[:PATHS] if (path := path_plot(s, evidence))]
    page = _environment().get_template("page.html.jinja")
    return page.render(
        # Our own file: no text of others is in it.
        sheet=Markup(sheet),  # noqa: S704
        sheet_digest=base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode(),
        evidence=evidence,
        verdict=verdict,
        headline=headline(verdict),
        consequence=CONSEQUENCES[verdict.decision],
        first=first_screen(evidence),
        flips=first_flips(evidence, LINES),
        plots=_plots(attacks, twins, verdict),
        compared=any(s.difference is not None for s in attacks),
        tables=[gated_table(evidence), over_refusal_table(evidence)],
        paths=[_drawn(path) for path in paths],
        open_paths=OPEN_PATHS,
        paths_left=len(gated) - len(gated[:PATHS]),
        unusable=any(s.missing or s.invalid for s in gated),
        heat=heat_map(evidence),
        signs=SIGNS,
        transforms=transforms_table(evidence),
        examples=[_shown(e, unmasked=evidence.unmasked) for e in examples_first(evidence)[:EXAMPLES]],
        more=[
            build(evidence)
            for build in (findings_table, missing_table, baseline_table, comparison_table, behaviours_table, reported_table)
        ],
        lists=[
            ("Waivers", waiver_lines(evidence)),
            ("Warnings", tuple(dict.fromkeys((*verdict.warnings, *evidence.candidate.warnings)))),
        ],
        provenance=provenance(evidence)[:LINES],
        rows=ROWS,
        lines=LINES,
    )


def _plots(attacks: Sequence[TaskStats], twins: Sequence[TaskStats], verdict: Verdict) -> list[Plot]:
    titled = (("Harmful requests answered", attacks), ("Harmless requests refused", twins))
    return [
        Plot(title, _markup(interval_plot(title, stats[:INTERVALS], verdict)), max(0, len(stats) - INTERVALS))
        for title, stats in titled
        if stats
    ]


def _drawn(path: PathPlot) -> DrawnPath:
    return DrawnPath(path.name, path.caption, _markup(path.svg), path.table)


def _shown(example: Example, *, unmasked: bool) -> Shown:
    return Shown(example, *(_quoted(text, unmasked=unmasked) for text in (example.prompt, example.answer)))


def _quoted(text: str, *, unmasked: bool) -> Quoted:
    part = excerpt(text, unmasked=unmasked, limit=UNMASKED_LIMIT)
    shown = escape(visible(part.text, keep_newlines=True))
    return Quoted(shown, part.characters - part.shown, part.characters, part.sha256[:12])


def _short(text: str, limit: int) -> str:
    """The first characters as they will be shown: an escape counts for as many as it has."""
    return cut(visible(text), limit)


def _may_break(name: str) -> Markup:
    """A name of one word that may be broken after `_` and `+`."""
    parts = re.split(r"(?<=[_+])", visible(cut(name, 60)))
    return Markup("<wbr>").join(parts)


def _markup(svg: str) -> Markup:
    return Markup(svg)  # noqa: S704 - made by an XML serialiser


def _part(name: str) -> str:
    return files("gate.report").joinpath("page", name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _environment() -> Environment:
    made = Environment(
        loader=DictLoader({"page.html.jinja": _part("page.html.jinja")}),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=html_text,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["breakable"] = _may_break
    made.filters["short"] = _short
    return made
