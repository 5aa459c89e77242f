"""The benches' table and document writer."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.results import into_document, machine, stated, table


def test_a_table_takes_its_columns_from_the_first_row() -> None:
    """Columns follow the first row; what a later row lacks is left empty."""
    assert table([{"a": 1, "b": "x"}, {"a": 2}]) == "| a | b |\n|---|---|\n| 1 | x |\n| 2 |  |"


def test_only_what_stands_between_the_marks_is_replaced(tmp_path: Path) -> None:
    """Writing twice leaves one copy, and the neighbour's table and the prose as they were."""
    page = tmp_path / "page.md"
    page.write_text(
        "# T\n<!-- bench:one -->\nold\n<!-- /bench -->\nprose\n<!-- bench:two -->\nkept\n<!-- /bench -->\n", encoding="utf-8"
    )
    for text in ("first", "second"):
        into_document(page, "one", text)
    assert page.read_text(encoding="utf-8") == (
        "# T\n<!-- bench:one -->\nsecond\n<!-- /bench -->\nprose\n<!-- bench:two -->\nkept\n<!-- /bench -->\n"
    )


def test_a_document_without_the_mark_is_refused(tmp_path: Path) -> None:
    """A missing place is an error, not a table lost."""
    page = tmp_path / "page.md"
    page.write_text("no marks", encoding="utf-8")
    with pytest.raises(ValueError, match="no place for this table"):
        into_document(page, "one", "text")


def test_the_machine_is_stated_with_date_and_versions() -> None:
    """The line names cores, Python and every asked package, also one that is absent."""
    where = machine("numpy", "no-such-package")
    assert int(where["cores"]) >= 1
    assert "no-such-package absent" in stated(where)
    assert f"numpy {where['numpy']}" in stated(where)
