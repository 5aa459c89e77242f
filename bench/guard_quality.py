"""How good a bundle is on sets it was never trained on: the never-trained part of its evaluation card as a table.

    python -m bench.guard_quality            # the shipped bundle's card, as `guard bundle` measured it
    guard evaluate --data FOLDER             # the same figures on labelled data of your own

In: a bundle's card.json. Out: bench/results/guard_quality.json and the table in docs/guard.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.results import ROOT, into_document, table, write
from guard_server.bundle import load_bundle
from guard_server.settings import DEFAULT_BUNDLE

DOCUMENT = ROOT / "docs" / "guard.md"
Row = Mapping[str, object]


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Print the tables, write JSON and document; gives the rows by task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE, help="bundle folder (default: the shipped one)")
    parser.add_argument("--quick", action="store_true", help="print alone; write nothing")
    arguments = parser.parse_args(argv)
    bundle = load_bundle(arguments.bundle, public_key=None, require_signed=False)
    found: Any = json.loads(bundle.files.read("card.json"))["never_trained"]
    if found is None:
        raise SystemExit(f"{arguments.bundle}: the card has no figures on never-trained sets; build it with --data")
    tasks, flagged = list(_groups(found["groups"])), list(_over_refusal(found["over_refusal"]))
    text = (
        f"{table(tasks)}\n\nHarmless prompts flagged, by set:\n\n{table(flagged)}\n\n{_heads(found['heads'])} "
        f"Bundle {bundle.spec.name} {bundle.spec.version} ({bundle.digest[:12]})."
    )
    print(text)
    if not arguments.quick:
        used = {"name": bundle.spec.name, "version": bundle.spec.version, "digest": bundle.digest}
        write("guard_quality", {"bundle": used, "by_task": tasks, "over_refusal": flagged, "heads": found["heads"]})
        into_document(DOCUMENT, "guard_quality", text)
    return tasks


def _groups(groups: list[Any]) -> Iterator[Row]:
    for group in groups:
        one, five = group["at"]
        yield {
            "head": group["head"],
            "task": group["name"],
            "harmful": group["positives"],
            "harmless": group["negatives"],
            "AUROC": _number(group["auroc"]),
            "average precision": _number(group["average_precision"]),
            "recall* at 1 %": _number(one["recall_here"]),
            "recall* at 5 %": _number(five["recall_here"]),
            "recall, 5 % target": _rate(five["recall"]),
            "false positives, 5 % target": _rate(five["fpr"]),
            "recall, 1 % target": _rate(one["recall"]),
            "false positives, 1 % target": _rate(one["fpr"]),
        }


def _over_refusal(rows: list[Any]) -> Iterator[Row]:
    for row in rows:
        yield {
            "set": row["dataset"],
            "n": row["n"],
            "at 80 % recall": _rate(row["at_recall"]),
            "at the 5 % target": _rate(row["at_target"].get("0.05")),
            "at the 1 % target": _rate(row["at_target"].get("0.01")),
        }


def _heads(heads: Any) -> str:  # noqa: ANN401 - a part of the card
    return f"Task named rightly: {_rate(heads['task'])}; refusals told from compliance: {_rate(heads['refusal'])}."


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _rate(value: Any) -> str:  # noqa: ANN401 - a part of the card
    return "" if value is None else f"{value['share']:.2f} ({value['low']:.2f}–{value['high']:.2f})"


if __name__ == "__main__":
    main()
