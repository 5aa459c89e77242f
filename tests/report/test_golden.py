"""Each format of each verdict against its file in tests/golden/report; TASKGATE_REFRESH_GOLDEN=1 rewrites them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gate.report import FORMATS
from gate.report.schema import report_schema
from tests.report.verdicts import CASES

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "report"
SCHEMA = Path(__file__).resolve().parents[2] / "schemas" / "report.schema.json"


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("case", CASES)
def test_a_report_is_what_was_reviewed(case: str, form: str) -> None:
    """A report's bytes are those that were last read and checked in."""
    rendered = FORMATS[form].render(CASES[case]())
    path = GOLDEN / f"{case}.{FORMATS[form].file}"
    if os.environ.get("TASKGATE_REFRESH_GOLDEN") == "1":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(rendered, encoding="utf-8", newline="\n")
    assert rendered == path.read_text(encoding="utf-8")


def test_the_checked_in_schema_is_the_models() -> None:
    """schemas/report.schema.json is what the model exports today."""
    assert SCHEMA.read_text(encoding="utf-8") == report_schema()
