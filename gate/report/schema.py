"""The JSON Schema of the JSON report. `python -m gate.report.schema [FILE]` writes it (default: schemas/report.schema.json)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from gate.report.json_report import Report

DEFAULT_PATH = Path("schemas/report.schema.json")


def report_schema() -> str:
    """The schema as indented JSON with a final newline."""
    schema = Report.model_json_schema(mode="serialization")
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Taskgate report"}
    return json.dumps({**schema, **dialect}, indent=2, sort_keys=True) + "\n"


def write_schema(path: Path) -> None:
    """Write the schema to `path`."""
    path.write_text(report_schema(), encoding="utf-8")


if __name__ == "__main__":
    write_schema(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_PATH)
