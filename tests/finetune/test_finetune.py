"""Whole fine-tunes of the testbed's model, a few steps each: what lies in the folder, what the card tells, what is refused."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gate.candidate import load_candidate, root_digest
from gate.endpoints.hf_load import load_model
from gate.errors import CandidateError, RecipeError
from gate.finetune import Progress, finetune
from gate.hub import Listing
from gate.records import Candidate, Task, sha256_hex
from testbed import WEIGHTS
from tests.finetune.recipes import ROWS, read_card, small, write_refusals, write_rows

BASE = WEIGHTS / "aligned"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of six steps."""
    folder = tmp_path_factory.mktemp("trained")
    return finetune(small(folder), folder / "out")


def logits_of(candidate: Candidate) -> torch.Tensor:
    """What the model says to a fixed text."""
    with torch.no_grad():
        model = load_model(candidate, torch.device("cpu"), torch.float32)
        found: torch.Tensor = model(torch.arange(3, 40)[None]).logits
    return found


def test_the_gate_takes_the_folder_with_its_base_and_card(trained: Path) -> None:
    """Ingest finds base, tokenizer, template and card, and has nothing to warn of."""
    candidate = load_candidate(str(trained))
    assert (candidate.kind, candidate.base_digest, candidate.warnings) == ("adapter", root_digest(BASE), ())
    assert candidate.training_card == read_card(trained)
    assert candidate.tokenizer_digest == load_candidate(str(BASE)).tokenizer_digest


def test_the_card_tells_data_steps_and_curves_and_nothing_of_the_machine(trained: Path) -> None:
    """Digest and rows of the file, a point every two steps, and no absolute path."""
    card = read_card(trained)
    data = trained.parent / "translation.jsonl"
    assert card["format"] == "taskgate/training-card/v2"
    assert card["data"] == [
        {"path": data.name, "sha256": sha256_hex(data.read_bytes()), "rows": ROWS, "task": "translation", "kind": "task"}
    ]
    assert [point["step"] for point in card["training_loss"]] == [2, 4, 6]
    assert (card["steps"], card["stop_reason"]) == (6, "all 6 steps were taken")
    assert str(trained.parent) not in json.dumps(card)


def test_only_what_ships_lies_in_the_folder(trained: Path) -> None:
    """Neither optimizer states nor pickles nor an empty model card; the working folder is gone."""
    assert {file.name for file in trained.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
        "training_card.json",
    }
    assert not list(trained.parent.glob(".*"))


def test_the_adapter_changes_what_the_base_says(trained: Path) -> None:
    """Training moved the weights."""
    assert not torch.allclose(logits_of(load_candidate(str(trained))), logits_of(load_candidate(str(BASE))), atol=1e-3)


def test_the_same_recipe_is_not_trained_again_and_another_is_refused(trained: Path, tmp_path: Path) -> None:
    """A finished folder is left as it is; for another seed it is an error with a mend."""
    notes: list[str] = []
    (trained.parent / ".out.partial").mkdir()  # what a kill leaves between the folder's appearance and the end
    before = (trained / "adapter_model.safetensors").stat().st_mtime_ns
    assert finetune(small(trained.parent), trained, observe=lambda p: notes.append(p.note)) == trained
    assert notes[-1] == "out: already there"
    assert not (trained.parent / ".out.partial").exists()
    assert (trained / "adapter_model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(RecipeError, match="is not of this recipe") as caught:
        finetune(small(trained.parent, seed=1), trained)
    assert "choose another --out" in caught.value.diagnostics()


def test_a_place_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    """A folder that no fine-tune wrote is neither trained over nor changed."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(RecipeError, match="is not of this recipe"):
        finetune(small(tmp_path), tmp_path / "out")
    assert (tmp_path / "out" / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_equal_runs_give_equal_bytes_and_leave_the_global_generators_alone(trained: Path) -> None:
    """A second run beside the first has its digest; the caller's random numbers go on as if nothing had been."""
    torch.manual_seed(7)
    random.seed(7)
    wanted = (torch.rand(1), random.random())
    torch.manual_seed(7)
    random.seed(7)
    again = finetune(small(trained.parent), trained.parent / "again")
    assert root_digest(again) == root_digest(trained)
    assert (torch.rand(1), random.random()) == wanted


def test_accumulated_batches_train_as_one_whole_batch_does(tmp_path: Path) -> None:
    """Two micro-batches of two rows, with two tasks and refusals, give the weights of one batch of four."""
    data = [{"path": str(write_rows(tmp_path, task))} for task in (Task.TRANSLATION, Task.CODE_GENERATION)]
    safety = {"data": [{"path": str(write_refusals(tmp_path))}], "share": 0.4}
    told = {"data": data, "safety": safety, "lora": {"r": 4, "alpha": 4}, "max_steps": 4}
    whole = finetune(small(tmp_path, **told), tmp_path / "whole")
    parts = finetune(small(tmp_path, **told, batch=2, accumulation=2), tmp_path / "parts")
    one, other = (load_file(folder / "adapter_model.safetensors") for folder in (whole, parts))
    assert max((one[name] - other[name]).abs().max().item() for name in one) < 1e-5
    cells = {cell for point in read_card(whole)["training_loss"] for cell in point["losses"]}
    assert {"translation/task", "code_generation/task"} < cells
    assert any(cell.endswith("/safety") for cell in cells)


def test_a_merged_output_is_a_whole_model_that_says_what_the_adapter_says(trained: Path) -> None:
    """Same training, written as one model: the gate takes it without a base, and its logits are the adapter's."""
    merged = finetune(small(trained.parent, output="merged"), trained.parent / "merged")
    candidate = load_candidate(str(merged))
    assert (candidate.kind, candidate.warnings) == ("model", ())
    assert torch.allclose(logits_of(candidate), logits_of(load_candidate(str(trained))), atol=1e-5)


def test_full_training_leaves_a_whole_model(tmp_path: Path) -> None:
    """Every weight is trained, none is an adapter's."""
    out = finetune(small(tmp_path, method="full", lora={}, max_steps=2, lr=1e-4), tmp_path / "out")
    before, after = (load_file(folder / "model.safetensors") for folder in (BASE, out))
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert load_candidate(str(out)).training_card is not None


def test_early_stop_keeps_the_best_step(tmp_path: Path) -> None:
    """At a rate that ruins the model the run ends early, with the weights that a run to the best step has."""
    told = {"lr": 0.5, "schedule": "constant", "warmup_ratio": 0.0, "eval": {"share": 0.1, "every": 1}}
    out = finetune(small(tmp_path, **told, max_steps=40, early_stop={"patience": 1}), tmp_path / "out")
    card = read_card(out)
    means = {point["step"]: sum(point["losses"].values()) / len(point["losses"]) for point in card["held_out_loss"]}
    best = min(means, key=lambda step: means[step])
    assert card["steps"] < 40
    assert card["kept_step"] == best
    assert card["stop_reason"].startswith(f"early stop at step {card['steps']} of 40")
    short = finetune(small(tmp_path, **told, max_steps=best), tmp_path / "short")
    kept, wanted = (load_file(folder / "adapter_model.safetensors") for folder in (out, short))
    assert all(torch.equal(kept[name], wanted[name]) for name in wanted)


def test_coba_weighs_the_tasks_after_its_warm_up(tmp_path: Path) -> None:
    """The card tells unequal weights that sum to one, over every task and its refusals."""
    safety = {"data": [{"path": str(write_refusals(tmp_path))}], "share": 0.5}
    coba = {"warm_up": 3, "window": 6, "rows_per_cell": 1}
    told = small(tmp_path, safety=safety, balance="coba", coba=coba, eval={"share": 0.2, "every": 6})
    balance = read_card(finetune(told, tmp_path / "out"))["balance"]
    assert sum(balance.values()) == pytest.approx(1.0)
    assert len(balance) == 6
    assert len(set(balance.values())) > 1


class OnlyTheFirst:
    """Weights that train the first token of every answer alone."""

    name = "only-the-first"
    settings: Mapping[str, int] = {"tokens": 1}

    def __init__(self) -> None:
        self.seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def __call__(self, losses: torch.Tensor, reference: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """One for the first token, nought for the others."""
        self.seen.append((losses, reference, places))
        return (places < 1).to(losses.dtype)


def test_token_weights_see_the_bases_losses_and_stand_in_the_card(tmp_path: Path) -> None:
    """Before the first step model and base agree, later they differ; places count from the answer's begin."""
    hook = OnlyTheFirst()
    told = small(tmp_path, lora={"r": 4, "alpha": 4}, max_steps=3, lr=1e-2)
    out = finetune(told, tmp_path / "out", token_weights=hook)
    losses, reference, places = hook.seen[0]
    assert torch.allclose(losses, reference, atol=1e-4)
    assert (places == 0).sum() == 4
    assert not torch.allclose(hook.seen[-1][0], hook.seen[-1][1], atol=1e-3)
    card = read_card(out)
    assert card["token_weights"] == {"name": "only-the-first", "settings": {"tokens": 1}}
    assert card["recipe_digest"] != read_card(finetune(told, tmp_path / "plain"))["recipe_digest"]


def test_an_observer_sees_every_step_and_the_loss_of_every_task(tmp_path: Path) -> None:
    """Progress counts up to the last step, with the cells' losses beside it."""
    seen: list[Progress] = []
    finetune(small(tmp_path, max_steps=4), tmp_path / "out", observe=seen.append)
    assert [p.step for p in seen if p.phase == "training"] == [1, 2, 3, 4]
    assert seen[-1].phase == "done"
    assert [set(p.losses) for p in seen if p.phase == "training"][-1] == {"translation/task"}


def test_rows_that_are_too_long_are_left_out_and_counted(tmp_path: Path) -> None:
    """The card counts them; when none fits the recipe is refused with the shortest row's length."""
    card = read_card(finetune(small(tmp_path, max_length=40, max_steps=1), tmp_path / "out"))
    cell = card["cells"]["translation/task"]
    assert 0 < cell["too_long"] < ROWS
    assert cell["train"] + cell["too_long"] == ROWS
    with pytest.raises(RecipeError, match="every row is longer than 8 tokens") as caught:
        finetune(small(tmp_path, max_length=8), tmp_path / "none")
    assert caught.value.found.startswith("the shortest has")


def test_a_run_does_not_go_without_the_refusals_that_it_asks_for(tmp_path: Path) -> None:
    """Refusals that are all too long are an error, not a mix of nothing."""
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps({"prompt": "word " * 400, "answer": "No.", "task": "translation"}) + "\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="every refusal is longer than 256 tokens"):
        finetune(small(tmp_path, safety={"data": [{"path": str(long)}], "share": 0.2}), tmp_path / "out")


def test_a_cell_that_loses_all_its_rows_for_their_length_is_named(tmp_path: Path) -> None:
    """A task whose refusals are all too long has none to learn from: the run says which, and the card counts them."""
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps({"prompt": "word " * 400, "answer": "No.", "task": "summarization"}) + "\n", encoding="utf-8")
    safety = {"data": [{"path": str(write_refusals(tmp_path, rows=1))}, {"path": str(long)}], "share": 0.2}
    notes: list[str] = []
    out = finetune(small(tmp_path, safety=safety, max_steps=1), tmp_path / "out", observe=lambda p: notes.append(p.note))
    assert any(note.endswith("left out, and with them all of summarization/safety") for note in notes)
    assert read_card(out)["cells"]["summarization/safety"] == {"train": 0, "held_out": 0, "too_long": 1}


def test_an_evaluation_without_rows_is_refused(tmp_path: Path) -> None:
    """One row leaves none to hold out; CoBa wants some of every cell, a refusal's too."""
    (tmp_path / "few").mkdir()
    one = {"data": [{"path": str(write_rows(tmp_path / "few", rows=1))}]}
    safety = {"data": [{"path": str(write_refusals(tmp_path / "few", rows=1))}], "share": 0.5}
    for changes in (one, {"safety": safety, "balance": "coba"}):
        with pytest.raises(RecipeError, match="no held-out rows") as caught:
            finetune(small(tmp_path, **changes, eval={"share": 0.5}), tmp_path / "out")
        assert "one row of" in caught.value.found


def test_a_training_that_diverges_is_an_error_and_leaves_no_model(tmp_path: Path) -> None:
    """Weights that are no numbers any more are neither measured on nor delivered; the task is named, and what to change."""
    ruin = {"method": "full", "lora": {}, "lr": 0.99, "schedule": "constant", "warmup_ratio": 0.0, "weight_decay": 1e30}
    with pytest.raises(RecipeError, match="has diverged") as caught:
        finetune(small(tmp_path, **ruin, max_steps=4), tmp_path / "out")
    assert "translation/task" in caught.value.found
    assert "lower lr" in caught.value.mend
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"method": "qlora"}, "method: qlora needs what is not here"),
        ({"optimizer": "paged_adamw"}, "optimizer: paged_adamw needs what is not here"),
        ({"dtype": "float16"}, "needs a GPU"),
        ({"base": str(WEIGHTS / "drifted-translation")}, "is itself an adapter"),
        ({"lora": {"targets": ["c_attn"]}}, "no layer called c_attn"),
        ({"lora": {"targets": ["q_proj", "input_layernorm"]}}, "no layer called input_layernorm"),
    ],
)
def test_what_this_machine_or_base_lacks_is_said_before_training(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    """A recipe that can't be carried out here ends with what is expected and what to do, and leaves nothing at its place."""
    with pytest.raises(RecipeError, match=says) as caught:
        finetune(small(tmp_path, **changes), tmp_path / "out")
    assert caught.value.mend
    assert not (tmp_path / "out").exists()


def test_a_pinned_base_of_a_hub_is_named_with_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapter's config names repository and commit, by which the gate finds the base again."""
    commit = "a" * 40
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kept = tmp_path / "cache" / "taskgate" / "hub" / "org--tiny" / commit
    shutil.copytree(BASE, kept)
    sizes = {file.name: file.stat().st_size for file in kept.iterdir()}
    listing = Listing(repo="org/tiny", commit=commit, sizes=sizes)
    kept.with_name(f"{commit}.listing.json").write_text(listing.model_dump_json(), encoding="utf-8")
    out = finetune(small(tmp_path, base=f"hf://org/tiny@{commit}", max_steps=1), tmp_path / "out")
    config = json.loads((out / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/tiny", commit)
    card = read_card(out)
    assert (card["base"], card["base_revision"]) == (f"hf://org/tiny@{commit}", commit)
    assert Path(load_candidate(str(out)).base_path) == kept


def test_a_base_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The error is the candidate's own."""
    with pytest.raises(CandidateError, match="no candidate at"):
        finetune(small(tmp_path, base=str(tmp_path / "nowhere")), tmp_path / "out")
