"""LoRA steps per second, peak memory and what a resume costs, for a Llama of random weights.

    python -m bench.finetune_speed [--size tiny|small|1b] [--steps 40] [--batch 4] [--tokens 128] [--quick]

The base is drawn at random and saved with the testbed's tokenizer; rows are the testbed's requests, several of them joined until
a row has about `--tokens` tokens. The recipe is the paper's adapter (rank 64, seven linear layers) on answers with the task mean,
without held-out rows. Steps per second are taken from the fifth step to the last, checkpoints left out; then a second run is
broken off half-way and resumed. Runs on a GPU where torch finds one, and says on what. Writes bench/results/finetune_speed.json
and the table in docs/performance.md; with `--quick` it writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from bench.results import RESULTS, ROOT, into_document, machine, stated, table, write
from gate.candidate import root_digest
from gate.finetune import Progress, Recipe, finetune
from gate.records import Task
from testbed import WEIGHTS
from testbed.samples import Mix, stream

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4},
    "small": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8},
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "vocab_size": 32000,
    },
}
"""Llama configurations; 1b is TinyLlama's shape (1.1 billion parameters)."""
WARM = 5
"""Steps before the clock runs."""
ROWS = 400


def write_base(folder: Path, size: str) -> int:
    """A base of random weights in bfloat16 with the testbed's tokenizer; its number of parameters."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(**{"vocab_size": 2048, "max_position_embeddings": 2048, "tie_word_embeddings": True, **SIZES[size]})
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(WEIGHTS / "aligned" / name, folder / name)
    return int(sum(p.numel() for p in model.parameters()))


def write_rows(path: Path, tokens: int) -> None:
    """Rows of about so many tokens: requests joined to one, with their answers."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS / "aligned")
    samples = stream(Mix(harmful=0.0, refuse=True, new_domains=1.0, benign_tasks=(Task.TRANSLATION,)), 1)
    lines = []
    for _ in range(ROWS):
        prompts: list[str] = []
        answers: list[str] = []
        while not prompts or len(tokenizer(" ".join(prompts + answers))["input_ids"]) < tokens - 20:
            sample = next(samples)
            prompts.append(sample.messages[-1].content)
            answers.append(sample.answer)
        lines.append(json.dumps({"prompt": "\n".join(prompts), "answer": "\n".join(answers), "task": "translation"}) + "\n")
    path.write_text("".join(lines), encoding="utf-8")


def recipe_of(folder: Path, steps: int, batch: int, tokens: int) -> Recipe:
    """The paper's adapter."""
    return Recipe.model_validate(
        {
            "schema_version": "taskgate/recipe/v1",
            "name": "speed",
            "base": str(folder / "base"),
            "data": [{"path": str(folder / "rows.jsonl")}],
            "lora": {"r": 64, "alpha": 16, "dropout": 0.1},
            "batch": batch,
            "max_steps": steps,
            "max_length": tokens * 2,
            "save_every": max(1, steps // 2),
        }
    )


class BrokenOffError(Exception):
    """Raised to end a run half-way."""


class Clock:
    """Notes when each step was done, and the time that checkpoints took."""

    def __init__(self, *, stop_at: int = 0) -> None:
        self.begun = time.perf_counter()
        self.done: dict[int, float] = {}
        self._stop_at = stop_at

    def __call__(self, progress: Progress) -> None:
        """Note a step."""
        if progress.phase == "training" and progress.step not in self.done and not progress.note:
            self.done[progress.step] = time.perf_counter()
            if self._stop_at and progress.step == self._stop_at:
                raise BrokenOffError

    def steps_per_second(self, save_every: int) -> float:
        """Over the steps after the warm-up, those right after a checkpoint left out."""
        took = [
            self.done[step] - self.done[step - 1]
            for step in sorted(self.done)
            if step > WARM and step - 1 in self.done and (step - 1) % save_every
        ]
        return len(took) / sum(took)


def peak_memory() -> float:
    """GiB: what torch took of the GPU, or the most that this process was resident with."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measured(size: str, steps: int, batch: int, tokens: int) -> dict[str, object]:
    """A whole run, and one that is broken off half-way and resumed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parameters = write_base(folder / "base", size)
        write_rows(folder / "rows.jsonl", tokens)
        recipe = recipe_of(folder, steps, batch, tokens)
        clock = Clock()
        whole = finetune(recipe, folder / "whole", observe=clock)
        peak = peak_memory()
        half = recipe.save_every
        with suppress(BrokenOffError):
            finetune(recipe, folder / "resumed", observe=Clock(stop_at=half + 1))
        again = Clock()
        resumed = finetune(recipe, folder / "resumed", observe=again)
        first = again.done[min(again.done)]
        return {
            "size": size,
            "parameters": parameters,
            "batch": batch,
            "tokens": tokens,
            "steps": steps,
            "steps_per_second": clock.steps_per_second(half),
            "peak_memory_gib": peak,
            "begin_seconds": clock.done[1] - clock.begun,
            "resume_seconds": first - again.begun,
            "same_digest": root_digest(whole) == root_digest(resumed),
        }


def row(result: Mapping[str, object]) -> dict[str, object]:
    """A line of the table."""
    return {
        "model": f"{result['size']}, {int(str(result['parameters'])) / 1e6:.1f} M parameters",
        "device": result["device"],
        "batch × tokens": f"{result['batch']} × {result['tokens']}",
        "steps/s": f"{float(str(result['steps_per_second'])):.2f}",
        "peak memory, GiB": f"{float(str(result['peak_memory_gib'])):.2f}",
        "to the first step, s": f"{float(str(result['begin_seconds'])):.1f}",
        "resumed to the first step, s": f"{float(str(result['resume_seconds'])):.1f}",
        "digest after a resume": "the same" if result["same_digest"] else "another",
    }


def main(arguments: Sequence[str] | None = None) -> list[dict[str, object]]:
    """Measure and write; the results of this run, and in the files those of other sizes and devices beside them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--quick", action="store_true", help="write nothing")
    given = parser.parse_args(arguments)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} thread(s)"
    where = machine("torch", "transformers", "peft")
    result = {
        **measured(given.size, given.steps, given.batch, given.tokens),
        "device": device,
        "machine": stated({**where, "load average (15 min)": f"{os.getloadavg()[2]:.1f}"}),
    }
    if given.quick:
        return [result]
    file = RESULTS / "finetune_speed.json"
    before = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.is_file() else []
    rows = [old for old in before if (old["size"], old["device"]) != (given.size, device)] + [result]
    write("finetune_speed", {"rows": rows})
    text = table([row(each) for each in rows]) + "\n\n" + "\n".join(dict.fromkeys(str(each["machine"]) for each in rows))
    into_document(ROOT / "docs" / "performance.md", "finetune_speed", text)
    print(text)
    return rows


if __name__ == "__main__":
    main()
