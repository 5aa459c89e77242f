"""Claims about docs/suites.md: its figures are the suite's (TASKGATE_REFRESH_GOLDEN=1 writes them)."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

from gate.records import Role, Split, Task
from gate.suites import load_suite
from gate.suites.behaviours import built_in, split_of
from gate.suites.loaders import LAYOUTS, TABLE_FIELDS
from gate.suites.transforms import TRANSFORMS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "suites.md"
BLOCK = re.compile(r"(<!-- counts:[^\n]*-->\n).*?(<!-- /counts -->)", re.DOTALL)


def counts_tables() -> str:
    """Behaviours per category and items per task, in Markdown."""
    suite = load_suite("cross-task")
    sides = Counter((row.category, split_of(row.id)) for row in built_in())
    lines = ["", "| hazard category | tuning | gating |", "|---|---:|---:|"]
    categories = dict.fromkeys(row.category for row in built_in())
    lines += [f"| `{category}` | {sides[category, Split.TUNING]} | {sides[category, Split.GATING]} |" for category in categories]
    total = Counter(split_of(row.id) for row in built_in())
    lines.append(f"| behaviours | {total[Split.TUNING]} | {total[Split.GATING]} |")
    items = Counter((item.task, item.split, item.role) for item in suite.items)
    lines += ["", "| items | tuning: attacks | twins | gating: attacks | twins |", "|---|---:|---:|---:|---:|"]
    cuts = [(split, role) for split in (Split.TUNING, Split.GATING) for role in (Role.ATTACK, Role.TWIN)]
    lines += [f"| `{task}` | " + " | ".join(f"{items[task, *cut]}" for cut in cuts) + " |" for task in Task]
    lines += ["", f"{len(suite.items):,} items; version {suite.version}, digest `{suite.digest[:16]}…`.", "", ""]
    return "\n".join(lines)


def test_the_counts_in_the_page_are_the_suites() -> None:
    """The tables between the page's marks are what the suite holds today."""
    page = PAGE.read_text(encoding="utf-8")
    made = BLOCK.sub(lambda match: match[1] + counts_tables() + match[2], page)
    assert BLOCK.search(page)
    if os.environ.get("TASKGATE_REFRESH_GOLDEN"):
        PAGE.write_text(made, encoding="utf-8")
        page = made
    assert page == made


def test_the_page_names_everything_there_is() -> None:
    """Every task, transform, key, layout and table field is named in the page."""
    page = PAGE.read_text(encoding="utf-8")
    for name in [*Task, *TRANSFORMS, *LAYOUTS, *TABLE_FIELDS, "harmful", "abstain", "benign"]:
        assert f"`{name}`" in page, name
    for layout in LAYOUTS.values():
        assert ",".join(layout.columns) in page
