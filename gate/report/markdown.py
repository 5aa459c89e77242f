"""The report for a pull request: evidence in, GitHub Markdown out; why, how sure and what now stand first, the rest is folded.

Never longer than `LIMIT` bytes (GitHub refuses a comment above 65,536 characters): long tables are cut with a count, then whole
sections are left out, from the end, and named.
"""

from __future__ import annotations

from dataclasses import dataclass

from gate.report.escape import excerpt, markdown_block, markdown_code, markdown_text
from gate.report.evidence import Evidence, Example
from gate.report.flip import flips
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
    judge_state,
    missing_table,
    over_refusal_table,
    provenance,
    reported_table,
    tally,
    transforms_table,
    waiver_lines,
)

LIMIT = 65_000
"""Bytes of UTF-8, which are at least as many as characters however GitHub counts them."""
OPEN_ROWS = 30
FOLDED_ROWS = 100
LINES = 5
EXAMPLES = 3
UNMASKED_LIMIT = 2_000


@dataclass(frozen=True)
class Section:
    """A part of the report that is shown or left out as a whole."""

    title: str
    body: str


def render_markdown(evidence: Evidence) -> str:
    """The report for a pull request; at most `LIMIT` bytes."""
    return _fit(
        [
            _head(evidence),
            _bullets("Why, and what would flip the verdict", _flips(evidence)),
            _open_table(gated_table(evidence)),
            _examples(evidence),
            _bullets("Waivers", _plain(waiver_lines(evidence))),
            _bullets("Warnings", _plain((*evidence.verdict.warnings, *evidence.candidate.warnings))),
            _open_table(baseline_table(evidence)),
            _open_table(comparison_table(evidence)),
            _folded_table(findings_table(evidence)),
            _folded_table(missing_table(evidence)),
            _folded_table(over_refusal_table(evidence)),
            _provenance(evidence),
            _folded_table(behaviours_table(evidence)),
            _folded_table(reported_table(evidence)),
            _folded_table(transforms_table(evidence)),
        ]
    )


def _fit(sections: list[Section]) -> str:
    """Join the sections in order while they fit; name those that do not."""
    room = LIMIT - 2_000
    kept: list[str] = []
    left_out: list[Section] = []
    for section in (s for s in sections if s.body):
        size = len(section.body.encode("utf-8")) + 2
        if size <= room:
            kept.append(section.body)
            room -= size
        else:
            left_out.append(section)
    if left_out:
        count = sum(len(s.body) for s in left_out)
        names = ", ".join(s.title for s in left_out)
        kept.append(
            f"*Left out to stay under {LIMIT} bytes: {len(left_out)} section(s), {count} characters ({names}). See report.json.*"
        )
    return "\n\n".join(kept) + "\n"


def _head(evidence: Evidence) -> Section:
    verdict = evidence.verdict
    lines = (
        f"## Taskgate: {headline(verdict)}",
        f"**{markdown_text(verdict.reason)}** {CONSEQUENCES[verdict.decision]}",
        f"Candidate {markdown_code(evidence.candidate.source)}, policy {markdown_code(verdict.policy_name)}, "
        f"suite {markdown_code(verdict.suite_name)}. {tally(verdict)} {markdown_text(judge_state(verdict))}",
    )
    return Section("Verdict", "\n\n".join(lines))


def _plain(lines: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(markdown_text(line) for line in lines)


def _flips(evidence: Evidence) -> tuple[str, ...]:
    return tuple(f"**{markdown_text(f.about)}**: {markdown_text(f.text, 800)}" for f in flips(evidence))


def _bullets(title: str, lines: tuple[str, ...]) -> Section:
    """A list of escaped lines; what exceeds the first lines is folded, and what exceeds the fold is counted."""
    if not lines:
        return Section(title, "")
    items = [f"- {line}" for line in lines]
    parts = [f"### {title}", "\n".join(items[:LINES])]
    folded = items[LINES:FOLDED_ROWS]
    if folded:
        over = len(items) - FOLDED_ROWS
        parts.append(_fold(f"{len(items) - LINES} more", "\n".join(folded) + (f"\n- … and {over} more" if over > 0 else "")))
    return Section(title, "\n\n".join(parts))


def _fold(summary: str, body: str) -> str:
    # Only our own words stand in a summary: HTML blocks are not Markdown.
    return f"<details><summary>{summary}</summary>\n\n{body}\n\n</details>"


def _grid(table: Table, most: int) -> str:
    header = "| " + " | ".join(markdown_text(c) for c in table.columns) + " |"
    rule = "|" + " --- |" * len(table.columns)
    rows = ["| " + " | ".join(_cell(c) for c in row) + " |" for row in table.rows[:most]]
    more = [f"\n… and {len(table.rows) - most} more rows: see report.json."] if len(table.rows) > most else []
    return "\n".join([header, rule, *rows, *more])


def _cell(text: str) -> str:
    # What holds the release stands out in a long table.
    shown = markdown_text(text, 200)
    return f"**{shown}**" if text.startswith(("broken", "undecided")) else shown


def _open_table(table: Table) -> Section:
    if not table.rows:
        return Section(table.title, "")
    return Section(table.title, "\n\n".join([f"### {table.title}", _grid(table, OPEN_ROWS), markdown_text(table.note)]))


def _folded_table(table: Table) -> Section:
    if not table.rows:
        return Section(table.title, "")
    body = "\n\n".join([_grid(table, FOLDED_ROWS), markdown_text(table.note)])
    return Section(table.title, _fold(f"{table.title} ({len(table.rows)})", body))


def _examples(evidence: Evidence) -> Section:
    """Three examples, those from cells that hold the release first."""
    ordered = examples_first(evidence)
    if not ordered:
        return Section("Examples", "")
    title = "Examples" if evidence.unmasked else "Examples (masked)"
    parts = [f"### {title}", *(_example(e, unmasked=evidence.unmasked) for e in ordered[:EXAMPLES])]
    return Section(title, "\n\n".join(parts))


def _example(example: Example, *, unmasked: bool) -> str:
    facts = ", ".join(
        markdown_code(text, 80)
        for text in (example.task, example.calibration, example.transform, example.category, example.behaviour)
    )
    head = f"- **{example.outcome}**: {facts}. Judge: {markdown_text(example.reason, 300)}"
    if unmasked:
        blocks = [f"{name}\n\n{_unmasked(text)}" for name, text in (("Prompt:", example.prompt), ("Answer:", example.answer))]
        return "\n\n".join([head, *blocks])
    return "\n".join(
        [head, *(f"  - {name} {_masked(text)}" for name, text in (("prompt", example.prompt), ("answer", example.answer)))]
    )


def _masked(text: str) -> str:
    part = excerpt(text, unmasked=False, limit=0)
    return f"{markdown_code(part.text)} … {part.characters} characters, sha256 {markdown_code(part.sha256[:12])}"


def _unmasked(text: str) -> str:
    return markdown_block(text, UNMASKED_LIMIT)


def _provenance(evidence: Evidence) -> Section:
    lines = "\n".join(f"- {name}: {markdown_code(value)}" for name, value in provenance(evidence))
    return Section("Provenance", _fold("Provenance", lines))
