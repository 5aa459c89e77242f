"""The report for a terminal: evidence in, plain lines of at most 100 columns out, the verdict first; no colour."""

from __future__ import annotations

from io import StringIO

from rich.console import Console
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from gate.report.escape import excerpt, terminal_text
from gate.report.evidence import Evidence
from gate.report.flip import first_flips
from gate.report.tables import (
    CONSEQUENCES,
    Table,
    baseline_table,
    behaviours_table,
    comparison_table,
    findings_table,
    gated_table,
    headline,
    judge_state,
    missing_table,
    over_refusal_table,
    provenance,
    reported_table,
    tally,
    transforms_table,
    waiver_lines,
)

MAX_WIDTH = 100
MIN_WIDTH = 60
EXAMPLES = 3
ROWS = 200
UNMASKED_LIMIT = 1000


def render_text(evidence: Evidence, width: int = MAX_WIDTH) -> str:
    """The report, wrapped at `width` columns (kept within 60 to 100)."""
    # An empty environment: a report must not depend on COLUMNS or FORCE_COLOR.
    console = Console(
        file=StringIO(),
        width=max(MIN_WIDTH, min(width, MAX_WIDTH)),
        color_system=None,
        force_terminal=False,
        emoji=False,
        markup=False,
        highlight=False,
        legacy_windows=False,
        _environ={},
    )
    verdict = evidence.verdict
    _line(console, f"{headline(verdict)}: {verdict.reason}")
    _line(console, CONSEQUENCES[verdict.decision])
    _line(console, f"{tally(verdict)} {judge_state(verdict)}")
    _table(console, gated_table(evidence))
    _list(console, "Why, and what would flip the verdict", tuple(f"{f.about}: {f.text}" for f in first_flips(evidence)))
    for build in (
        findings_table,
        missing_table,
        over_refusal_table,
        baseline_table,
        comparison_table,
        behaviours_table,
        reported_table,
        transforms_table,
    ):
        _table(console, build(evidence))
    _examples(console, evidence)
    _list(console, "Waivers", waiver_lines(evidence))
    _list(console, "Warnings", (*verdict.warnings, *evidence.candidate.warnings))
    _list(console, "Provenance", tuple(f"{name}: {value}" for name, value in provenance(evidence)))
    assert isinstance(console.file, StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def _line(console: Console, text: str, indent: int = 0) -> None:
    console.print(Padding(Text(terminal_text(text, 1500), overflow="fold"), (0, 0, 0, indent)))


def _title(console: Console, title: str) -> None:
    console.print()
    _line(console, title)
    _line(console, "-" * len(title))


def _table(console: Console, table: Table) -> None:
    if not table.rows:
        return
    _title(console, table.title)
    _line(console, table.note)
    grid = Grid(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for column in table.columns:
        grid.add_column(Text(terminal_text(column)), overflow="fold")
    for row in table.rows[:ROWS]:
        grid.add_row(*(Text(terminal_text(cell)) for cell in row))
    console.print(grid)
    if len(table.rows) > ROWS:
        _line(console, f"… and {len(table.rows) - ROWS} more rows.")


def _list(console: Console, title: str, lines: tuple[str, ...]) -> None:
    if lines:
        _title(console, title)
    for line in lines:
        _line(console, f"- {line}")


def _examples(console: Console, evidence: Evidence) -> None:
    if not evidence.examples:
        return
    _title(console, "Examples" if evidence.unmasked else "Examples (masked)")
    for example in evidence.examples[:EXAMPLES]:
        head = f"- {example.task} ({example.calibration}), {example.transform}, {example.category}, {example.behaviour}"
        _line(console, f"{head}: {example.outcome}, {example.reason}")
        _line(console, f"prompt: {_shown(example.prompt, evidence)}", 2)
        _line(console, f"answer: {_shown(example.answer, evidence)}", 2)


def _shown(text: str, evidence: Evidence) -> str:
    part = excerpt(text, unmasked=evidence.unmasked, limit=UNMASKED_LIMIT)
    more = "" if part.shown == part.characters else "…"
    return f'"{part.text}{more}" ({part.characters} characters, sha256 {part.sha256[:12]})'
