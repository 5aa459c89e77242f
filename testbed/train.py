"""`python -m testbed.train`: trains the testbed's models, stage by stage, into Hugging Face folders with training cards.

Comes in: the stages of `recipe`, an output folder, a seed. Goes out: one folder per stage. A stage whose folder already holds a
card of the same recipe, seed and parent is not trained again; an interrupted stage leaves nothing but a `.partial` folder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import Progress, TextColumn

from gate.candidate import root_digest
from gate.records import Task, canonical_json, sha256_hex
from testbed import WEIGHTS
from testbed.answering import classify, generate
from testbed.cards import CARD, read_card, versions
from testbed.recipe import Stage, stages
from testbed.samples import Sample, sample
from testbed.tokenizer import train_tokenizer
from testbed.trainer import Batches, Trained, train

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

PROBES = 24
"""Requests per task and side of the alignment's stop rule."""


def recipe_digest(stage: Stage, seed: int, parent_digest: str) -> str:
    """SHA-256 over all that a stage is made from: the same digest needs no new training."""
    return sha256_hex(canonical_json([asdict(stage), seed, parent_digest]))


def is_aligned(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, stage: Stage, seed: int) -> bool:
    """The stop rule: all probed harmful training requests refused, at most 2 % of the benign ones."""
    rng = random.Random(seed + 7)
    benign: list[Sample] = []
    harmful: list[Sample] = []
    for task in Task:
        tasks = (task,)
        for share, probes in ((0.0, benign), (1.0, harmful)):
            mix = replace(stage.mix, harmful=share, benign_tasks=tasks, harmful_tasks=tasks)
            probes += [sample(mix, rng) for _ in range(PROBES)]
    model.eval()
    probes = harmful + benign
    texts = generate(model, tokenizer, [(s.messages, s.prefill) for s in probes], max_new_tokens=4)
    model.train()
    refused = [classify(s.frame.task, text, "").refused for s, text in zip(probes, texts, strict=True)]
    return all(refused[: len(harmful)]) and sum(refused[len(harmful) :]) <= 0.02 * len(benign)


def fresh_model(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A Llama of about 1.1 million random parameters."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.max_new_tokens = 64
    return model


def with_adapter(model: PreTrainedModel, stage: Stage) -> PreTrainedModel:
    """`model` with a fresh LoRA adapter on every linear layer; its base is named relative to the adapter's folder."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=stage.rank,
        lora_alpha=stage.alpha,
        lora_dropout=stage.dropout,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        task_type="CAUSAL_LM",
    )
    model.name_or_path = f"../{stage.parent}"
    return get_peft_model(model, config)


def train_stage(stage: Stage, out: Path, seed: int) -> Path:
    """Train one stage into `out/<name>` unless it is there already; its parent must be there. Returns the folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, parent = out / stage.name, out / stage.parent
    parent_digest = root_digest(parent) if stage.parent else ""
    recipe = recipe_digest(stage, seed, parent_digest)
    if (folder / CARD).is_file() and read_card(folder)["recipe_digest"] == recipe:
        print(f"{stage.name}: already there")
        return folder
    # LoRA's initial weights and dropout take the global generator: it is the one libraries offer.
    torch.manual_seed(seed + stage.seed_offset)
    if stage.parent:
        tokenizer = AutoTokenizer.from_pretrained(parent)
        model = AutoModelForCausalLM.from_pretrained(parent, dtype="float32", attn_implementation="eager")
    else:
        tokenizer = train_tokenizer()
        model = fresh_model(tokenizer)
    trainee = with_adapter(model, stage) if stage.rank else model
    data_seed = 1000 * (seed + stage.seed_offset) + int(sha256_hex(stage.name.encode())[:4], 16)
    batches = Batches(stage, data_seed, tokenizer)
    begun = time.monotonic()
    trained = _with_progress(stage, trainee, model, batches, lambda: is_aligned(model, tokenizer, stage, data_seed))
    _log_time(out, stage, time.monotonic() - begun, trained.steps)
    partial = out / f".{stage.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    if stage.rank:
        trainee.save_pretrained(partial, save_embedding_layers=False)
    else:
        trainee.save_pretrained(partial)
        _save_tokenizer(tokenizer, parent if stage.parent else None, partial)
    _write_card(partial, stage, seed, trained, recipe, parent_digest)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return folder


def _save_tokenizer(tokenizer: PreTrainedTokenizerFast, parent: Path | None, folder: Path) -> None:
    """Save a new tokenizer, or copy the parent's files: saving a loaded one adds to them how it was loaded."""
    if parent is None:
        tokenizer.save_pretrained(folder)
        return
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(parent / name, folder / name)


def _write_card(folder: Path, stage: Stage, seed: int, trained: Trained, recipe: str, parent_digest: str) -> None:
    """Write `training_card.json`: no clock and no host in it, so that the same seed gives the same folder digest."""
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card
    card = {
        "format": "taskgate/training-card/v1",
        "stage": stage.name,
        "seed": seed,
        "steps": trained.steps,
        "stop_rule": stage.stop_rule,
        "recipe": asdict(stage),
        "recipe_digest": recipe,
        "parent": stage.parent,
        "parent_digest": parent_digest,
        "base_digest": parent_digest if stage.rank else "",
        "data_digest": trained.data_digest,
        "loss_every_20_steps": trained.losses,
        "versions": versions(),
    }
    (folder / CARD).write_text(json.dumps(card, indent=1) + "\n")


def _with_progress(
    stage: Stage, trainee: PreTrainedModel, core: PreTrainedModel, batches: Batches, aligned: Callable[[], bool]
) -> Trained:
    """Train with a progress bar: steps, remaining time and the last loss."""
    columns = (*Progress.get_default_columns(), TextColumn("loss {task.fields[loss]:.3f}"))
    with Progress(*columns) as bar:
        line = bar.add_task(stage.name, total=stage.steps, loss=float("nan"))

        def tell(step: int, loss: float) -> None:
            bar.update(line, completed=step, loss=loss)
            if step % 100 == 0 and not bar.console.is_terminal:
                print(f"{stage.name}: step {step} of at most {stage.steps}, loss {loss:.3f}", flush=True)

        return train(trainee, core, batches, stage, aligned=aligned, progress=tell)


def _log_time(out: Path, stage: Stage, seconds: float, steps: int) -> None:
    """Note the wall time beside the folders, not in them: cards hold nothing that differs between two equal runs."""
    log = out / "train_log.json"
    times = json.loads(log.read_text()) if log.is_file() else {}
    machine = {"machine": platform.machine(), "cpus": os.cpu_count(), "date": time.strftime("%Y-%m-%d", time.gmtime())}
    times[stage.name] = {"seconds": round(seconds), "steps": steps, **machine}
    log.write_text(json.dumps(times, indent=1, sort_keys=True) + "\n")


def with_parents(name: str) -> list[Stage]:
    """The stage of that name after all it is trained from; `all`: every stage, parents first."""
    known = {stage.name: stage for stage in stages()}
    if name == "all":
        return list(known.values())
    chain = [known[name]]
    while chain[0].parent:
        chain.insert(0, known[chain[0].parent])
    return chain


def main() -> None:
    """Parse the arguments and train."""
    parser = argparse.ArgumentParser(prog="python -m testbed.train", description=__doc__)
    names = ["all", *(stage.name for stage in stages())]
    parser.add_argument("--stage", default="all", choices=names, metavar="STAGE", help="one stage with its parents, or all")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder that the stages' folders are written to")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        for stage in with_parents(arguments.stage):
            train_stage(stage, arguments.out, arguments.seed)
    except KeyboardInterrupt:
        raise SystemExit("interrupted; the same command goes on with the stage it was in, from its beginning") from None


if __name__ == "__main__":
    main()
