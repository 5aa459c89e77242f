"""The story of a fine-tune on one screen: a recipe and a place come in, a finished folder is there in the end.

Killed at any moment, the same call goes on from the newest whole checkpoint and ends with the same bytes (on a CPU, with one
thread). Under `accelerate launch` every process calls this, and the first one writes.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gate.adapter_fit import read_json_object
from gate.candidate import load_candidate
from gate.endpoints.hf_load import is_out_of_memory
from gate.endpoints.hf_text import HfText
from gate.errors import InfrastructureError, RecipeError
from gate.finetune.card import CellRows, TrainingCard, hook_of, recipe_digest, stop_reason, told_recipe, versions
from gate.finetune.course import Collate, Course, Item
from gate.finetune.data import Example, Loaded, load_data
from gate.finetune.deliver import tidy
from gate.finetune.hooks import Observer, Progress, TokenWeights
from gate.finetune.ledger import Ledger
from gate.finetune.loop import run
from gate.finetune.mixing import Plan, Rows, hold_out, lay_down
from gate.finetune.model import check_needs, trainee
from gate.finetune.recipe import Recipe
from gate.finetune.text import Encoded, Writer
from gate.finetune.workplace import Identity, Workplace
from gate.hub import SCHEME
from gate.records import Candidate

if TYPE_CHECKING:
    from accelerate import PartialState


class Material(NamedTuple):
    """What is trained on, ready for the model."""

    cells: tuple[str, ...]
    examples: tuple[Example, ...]
    encoded: tuple[Encoded, ...]
    rows: Rows
    too_long: tuple[int, ...]
    plan: Plan
    pad: int
    """The padding's token; its places are masked and never trained on, so any will do."""


def finetune(recipe: Recipe, out: Path, *, observe: Observer = lambda _: None, token_weights: TokenWeights | None = None) -> Path:
    """Train as the recipe says, and leave the result at `out`; returns `out`.

    A folder of the same recipe, base and data is left as it is. Raises `RecipeError` (the recipe, its data, or what is at `out`),
    `CandidateError` and `UnsafeCandidateError` (the base), `InfrastructureError` (disk, memory, network).
    """
    check_needs(recipe)
    if token_weights is not None and recipe.method == "full":
        raise RecipeError(
            "token weights compare with the base, which method 'full' does not keep", mend="train with method: lora"
        )
    state = _processes()
    observe(Progress(phase="reading", note="the base is scanned and the data read"))
    base = load_base_candidate(recipe)
    loaded = load_data(recipe)
    digest = recipe_digest(recipe, base, loaded.files, hook_of(token_weights))
    place = Workplace(out)
    if place.already_there(digest):
        if state.is_main_process:
            place.clear()
        observe(Progress(phase="done", note=f"{place.out.name}: already there"))
        return place.out
    with place.locked() if state.is_main_process else nullcontext(), _generators_kept(), _memory_named():
        identity = Identity(
            recipe_digest=digest, versions=versions(), processes=state.num_processes, device=str(state.device.type)
        )
        if state.is_main_process:
            place.begin(identity)
        state.wait_for_everyone()
        _train(recipe, base, loaded, place, identity, state, observe, token_weights)
        if state.is_main_process:
            place.deliver()
            place.clear()
        state.wait_for_everyone()
    observe(Progress(phase="done", note=f"{place.out.name}: finished"))
    return place.out


def load_base_candidate(recipe: Recipe) -> Candidate:
    """The base, scanned and measured like any candidate. Raises `RecipeError` for an adapter."""
    local = not recipe.base.startswith(SCHEME)
    base = load_candidate(str(recipe.directory / Path(recipe.base).expanduser()) if local else recipe.base)
    if base.kind == "adapter":
        raise RecipeError(
            f"the base {recipe.base} is itself an adapter", expected="a full model", mend="train with output: merged first"
        )
    return base


def prepare(recipe: Recipe, base: Candidate, loaded: Loaded, processes: int, observe: Observer) -> Material:
    """Tokenise, leave out what is too long, part off the held-out rows, and lay down the run."""
    text = HfText(base)
    writer = Writer(text, recipe.format, text.stop_ids(None))
    examples = loaded.examples
    total = len(examples)
    encoded = writer.encode(examples, lambda done: observe(Progress(phase="reading", note=f"{done} of {total} rows tokenised")))
    limit = min(recipe.max_length, context_of(base))
    too_long = tuple(i for i, row in enumerate(encoded) if len(row.ids) > limit)
    left_out = set(too_long)
    kept = [i for i in range(total) if i not in left_out]
    _check_kept(recipe, examples, encoded, kept, limit)
    names = [example.cell for example in examples]
    if too_long:
        emptied = ", ".join(sorted({names[i] for i in too_long} - {names[i] for i in kept}))
        note = f"{len(too_long)} of {total} rows are longer than {limit} tokens: left out"
        observe(Progress(phase="reading", note=f"{note}, and with them all of {emptied}" if emptied else note))
    parted = hold_out([names[i] for i in kept], recipe.eval, recipe.seed)
    rows = Rows(tuple(kept[i] for i in parted.train), tuple(kept[i] for i in parted.held_out))
    plan = lay_down(recipe, names, [e.source for e in examples], [len(r.ids) for r in encoded], rows.train, processes)
    cells = tuple(sorted({names[i] for i in kept}))
    _check_measured(recipe, cells, {names[i] for i in rows.held_out})
    tokenizer = text.tokenizer
    pad = int(tokenizer.pad_token_id or tokenizer.eos_token_id or 0)
    return Material(cells, examples, tuple(encoded), rows, too_long, plan, pad)


def context_of(base: Candidate) -> int:
    """Most tokens that the base was made for; unbounded where its config does not say."""
    named = read_json_object(Path(base.path) / "config.json").get("max_position_embeddings")
    return named if isinstance(named, int) else sys.maxsize


def _check_kept(recipe: Recipe, examples: Sequence[Example], encoded: Sequence[Encoded], kept: Sequence[int], limit: int) -> None:
    """Refuse a run that would go without its data, or without the refusals that the recipe mixes in, for their length."""
    sides = {"row": range(len(recipe.data))}
    if recipe.safety is not None:
        sides["refusal"] = range(len(recipe.data), len(recipe.sources))
    for what, sources in sides.items():
        if not any(examples[i].source in sources for i in kept):
            shortest = min(len(row.ids) for row, example in zip(encoded, examples, strict=True) if example.source in sources)
            raise RecipeError(
                f"every {what} is longer than {limit} tokens",
                expected="prompts and answers within max_length and the base's context",
                found=f"the shortest has {shortest}",
                mend="raise max_length, or bring shorter ones",
            )


def _check_measured(recipe: Recipe, cells: Sequence[str], held_out: set[str]) -> None:
    """Refuse an evaluation that has no rows to measure on: of a cell with one row none is held out."""
    lacking = [cell for cell in cells if cell not in held_out]
    if recipe.eval is not None and (not held_out or (lacking and recipe.balance == "coba")):
        raise RecipeError(
            "there are no held-out rows to measure on",
            expected="two rows or more of every cell" if held_out else "two rows or more of some cell",
            found=f"one row of {', '.join(lacking)}",
            mend="bring more rows, or leave eval out",
        )


def _train(
    recipe: Recipe,
    base: Candidate,
    loaded: Loaded,
    place: Workplace,
    identity: Identity,
    state: PartialState,
    observe: Observer,
    token_weights: TokenWeights | None,
) -> None:
    """Train from the newest whole checkpoint on, and leave the finished folder in the working folder."""
    material = prepare(recipe, base, loaded, state.num_processes, observe)
    newest = place.newest()
    folder, ledger = newest or (None, Ledger())
    items = _items(material, material.plan.order)
    if ledger.stopped:  # nothing is left to do but to keep the best weights
        items = items[: ledger.step * recipe.batch * recipe.accumulation * state.num_processes]
    if folder is not None:
        observe(Progress(phase="training", step=ledger.step, steps=material.plan.steps, note=f"goes on after step {ledger.step}"))
    observe(Progress(phase="reading", steps=material.plan.steps, note="the model is loaded"))
    collate = Collate(material.pad, answers_only=recipe.loss_on == "answers")
    held_out = _items(material, material.rows.held_out)
    course = Course(recipe, material.cells, held_out, collate, ledger, observe, token_weights)
    trainer = run(recipe, trainee(recipe, base), course, items, collate, place.checkpoints, folder)
    trainer.save_model(str(place.finished))
    state.wait_for_everyone()
    if state.is_main_process:
        observe(Progress(phase="saving", step=trainer.state.global_step, steps=material.plan.steps))
        ledger = course.ledger.model_copy(update={"step": trainer.state.global_step})
        card = _card(recipe, base, loaded, material, ledger, identity, course.balance, token_weights)
        tidy(place.finished, place.out, recipe, base, card)


def _card(
    recipe: Recipe,
    base: Candidate,
    loaded: Loaded,
    material: Material,
    ledger: Ledger,
    identity: Identity,
    balance: Sequence[float],
    token_weights: TokenWeights | None,
) -> TrainingCard:
    def rows_of(cell: str, rows: Sequence[int]) -> int:
        return sum(material.examples[i].cell == cell for i in rows)

    best = recipe.early_stop is not None
    return TrainingCard(
        name=recipe.name,
        recipe=told_recipe(recipe),
        recipe_digest=identity.recipe_digest,
        base=told_recipe(recipe)["base"],
        base_revision=base.revision,
        base_digest=base.digest,
        data=loaded.files,
        cells={
            cell: CellRows(
                train=rows_of(cell, material.rows.train),
                held_out=rows_of(cell, material.rows.held_out),
                too_long=rows_of(cell, material.too_long),
            )
            for cell in sorted({example.cell for example in material.examples})
        },
        seed=recipe.seed,
        epoch_rows=material.plan.epoch_rows,
        steps=ledger.step,
        kept_step=ledger.best_step if best else ledger.step,
        stop_reason=stop_reason(recipe, ledger, material.plan.steps),
        training_loss=ledger.training,
        held_out_loss=ledger.held_out,
        balance=dict(zip(material.cells, balance, strict=True)) if recipe.balance == "coba" else {},
        token_weights=hook_of(token_weights),
        processes=identity.processes,
        device=identity.device,
        versions=identity.versions,
    )


def _items(material: Material, rows: Sequence[int]) -> list[Item]:
    number = {cell: place for place, cell in enumerate(material.cells)}
    return [Item(material.encoded[i], number[material.examples[i].cell]) for i in rows]


def _processes() -> PartialState:
    """The processes of this run: one, or those that `accelerate launch` began."""
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available())


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Leave the global generators, which the libraries seed, as they were."""
    import numpy as np
    import torch

    python, legacy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)


@contextmanager
def _memory_named() -> Iterator[None]:
    """Turn an exhausted memory into the gate's error."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise InfrastructureError(
                "out of memory while training",
                found=str(error)[:200],
                mend="a smaller batch with more accumulation, gradient_checkpointing: true, or a shorter max_length",
            ) from error
        raise
