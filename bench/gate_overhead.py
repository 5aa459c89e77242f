"""Wall time of a whole `gate check` ÷ bare transformers `generate` on the same prompts in the same batches, in one process.

    python -m bench.gate_overhead [--repeats 3]

Both load the testbed's aligned model, tokenise and generate; the gate also plans, stores with one sync a batch, judges, tests,
decides and renders its reports. Rounds alternate, so that a drifting machine slows both. Writes bench/results/gate_overhead.json
and the table in docs/performance.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.results import ROOT, into_document, machine, stated, table, write
from gate import pipeline
from gate.candidate import load_candidate
from gate.endpoints.hf_local import HfLocal
from gate.judges import make_judge
from gate.policy import load_policy
from gate.records import Ask, AttackCase, Candidate, EngineInfo, NoResponse, Response
from gate.suites import load_suite
from testbed import WEIGHTS

BATCH = 64


class Recording:
    """An endpoint that notes which batches it was asked."""

    def __init__(self, inner: HfLocal, batches: list[list[tuple[str, int]]]) -> None:
        self._inner = inner
        self._batches = batches

    @property
    def info(self) -> EngineInfo:
        """The engine's own."""
        return self._inner.info

    def render(self, case: AttackCase) -> str:
        """The engine's own."""
        return self._inner.render(case)

    def generate(self, asks: Sequence[Ask]) -> Iterator[Response | NoResponse]:
        """Note the batch, then generate."""
        self._batches.append([(ask.prompt, ask.decoding.max_new_tokens) for ask in asks])
        return self._inner.generate(asks)

    def close(self) -> None:
        """The engine's own."""
        self._inner.close()


def gate_wall(inputs: pipeline.Inputs, batches: list[list[tuple[str, int]]]) -> float:
    """Seconds of one whole check in a new folder."""

    def open_endpoint(candidate: Candidate) -> Recording:
        return Recording(HfLocal(candidate, batch_size=BATCH), batches)

    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        pipeline.check(inputs, Path(folder) / "run", open_endpoint, batch_size=BATCH)
        return time.perf_counter() - begun


def bare_wall(path: str, batches: Sequence[Sequence[tuple[str, int]]]) -> float:
    """Seconds of transformers alone on the same batches: load, tokenise, generate, decode."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    begun = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left", local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(path, local_files_only=True, dtype=torch.float32).eval()
    with torch.inference_mode():
        for batch in batches:
            encoded = tokenizer([p for p, _ in batch], return_tensors="pt", padding=True, add_special_tokens=False)
            out = model.generate(
                input_ids=encoded["input_ids"],
                attention_mask=encoded["attention_mask"],
                max_new_tokens=batch[0][1],
                do_sample=False,
            )
            tokenizer.batch_decode(out[:, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
    return time.perf_counter() - begun


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    loaded = load_policy(ROOT / "policies" / "demo.yaml")
    inputs = pipeline.Inputs(
        policy=loaded.policy,
        suite=load_suite(loaded.policy.suite, relative_to=loaded.directory),
        candidate=load_candidate(str(WEIGHTS / "aligned")),
        judge=make_judge(loaded.policy.judge),
        today="2026-01-01",
    )
    batches: list[list[tuple[str, int]]] = []
    gate_wall(inputs, batches)  # a warm-up, which also yields the batches
    bare_wall(inputs.candidate.path, batches[:2])
    gate_times, bare_times = [], []
    for _ in range(repeats):
        gate_times.append(gate_wall(inputs, []))
        bare_times.append(bare_wall(inputs.candidate.path, batches))
    ratios = [g / b for g, b in zip(gate_times, bare_times, strict=True)]
    prompts = sum(map(len, batches))
    where = machine("torch", "transformers")
    payload = {
        "machine": where,
        "prompts": prompts,
        "batch_size": BATCH,
        "gate_seconds": gate_times,
        "bare_seconds": bare_times,
        "ratio": ratios,
        "ratio_median": statistics.median(ratios),
    }
    write("gate_overhead", payload)
    row = {
        "prompts": prompts,
        "batch": BATCH,
        "gate check, s (median)": f"{statistics.median(gate_times):.1f}",
        "bare generate, s (median)": f"{statistics.median(bare_times):.1f}",
        "ratio (median; min–max)": f"{statistics.median(ratios):.2f}; {min(ratios):.2f}–{max(ratios):.2f}",
    }
    text = table([row]) + "\n\n" + stated(where)
    into_document(ROOT / "docs" / "performance.md", "gate_overhead", text)
    print(text)


if __name__ == "__main__":
    main()
