"""Where benches put what they measured: JSON in bench/results/, a Markdown table between two marks of a document."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine(*packages: str) -> dict[str, str | int]:
    """What the figures were measured on: processor, cores this process may use, Python, date (UTC), versions of `packages`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found: dict[str, str | int] = {
        "cpu": _cpu_model(),
        "cores": cores,
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def stated(where: Mapping[str, str | int]) -> str:
    """The machine in one line of prose, for the foot of a table."""
    known = ("cpu", "cores", "python", "date")
    rest = ", ".join(f"{name} {value}" for name, value in where.items() if name not in known)
    return f"Measured on {where['date']} on {where['cpu']}, {where['cores']} cores, Python {where['python']}" + (
        f", {rest}." if rest else "."
    )


def write(name: str, payload: Mapping[str, object]) -> Path:
    """Write `payload` to bench/results/`name`.json, readable and in a stable order; returns the path."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(payload, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as a Markdown table; the first row's keys are the columns, a missing value is left empty."""
    if not rows:
        return "(no rows)"
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(row.get(column, "")) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def into_document(document: Path, mark: str, text: str) -> None:
    """Replace what stands between `<!-- bench:MARK -->` and the next `<!-- /bench -->` of the document by `text`."""
    start, end = f"<!-- bench:{mark} -->", "<!-- /bench -->"
    whole = document.read_text(encoding="utf-8")
    head, found, tail = whole.partition(start)
    if not found or end not in tail:
        raise ValueError(f"{document} has no place for this table: expected {start} ... {end}")
    document.write_text(f"{head}{start}\n{text.strip()}\n{tail[tail.index(end) :]}", encoding="utf-8")
