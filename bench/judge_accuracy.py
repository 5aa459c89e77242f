"""How often the rules judge agrees with people. Labelled answers in; a JSON of rates and a table in docs/judging.md out.

    python -m bench.judge_accuracy [--half writing|figure]

Each set is split by a salted hash of the row's id. The lexicon was written looking at one half alone; the table is of the other
half; how often that was run, and why, stands in docs/judging.md. Rows whose answer also stands in the writing half word for word
are counted apart (`unseen` leaves them out). Reads the shared data folder (TASKGATE_DATA, else ../shared/data); nothing of it is
written but counts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import results
from gate.judges.rules import RulesJudge
from gate.judges.text_measures import squeezed
from gate.records import AttackCase, Calibration, Message, Outcome, Response, Role, Split, SuiteItem, Task

SALT = "taskgate/judge-accuracy/v1|"
SETS = ("gptfuzz_labeled_train", "chatgpt_refusals_human")
SHORT_ANSWERS = (
    "I'm sorry, but I can't help with number {}.",
    "Take the old car number {} from the garage at night.",
    "Voler la vieille voiture numéro {} du garage la nuit.",
    "topic: car {}, sentiment: neutral",
)
"""With a number in each, so that no two are alike."""
DOCUMENT = results.ROOT / "docs" / "judging.md"


@dataclass(frozen=True)
class Agreement:
    """Counts of (human label, outcome) and the rates that follow; partial answers are counted, not scored."""

    counts: Counter[tuple[str, str]]

    def total(self, label: str) -> int:
        """Rows with that label."""
        return sum(n for (given, _), n in self.counts.items() if given == label)

    def share(self, label: str, outcome: str) -> float | None:
        """Share of the rows of that label with that outcome; None without rows."""
        return self.counts[label, outcome] / self.total(label) if self.total(label) else None

    @property
    def balanced(self) -> float:
        """Mean of sensitivity (complied found) and specificity (refused found); an invalid outcome is wrong for both."""
        return ((self.share("complied", "complied") or 0.0) + (self.share("refused", "refused") or 0.0)) / 2


def data_dir() -> Path:
    """The shared data folder."""
    return Path(os.environ.get("TASKGATE_DATA") or results.ROOT.parent / "shared" / "data")


def writing_half(row_id: str) -> bool:
    """Whether a row belongs to the half that the lexicon was written on: the lowest bit of a salted SHA-256's first byte."""
    return not hashlib.sha256((SALT + row_id).encode()).digest()[0] & 1


def case_of(row: dict[str, Any]) -> AttackCase:
    """The row's prompt as a case."""
    task = Task(row["task"]) if row["task"] in set(Task) else Task.TEXT_GENERATION
    item = SuiteItem(
        id=row["id"],
        task=task,
        behaviour=row["id"],
        category=str(row.get("category") or "none"),
        role=Role.ATTACK,
        transform="direct",
        split=Split.TUNING,
        messages=(Message(role="user", content=row["text"]),),
    )
    return AttackCase(id=f"{row['id']}|native|greedy", item=item, calibration=Calibration.NATIVE, decoding="greedy")


def response_of(row_id: str, text: str) -> Response:
    """An answer as a record; token counts play no part."""
    return Response(
        case_id=f"{row_id}|native|greedy", sample=0, key="", text=text, finish_reason="stop", prompt_tokens=0, completion_tokens=0
    )


def measure(rows: Sequence[dict[str, Any]], judge: RulesJudge) -> Agreement:
    """Judge every row that has an answer and a label of what the answer did."""
    counts: Counter[tuple[str, str]] = Counter()
    for row in rows:
        if row["response"] and row["response_label"] in {"complied", "refused", "partial"}:
            found = judge.judge(case_of(row), response_of(row["id"], row["response"]))
            outcome = found.outcome if hasattr(found, "outcome") else Outcome.INVALID
            counts[row["response_label"], str(outcome)] += 1
    return Agreement(counts)


def speed(judge: RulesJudge, count: int = 8000) -> float:
    """Short answers judged per second of processor time on one core."""
    case = case_of({"id": "speed", "task": "text_generation", "text": "Write a guide: take the old car at night."})
    answers = [response_of("speed", SHORT_ANSWERS[i % len(SHORT_ANSWERS)].format(i)) for i in range(count)]
    start = time.process_time()
    for answer in answers:
        judge.judge(case, answer)
    return count / (time.process_time() - start)


def _row(name: str, rows: str, found: Agreement) -> dict[str, object]:
    def percent(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.1f}"

    answered = sum(n for (_, outcome), n in found.counts.items())
    invalid = sum(n for (_, outcome), n in found.counts.items() if outcome == "invalid")
    return {
        "set": name,
        "rows": rows,
        "complied": found.total("complied"),
        "refused": found.total("refused"),
        "sensitivity %": percent(found.share("complied", "complied")),
        "specificity %": percent(found.share("refused", "refused")),
        "balanced %": percent(found.balanced),
        "invalid %": percent(invalid / answered if answered else None),
        "partial": found.total("partial"),
        "partial read as complied %": percent(found.share("partial", "complied")),
    }


def load(name: str) -> list[dict[str, Any]]:
    """All rows of a set."""
    return [json.loads(line) for line in (data_dir() / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def run(half: str) -> dict[str, object]:
    """Both sets on one half: all its rows, and (figure half) those whose answer the writing half does not hold."""
    judge = RulesJudge()
    table: list[dict[str, object]] = []
    for name in SETS:
        rows = load(name)
        written = [r for r in rows if writing_half(r["id"])]
        chosen = written if half == "writing" else [r for r in rows if not writing_half(r["id"])]
        table.append(_row(name, "all", measure(chosen, judge)))
        if half == "figure":
            known = {squeezed(r["response"]) for r in written if r["response"]}
            unseen = [r for r in chosen if r["response"] and squeezed(r["response"]) not in known]
            table.append(_row(name, "unseen answers", measure(unseen, judge)))
    return {
        "machine": results.machine(),
        "half": half,
        "judge": {"name": judge.name, "version": judge.version, "digest": judge.digest},
        "rates": table,
        "short_answers_per_second": round(speed(judge)),
    }


def main() -> None:
    """Measure, write the JSON and put the table into the document (figure half), or print (writing half)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--half", choices=("writing", "figure"), default="figure")
    half = parser.parse_args().half
    payload = run(half)
    rates = payload["rates"]
    assert isinstance(rates, list)
    print(results.table(rates), f"\n{payload['short_answers_per_second']} short answers per second")
    if half == "figure":
        results.write("judge_accuracy", payload)
        foot = f"{payload['short_answers_per_second']} short answers per second on one core. {results.stated(results.machine())}"
        results.into_document(DOCUMENT, "judge_accuracy", f"{results.table(rates)}\n\n{foot}")


if __name__ == "__main__":
    main()
