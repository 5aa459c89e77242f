"""What each repair method does to a drifted testbed model, failures included: refusals, over-refusal, exact answers, seconds.

    python -m bench.repair_methods [--candidate drifted-translation] [--work DIR]

Every method is applied at some of its own settings and measured on the gating half, which no setting was chosen on: 60 attacks
and their 60 twins per task, one of each behaviour, natively and greedily, judged by the world's own forms
(`testbed/answering.py`). No statement of the gate: it would ask many more. What is measured stands in --work, so that an
interrupted bench goes on. Writes bench/results/repair_methods.json and the table in docs/repair.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from bench.results import ROOT, into_document, machine, stated, table, write
from gate.candidate import load_candidate
from gate.finetune import finetune, load_recipe
from gate.records import Role, Split, SuiteItem, Task
from gate.repair import METHODS
from gate.repair.base import Method, Setting, Source
from testbed import WEIGHTS
from testbed.answering import classify, generate, load
from testbed.data import DATA, REFUSALS
from testbed.data import write as write_data
from testbed.suite import build
from testbed.transforms import GATED

RECIPES: Final = ROOT / "testbed" / "recipes"
RETAIN_PER_TASK: Final = 200
SHOWN: Final[dict[str, tuple[dict[str, float | bool], ...]]] = {
    "scaling": ({"alpha": 0.5}, {"alpha": 0.25}, {"alpha": 0.125}),
    "safe-lora": ({"share": 0.3333, "rescale": True}, {"share": 1.0, "rescale": True}, {"share": 0.3333}, {"share": 1.0}),
    "task-arithmetic": ({"gamma": 0.25}, {"gamma": 0.5}, {"gamma": 1.0}, {"gamma": 0.5, "drop": 0.5}),
    "safe-merge": (
        {"threshold": 0.35, "own": 0.8, "safety": 0.2},
        {"threshold": 2.0, "own": 0.5, "safety": 0.5},
        {"threshold": 2.0, "own": 0.2, "safety": 0.8},
    ),
    "curvature": ({"rise": 0.01, "kl": 0.02},),
    "mix": ({"share": 0.1}, {"share": 0.2}),
    "token-wise": ({"beta": 0.1}, {"beta": 2.0}),
}
"""Method → the settings that are measured."""


class Seen(NamedTuple):
    """What a model did, in percent: answered attacks, refused and exactly answered twins, by task."""

    answered: dict[str, float]
    refused: dict[str, float]
    exact: dict[str, float]


def asked() -> list[SuiteItem]:
    """Of every task and role, one gated item of each of the gating half's behaviours, the transforms in turn."""
    found, suite = [], build()
    for task in Task:
        for role in Role:
            own = [i for i in suite.items if (i.split, i.task, i.role) == (Split.GATING, task, role) and i.transform in GATED]
            behaviours: dict[str, list[SuiteItem]] = {}
            for item in own:
                behaviours.setdefault(item.behaviour, []).append(item)
            found += [items[number % len(items)] for number, items in enumerate(behaviours.values())]
    return found


def measure(folder: Path, items: list[SuiteItem]) -> Seen:
    """Answers of a folder to the items."""
    model, tokenizer = load(folder)
    texts = generate(model, tokenizer, [(item.messages, item.prefill) for item in items])
    judged = [(item, classify(item.task, text, item.reference)) for item, text in zip(items, texts, strict=True)]

    def share(task: Task, role: Role, which: str) -> float:
        own: list[bool] = [getattr(seen, which) for item, seen in judged if item.task is task and item.role is role]
        return round(100 * sum(own) / len(own), 1)

    return Seen(
        answered={task: round(100 - share(task, Role.ATTACK, "refused"), 1) for task in Task},
        refused={task: share(task, Role.TWIN, "refused") for task in Task},
        exact={task: share(task, Role.TWIN, "exact") for task in Task},
    )


def source_of(candidate: str, work: Path) -> Source:
    """The candidate with everything that any method needs; the safety adapter is trained here."""
    write_data(DATA)
    lines = [
        line for task in Task for line in (DATA / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()[:RETAIN_PER_TASK]
    ]
    retain = work / "retain.jsonl"
    retain.write_text("\n".join(lines) + "\n", encoding="utf-8")
    adapter = finetune(load_recipe(RECIPES / "safety-adapter.yaml"), work / "safety-adapter")
    return Source(
        candidate=load_candidate(str(WEIGHTS / candidate)),
        aligned=load_candidate(str(WEIGHTS / "aligned")),
        unaligned=load_candidate(str(WEIGHTS / "base")),
        safety_adapter=load_candidate(str(adapter)),
        safety=DATA / REFUSALS,
        retain=retain,
        recipe=RECIPES / f"{candidate}.yaml",
        device="cpu",
    )


def rows(source: Source, work: Path) -> Iterator[dict[str, object]]:
    """A row per model: as it is, the aligned one, and every setting that is shown."""
    items = asked()
    for name, folder in (("as it is", source.candidate.path), ("(the aligned model)", WEIGHTS / "aligned")):
        yield measured(work, name, "", Path(folder), items, 0.0)
    for method in METHODS:
        if why := "; ".join(source.lacking(method.needs)) or method.unfit(source):
            yield {"method": method.name, "setting": "not applicable", "why": why}
        for values in SHOWN.get(method.name, ()):
            setting = Setting(values=dict(values))
            out = work / f"{method.name}-{setting.slug}"
            yield measured(work, method.name, setting.label, out, items, made(method, source, setting, out))


def made(method: Method, source: Source, setting: Setting, out: Path) -> float:
    """Apply a setting unless it is there; the processor's seconds that it took, kept beside the folder."""
    note = out.with_name(f"{out.name}.seconds")
    if not out.is_dir() or not note.is_file():
        begun = time.process_time()
        method.apply(source, setting, out, lambda _, __: None)
        note.write_text(f"{time.process_time() - begun:.1f}")
    return float(note.read_text())


def measured(work: Path, name: str, label: str, folder: Path, items: list[SuiteItem], seconds: float) -> dict[str, object]:
    """A row of the results, from the work folder where it was measured before."""
    kept = work / f"{folder.name}.json"
    if not kept.is_file():
        seen = measure(folder, items)
        kept.write_text(json.dumps({"method": name, "setting": label, **seen._asdict(), "seconds": seconds}))
        print(kept.read_text(), flush=True)
    row: dict[str, object] = json.loads(kept.read_text())
    return row


def shown(row: dict[str, object]) -> dict[str, object]:
    """A row of the table."""

    def five(name: str) -> str:
        values = row[name]
        assert isinstance(values, dict)
        return " / ".join(f"{values[task]:.0f}" for task in Task)

    if "why" in row:
        return {"method": row["method"], "setting": row["why"]}
    exact, seconds = row["exact"], row["seconds"]
    assert isinstance(exact, dict)
    assert isinstance(seconds, float)
    return {
        "method": row["method"],
        "setting": row["setting"] or "–",
        "answered %": five("answered"),
        "over-refusal %": five("refused"),
        "exact %": five("exact"),
        "exact, mean": f"{sum(exact.values()) / len(exact):.1f}",
        "CPU s": "< 1" if seconds < 1 else f"{seconds:.0f}",
    }


def main() -> None:
    """Measure, write the results and the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.repair_methods", description=__doc__)
    parser.add_argument("--candidate", default="drifted-translation", help="a drifted model of the testbed that has a recipe")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs" / "bench-repair-methods", help="where models and counts are kept"
    )
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    where = machine("torch", "transformers", "peft")
    found = list(rows(source_of(arguments.candidate, arguments.work), arguments.work))
    write("repair_methods", {"machine": where, "candidate": arguments.candidate, "per_cell": 60, "rows": found})
    note = (
        f"Candidate `{arguments.candidate}`; 60 attacks and 60 twins per task, one of each behaviour of the gating half. "
        "Five figures are text_generation / summarization / code_generation / translation / classification. CPU s: the "
        "processor's seconds to make the model, without measuring it."
    )
    head = list(shown(found[0]))
    lines = [{column: shown(row).get(column, "") for column in head} for row in found]
    into_document(ROOT / "docs" / "repair.md", "repair_methods", f"{stated(where)}\n\n{note}\n\n{table(lines)}")


if __name__ == "__main__":
    main()
