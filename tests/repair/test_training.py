"""The methods that take gradients or train again: their algebra against dense references, and what they leave on the disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gate.candidate import load_candidate
from gate.errors import CandidateError
from gate.finetune import Safety, finetune, load_recipe
from gate.finetune import Source as Table
from gate.records import Candidate
from gate.repair.base import Setting, Source, need
from gate.repair.curvature import Curvature
from gate.repair.lbfgs import curved, inverse_times, without
from gate.repair.learning import Learner
from gate.repair.mix import Mix
from gate.repair.tensors import Adapter, write_adapter
from gate.repair.token_wise import ConstrainedTokens, TokenWise
from tests.repair.scene import make_source

if TYPE_CHECKING:
    import torch

ANSWERS = ("A green answer about a garden.", "Une phrase courte.", "def f(): return 1")
RECIPE = """schema_version: taskgate/recipe/v1
name: tiny
base: aligned
data: [{path: rows.jsonl}]
lora: {r: 3, alpha: 8, targets: [q_proj, v_proj, down_proj]}
lr: 1.0e-2
max_steps: 3
batch: 4
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """The scene with rows to refuse, rows to retain, and a recipe beside the models."""
    folder = tmp_path_factory.mktemp("scene")
    found = make_source(folder)
    benign = [(f"Please write number {n}.", ANSWERS[n % 3], ("text_generation", "translation")[n % 2]) for n in range(12)]
    harmful = [(f"Please forge number {n}.", "I won't help.", ("text_generation", "translation")[n % 2]) for n in range(8)]
    return replace(
        found,
        retain=_written(folder / "rows.jsonl", benign, "task"),
        safety=_written(folder / "refusals.jsonl", harmful, "safety"),
        recipe=_text(folder / "recipe.yaml", RECIPE),
        device="cpu",
    )


def _text(file: Path, text: str) -> Path:
    file.write_text(text, encoding="utf-8")
    return file


def _written(file: Path, rows: Sequence[tuple[str, str, str]], kind: str) -> Path:
    lines = [
        json.dumps({"messages": [{"role": "user", "content": ask}], "answer": answer, "task": task, "kind": kind})
        for ask, answer, task in rows
    ]
    return _text(file, "\n".join(lines) + "\n")


def nothing(_: int, __: int) -> None:
    """No progress is looked at."""


def learner_of(source: Source, folder: str | None = None) -> Learner:
    """The candidate (or another adapter on its base) to ask losses of."""
    assert source.safety is not None
    assert source.retain is not None
    candidate = load_candidate(folder) if folder else source.candidate
    return Learner.load(candidate, need(source.aligned), source.safety, source.retain, "cpu", 0)


def dense_log_probabilities(folder: str, file: Path) -> list[torch.Tensor]:
    """By plain transformers on the merged model: for each row the log-probabilities at its answer's tokens, and the tokens."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = Path(load_candidate(folder).base_path)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).merge_and_unload().eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        prompt = tokenizer.apply_chat_template(row["messages"], tokenize=False, add_generation_prompt=True)
        before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        answer = tokenizer(row["answer"] + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([before + answer])).logits[0, len(before) - 1 : -1]
        found.append(torch.cat([logits.log_softmax(-1), torch.tensor(answer)[:, None].float()], dim=1))
    return found


def worse_than_aligned(source: Source, out: Path) -> Candidate:
    """The scene's adapter, moved until refusals are less likely than the base has them."""
    learner, adapter = learner_of(source), Adapter.read(Path(source.candidate.path))
    while learner.refusal_loss() < learner.aligned_refusal_loss() + 0.2:
        gradient = learner.refusal_gradient()
        learner.set(learner.vector() + 0.3 * gradient / gradient.norm())
    moved = adapter.with_factors(learner.factors(adapter))
    return load_candidate(str(write_adapter(source.candidate, moved, out, {})), base=source.candidate.base_path)


def dense_loss(rows: list[torch.Tensor]) -> float:
    """Mean loss over all the rows' answer tokens."""
    losses = [-float(place[int(place[-1])]) for row in rows for place in row]
    return sum(losses) / len(losses)


def test_the_two_loop_recursion_is_the_dense_update() -> None:
    """After five pairs it gives BFGS's inverse matrix, built in full, times the vector; without pairs the vector."""
    import torch

    torch.manual_seed(0)
    half = torch.randn(7, 7, dtype=torch.float64)
    hessian, vector = half @ half.T + torch.eye(7), torch.randn(7, dtype=torch.float64)
    steps = [torch.randn(7, dtype=torch.float64) for _ in range(5)]
    pairs = [pair for s in steps if (pair := curved(s, torch.zeros(7), hessian @ s, 0.0)) is not None]
    assert len(pairs) == 5
    s, y = pairs[-1]
    inverse = torch.eye(7, dtype=torch.float64) * (s @ y) / (y @ y)
    for s, y in pairs:
        left = torch.eye(7, dtype=torch.float64) - torch.outer(s, y) / (y @ s)
        inverse = left @ inverse @ left.T + torch.outer(s, s) / (y @ s)
    assert torch.allclose(inverse_times(pairs, vector), inverse @ vector)
    assert torch.equal(inverse_times([], vector), vector)
    assert torch.allclose(inverse_times(pairs, pairs[-1].y), pairs[-1].s)
    assert abs(float(without(vector, steps[0]) @ steps[0])) < 1e-10
    assert curved(steps[0], torch.zeros(7), -steps[0], 0.0) is None


def test_losses_gradients_and_divergence_are_those_of_the_served_model(source: Source) -> None:
    """Losses as plain transformers gives them; the gradient as differences of losses; no divergence from itself."""
    import torch

    learner = learner_of(source)
    assert source.retain is not None
    assert source.safety is not None
    folder = source.candidate.path
    assert learner.retain_loss() == pytest.approx(dense_loss(dense_log_probabilities(folder, source.retain)), rel=1e-4)
    assert learner.refusal_loss() == pytest.approx(dense_loss(dense_log_probabilities(folder, source.safety)), rel=1e-4)
    assert learner.aligned_refusal_loss() != pytest.approx(learner.refusal_loss(), rel=1e-3)
    theta, gradient = learner.vector(), learner.refusal_gradient()
    along = gradient / gradient.norm()
    learner.remember()
    assert learner.divergence() == pytest.approx(0, abs=1e-6)
    step, losses = 0.02, []
    for sign in (1, -1):
        learner.set(theta + sign * step * along)
        losses.append(learner.refusal_loss())
    assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(float(gradient.norm()), rel=0.05)
    parts = torch.stack([learner.retain_gradient(batch, 4) for batch in range(4)])
    assert parts.shape == (4, len(theta))
    assert learner.divergence() > 0


def test_curvature_lowers_the_refusals_loss_within_its_limits(source: Source, tmp_path: Path) -> None:
    """What is served has a lower loss on refusals, and neither loss nor distribution of the rest has moved beyond the limits."""
    assert source.retain is not None
    assert source.safety is not None
    setting = Setting(values={"rise": 0.05, "kl": 0.05, "rounds": 4, "pairs": 4})
    worse = worse_than_aligned(source, tmp_path / "worse")
    out = str(Curvature().apply(replace(source, candidate=worse), setting, tmp_path / "out", nothing))
    before, after = (dense_log_probabilities(folder, source.retain) for folder in (worse.path, out))
    refusals = [dense_loss(dense_log_probabilities(folder, source.safety)) for folder in (worse.path, out)]
    came_to = json.loads((Path(out) / "repair.json").read_text())["came_to"]
    assert refusals[1] < refusals[0] - 0.01
    assert refusals[1] == pytest.approx(came_to["refusal_after"], rel=1e-3)
    assert dense_loss(after) - dense_loss(before) <= 0.05 + 1e-4
    pairs = [(b[:-1], a[:-1]) for old, new in zip(before, after, strict=True) for b, a in zip(old, new, strict=True)]
    assert sum(float((b.exp() * (b - a)).sum()) for b, a in pairs) / len(pairs) <= 0.05 + 1e-4


def test_the_token_weights_are_the_papers(source: Source) -> None:
    """2 (1 − σ(β_t (log p − log p_ref))), β fivefold at the first token, twentyfold up to the fifth, never below a thousandth."""
    import math

    import torch

    losses = torch.tensor([0.1, 2.0, 0.5, 1.0, 3.0, 0.2, 0.01], requires_grad=True)
    reference = torch.tensor([1.0, 1.0, 2.5, 1.0, 0.5, 4.0, 30.0])
    places = torch.tensor([0, 1, 4, 5, 2, 9, 3])
    found = ConstrainedTokens(0.1)(losses, reference, places)
    for weight, loss, ref, place in zip(found, losses.tolist(), reference.tolist(), places.tolist(), strict=True):
        beta = 0.1 * (5 if place == 0 else 20 if place < 5 else 1)
        wanted = max(1e-3, 2 * (1 - 1 / (1 + math.exp(-beta * (-loss - -ref)))))
        assert float(weight) == pytest.approx(wanted, rel=1e-4)
    assert not found.requires_grad


def test_mix_trains_by_the_recipe_with_a_share_of_refusals(source: Source, tmp_path: Path) -> None:
    """The weights are those of the recipe with a safety mix, the card names it, and each task's refusals are a cell."""
    assert source.recipe is not None
    assert source.safety is not None
    out = Mix().apply(source, Setting(values={"share": 0.25}), tmp_path / "out", nothing)
    safety = Safety(data=(Table(path=str(source.safety), task="refusal"),), share=0.25)
    by_hand = finetune(load_recipe(source.recipe).model_copy(update={"safety": safety}), tmp_path / "by-hand")
    names = "adapter_model.safetensors"
    assert (out / names).read_bytes() == (by_hand / names).read_bytes()
    assert json.loads((out / "repair.json").read_text())["setting"] == {"share": 0.25}
    assert {"text_generation/safety", "translation/safety"} <= set(load_candidate(str(out)).training_card["cells"])  # type: ignore[index]
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_token_wise_trains_by_the_recipe_with_the_weights(source: Source, tmp_path: Path) -> None:
    """The constraint changes the weights that the recipe gives, as the same call by hand does; the card names it."""
    assert source.recipe is not None
    out = TokenWise().apply(source, Setting(values={"beta": 0.5}), tmp_path / "out", nothing)
    recipe = load_recipe(source.recipe)
    free = finetune(recipe, tmp_path / "free")
    held = finetune(recipe, tmp_path / "held", token_weights=ConstrainedTokens(0.5))
    name = "adapter_model.safetensors"
    assert (out / name).read_bytes() == (held / name).read_bytes() != (free / name).read_bytes()
    assert "0.5" in json.dumps(load_candidate(str(out)).training_card)


def test_a_recipe_of_another_model_is_refused(source: Source, tmp_path: Path) -> None:
    """Training again must start where the candidate did."""
    other = replace(source, aligned=source.unaligned)
    with pytest.raises(CandidateError, match="starts from another model"):
        Mix().apply(other, Setting(values={"share": 0.25}), tmp_path / "out", nothing)
    assert not (tmp_path / "out").exists()
