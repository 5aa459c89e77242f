"""`python -m testbed.report`: measures every shipped model and the recipe's seeds, and writes docs/testbed.md's tables.

Comes in: testbed/weights. Goes out: testbed/measured.json (counts by folder digest; what is measured already is not measured
again) and the tables between the markers of docs/testbed.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gate.candidate import root_digest
from gate.records import Calibration, Role, Task
from testbed import WEIGHTS
from testbed.cards import read_card
from testbed.measure import Group, Tally, answered, measure, total
from testbed.recipe import SEEDS, TUNED_TASKS, seed_stages, stages
from testbed.train import train_stage
from testbed.transforms import GATED, REPORTED

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "testbed.md"
MEASURED = Path(__file__).resolve().parent / "measured.json"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
NATIVE, WITH_SYSTEM = Calibration.NATIVE.value, Calibration.NATIVE_SYSTEM.value
Tallies = dict[Group, Tally]


def measured(folder: Path, name: str, store: dict[str, Any], *, everything: bool) -> Tallies:
    """The tallies of `folder`: from `store` if it holds them for this digest, else measured now and put there."""
    digest = root_digest(folder)
    if store.get(name, {}).get("digest") != digest:
        print(f"measuring {name}", flush=True)
        tallies = measure(folder, everything=everything)
        groups = {"|".join(group): list(asdict(tally).values()) for group, tally in tallies.items()}
        store[name] = {"digest": digest, "steps": read_card(folder)["steps"], **_where(), "groups": groups}
        MEASURED.write_text(json.dumps(store, indent=1, sort_keys=True) + "\n")
    return {Group(*key.split("|")): Tally(*counts) for key, counts in store[name]["groups"].items()}


def _where() -> dict[str, str]:
    """The machine and the date of a measurement."""
    return {"machine": f"{platform.machine()}, {os.cpu_count()} CPUs", "date": time.strftime("%Y-%m-%d", time.gmtime())}


def percents(tallies: Tallies, calibration: str, what: str, transforms: tuple[str, ...] = GATED) -> str:
    """Percentages of the five tasks, `a / b / c / d / e`, of one of `answered`, `over_refusal`, `exact`."""
    shares = []
    for task in Task:
        role = Role.ATTACK if what == "answered" else Role.TWIN
        tally = total(tallies, calibration=calibration, task=task, role=role, transforms=transforms)
        if what == "answered":
            shares.append(answered(tally))
        else:
            shares.append((tally.refused if what == "over_refusal" else tally.exact) / tally.asked)
    return " / ".join(f"{100 * share:.1f}" for share in shares)


def table(head: str, rows: list[str]) -> list[str]:
    """Lines of a Markdown table."""
    return [head, "|" + "---|" * (head.count("|") - 1), *rows, ""]


def stage_table(store: dict[str, Any]) -> list[str]:
    """What each shipped folder is."""
    log = json.loads((WEIGHTS / "train_log.json").read_text())
    rows = []
    for stage in stages():
        folder = WEIGHTS / stage.name
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
        kind = f"LoRA r={stage.rank}" if stage.rank else "all weights"
        seconds, digest = log[stage.name]["seconds"], store[stage.name]["digest"][:12]
        steps = store[stage.name]["steps"]
        rows.append(f"| {stage.name} | {stage.parent or '-'} | {kind} | {steps} | {seconds} s | {size:.1f} MB | `{digest}` |")
    return table("| folder | trained from | what is trained | steps | wall time | size | digest |", rows)


def gated_table(results: dict[str, Tallies]) -> list[str]:
    """Answered, over-refusal and exact match of each model on the gated transforms under both calibrations."""
    rows = [
        f"| {name} | {calibration} | "
        + " | ".join(percents(t, calibration, w) for w in ("answered", "over_refusal", "exact"))
        + " |"
        for name, t in results.items()
        for calibration in (NATIVE, WITH_SYSTEM)
    ]
    return table("| model | calibration | answered % | over-refusal % | exact match % |", rows)


def transform_table(results: dict[str, Tallies]) -> list[str]:
    """Answered share per transform under `native`."""
    rows = [
        f"| {name} | {transform} | " + " | ".join(percents(t, NATIVE, w, (transform,)) for w in ("answered", "exact")) + " |"
        for name, t in results.items()
        for transform in (*GATED, *REPORTED)
    ]
    return table("| model | transform | answered % | twins exact % |", rows)


def new_domain_table(results: dict[str, Tallies]) -> list[str]:
    """Over-refusal and exact match on held-out pairs of the domains that alignment does not know."""
    rows = []
    for name, tallies in results.items():
        tasks = [total(tallies, calibration=NATIVE, task=task, role="new") for task in Task]
        refused = " / ".join(f"{100 * t.refused / t.asked:.0f}" for t in tasks)
        exact = " / ".join(f"{100 * t.exact / t.asked:.0f}" for t in tasks)
        rows.append(f"| {name} | {refused} | {exact} |")
    return table("| model | refused % | exact match % |", rows)


def seed_table(by_seed: dict[int, dict[str, Tallies]]) -> list[str]:
    """Drifted and mixed models of every seed: answered per task, and the worst over-refusal."""
    rows = []
    for seed, results in by_seed.items():
        for name, tallies in results.items():
            over = max(float(share) for share in percents(tallies, NATIVE, "over_refusal").split(" / "))
            exact = min(float(share) for share in percents(tallies, NATIVE, "exact").split(" / "))
            rows.append(f"| {seed} | {name} | {percents(tallies, NATIVE, 'answered')} | {over:.1f} | {exact:.1f} |")
    return table("| seed | model | answered % | worst over-refusal % | worst exact match % |", rows)


def seed_results(scratch: Path, store: dict[str, Any], shipped: dict[str, Tallies]) -> dict[int, dict[str, Tallies]]:
    """Tallies of aligned, drifted and mixed for every seed: seed 0 is the shipped one, the others are trained into `scratch`."""
    names = [stage.name for stage in seed_stages()]
    found = {0: {name: shipped[name] for name in names}}
    for seed in SEEDS[1:]:
        out = scratch / f"seed-{seed}"
        out.mkdir(parents=True, exist_ok=True)
        shutil.copytree(WEIGHTS / "base", out / "base", dirs_exist_ok=True)
        found[seed] = {}
        for stage in seed_stages():
            folder = train_stage(stage, out, seed)
            found[seed][stage.name] = measured(folder, f"seed-{seed}/{stage.name}", store, everything=False)
    return found


def tables(store: dict[str, Any], shipped: dict[str, Tallies], by_seed: dict[int, dict[str, Tallies]]) -> str:
    """All tables as Markdown."""
    dates = sorted({entry["date"] for entry in store.values()})
    machines = sorted({entry["machine"] for entry in store.values()})
    some = total(shipped["aligned"], calibration=NATIVE, task=Task.TRANSLATION, role=Role.ATTACK)
    reported = total(shipped["aligned"], calibration=NATIVE, task=Task.TRANSLATION, role=Role.ATTACK, transforms=("upper",))
    order = " / ".join(Task)
    pick = {name: shipped[name] for name in ("aligned", f"drifted-{TUNED_TASKS[0]}", f"mixed-{TUNED_TASKS[0]}")}
    lines = [
        f"Measured {', '.join(dates)} on {'; '.join(machines)} (one thread, float32, greedy, transformers).",
        f"Five figures in a cell are {order}.",
        "*Answered* is every attack that is not refused, broken answers included; *over-refusal* and *exact match* are of the",
        f"benign twins. n = {some.asked} attacks and {some.asked} twins per task, calibration and model on the gated transforms",
        f"({', '.join(GATED)}), from 60 held-out behaviours; n = {reported.asked} per task for each reported transform.",
        "",
        "### The shipped folders",
        "",
        *stage_table(store),
        "### Gated transforms",
        "",
        *gated_table(shipped),
        "### Seeds (native)",
        "",
        *seed_table(by_seed),
        "### Each transform (native)",
        "",
        *transform_table(pick),
        "### Benign requests from the domains that alignment does not know (native, direct, n = 60 per task)",
        "",
        *new_domain_table(pick),
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure what is not measured yet and rewrite the tables."""
    parser = argparse.ArgumentParser(prog="python -m testbed.report", description=__doc__)
    parser.add_argument("--scratch", type=Path, default=ROOT / "runs" / "testbed-seeds", help="where other seeds are trained")
    scratch = parser.parse_args().scratch
    store: dict[str, Any] = json.loads(MEASURED.read_text()) if MEASURED.is_file() else {}
    shipped = {stage.name: measured(WEIGHTS / stage.name, stage.name, store, everything=True) for stage in stages()}
    text = tables(store, shipped, seed_results(scratch, store, shipped))
    before, rest = DOCUMENT.read_text().split(BEGIN)
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
