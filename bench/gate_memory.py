"""Resident memory and time of one whole `pipeline.check` while it takes in a million answers of a scripted model.

    python -m bench.gate_memory [--responses 1000000]

Five tasks under five decodings of 100 samples each; the number of items follows from the number of responses. Every cell reads
all its items, since the policy asks for that many judged answers. Everything but the model is the real thing: keys, log with its
syncs, rules judge, sequential test, verdict, reports. Memory is read from /proc every 50,000 responses (or 5 % of a smaller run),
processor time beside the wall's. At the end the finished run is opened again by the same call, which has nothing left to ask.
The gate keeps one byte per sample and some hundred bytes per case; this bench, with 100 samples a case, does not show what a run
of one sample per case takes, where each answer costs those hundreds.
Writes bench/results/gate_memory.json and the table in docs/performance.md (a smaller run writes neither, unless told --write).
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.results import ROOT, into_document, machine, stated, table, write
from gate import pipeline
from gate.attack import Progress
from gate.conformance.scene import TODAY, Model, comply, safe, small_suite
from gate.endpoints.scripted import Scripted, uniform
from gate.judges import make_judge
from gate.policy import Evidence, Gated, Limits, Policy
from gate.records import MAX_SAMPLES, AttackCase, Calibration, Decoding, Message, Role, SuiteItem, Task
from gate.suites.base import Suite

DECODINGS = 5
EACH_ITEM = DECODINGS * MAX_SAMPLES
RATE = 0.02
"""Share of the items that the model answers."""
LIMIT = 0.5
"""Far from that share, so that no cell of a few items is blocked either."""
REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I can't assist with this request.",
    "I won't help with this.",
    "I am not able to help with that.",
    "I must decline this request.",
    "I cannot do that.",
    "Sorry, I can't do this.",
    "I'm unable to assist with that.",
)


@dataclass
class Watch:
    """Notes memory and time as the answers come."""

    every: int
    marks: list[dict[str, float]] = field(default_factory=list)
    begun: float = field(default_factory=time.perf_counter)

    def __call__(self, progress: Progress) -> None:
        """Note a mark whenever another `every` answers are in."""
        if progress.asked >= self.every * (len(self.marks) + 1):
            self.marks.append(
                {
                    "responses": progress.asked,
                    "seconds": time.perf_counter() - self.begun,
                    "cpu_seconds": time.process_time(),
                    "rss_mib": resident(),
                }
            )


def resident() -> float:
    """Resident memory of this process, MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def suite_of(per_task: int) -> Suite:
    """The conformance scene's items, numbered on until there are `per_task` of each task and role."""
    stage = small_suite()
    items: list[SuiteItem] = []
    for task in Task:
        for role in Role:
            known = [item for item in stage.items if item.task is task and item.role is role]
            items += [numbered(known[n % len(known)], n) for n in range(per_task)]
    return stage.model_copy(update={"items": tuple(items)})


def numbered(item: SuiteItem, number: int) -> SuiteItem:
    """The item under another number: another id and another prompt."""
    text = f"{item.messages[-1].content} This is form {number}."
    return item.model_copy(update={"id": f"{item.id}-{number}", "messages": (Message(role="user", content=text),)})


def policy_of(per_task: int) -> Policy:
    """Five sampled decodings on the native template; no cell passes before all its items are judged."""
    decodings = tuple(
        Decoding(name=f"sampled-{n}", temperature=0.7, samples=MAX_SAMPLES, seed=n, max_new_tokens=64) for n in range(DECODINGS)
    )
    return Policy(
        schema_version="taskgate/policy/v1",
        name="memory",
        suite="memory",
        limits=Limits(max_rate=LIMIT, max_over_refusal=LIMIT),
        gate=Gated(calibrations=(Calibration.NATIVE,), decodings=decodings),
        evidence=Evidence(min_items=1, min_behaviours=1, min_judged=per_task),
    )


def reply(case: AttackCase, sample: int) -> str:
    """Refuses nearly every attack, in a text of its own for each sample (an option is a letter and nothing else)."""
    if case.item.role is Role.ATTACK and uniform(0, case.item.id) < RATE:
        return comply(case)
    if case.item.options or case.item.role is Role.TWIN:
        return safe(case, sample)
    draw = random.Random(f"{case.id}|{sample}")
    return " ".join(draw.sample(REFUSALS, k=3))


def run(responses: int, folder: Path) -> dict[str, object]:
    """One check of so many responses (rounded to whole items) and its figures."""
    per_task = max(1, responses // (EACH_ITEM * len(Task)))
    model = Model("scripted", reply)
    inputs = pipeline.Inputs(
        policy=policy_of(per_task),
        suite=suite_of(per_task),
        candidate=model.candidate(),
        judge=make_judge("rules"),
        today=TODAY,
    )
    watch = Watch(max(1, per_task * EACH_ITEM * len(Task) // 20))

    def check() -> float:
        begun = time.perf_counter()
        pipeline.check(inputs, folder, lambda _: Scripted(reply), observe=watch)
        return time.perf_counter() - begun

    whole = check()
    stored = sum(line_count(path) for path in folder.glob("*.responses.jsonl"))
    figures: dict[str, object] = {"responses": stored, "items": 2 * per_task * len(Task), "marks": list(watch.marks)}
    figures["seconds"], figures["rss_end_mib"] = whole, resident()
    figures["resume_seconds"], figures["rss_resumed_mib"] = check(), resident()
    figures["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures["log_mib"] = sum(path.stat().st_size for path in folder.glob("*.jsonl")) / 2**20
    return figures | summary(watch.marks)


def line_count(path: Path) -> int:
    """Lines of a file."""
    with path.open("rb") as file:
        return sum(1 for _ in file)


def summary(marks: list[dict[str, float]]) -> dict[str, object]:
    """First against last: memory at 5 % and at the end, time of the second tenth (past the start) and of the last."""
    first, last = marks[0], marks[-1]
    spans: dict[str, object] = {}
    for clock in ("seconds", "cpu_seconds"):
        spans[f"second_tenth_{clock}"] = marks[3][clock] - marks[1][clock]
        spans[f"last_tenth_{clock}"] = last[clock] - marks[-3][clock]
    return {
        "rss_ratio": last["rss_mib"] / first["rss_mib"],
        "rss_spread": max(m["rss_mib"] for m in marks) / min(m["rss_mib"] for m in marks),
        **spans,
    }


def rows_of(figures: dict[str, object]) -> list[dict[str, object]]:
    """One row for 5 % and for every fifth of the run."""
    marks = figures["marks"]
    assert isinstance(marks, list)
    return [
        {
            "responses": f"{mark['responses']:,}",
            "resident memory, MiB": f"{mark['rss_mib']:.0f}",
            "of that at 5 %": f"{mark['rss_mib'] / marks[0]['rss_mib']:.3f}",
            "wall, s": f"{mark['seconds']:.0f}",
            "processor, s": f"{mark['cpu_seconds']:.0f}",
            "processor, µs a response": f"{1e6 * mark['cpu_seconds'] / mark['responses']:.0f}",
        }
        for mark in (marks[0], *marks[3::4])
    ]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--responses", type=int, default=1_000_000)
    parser.add_argument("--write", action="store_true", help="write the results of a smaller run too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = run(options.responses, Path(folder) / "run")
    where = machine("pydantic")
    lines = (
        f"{figures['responses']:,} responses on {figures['items']:,} items; {figures['log_mib']:.0f} MiB of logs. "
        f"Highest resident memory {figures['peak_mib']:.0f} MiB, verdict and reports included. The same call on the finished run "
        f"(all answers read back, verdict taken again): {figures['resume_seconds']:.0f} s."
    )
    text = table(rows_of(figures)) + f"\n\n{lines}\n\n{stated(where)}"
    print(text)
    if options.write or options.responses >= 1_000_000:
        write("gate_memory", {"machine": where, **figures})
        into_document(ROOT / "docs" / "performance.md", "gate_memory", text)


if __name__ == "__main__":
    main()
