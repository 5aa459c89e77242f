"""Each method without training against a dense reference: what transformers and PEFT serve is what the formula says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gate.candidate import load_candidate
from gate.repair.alignment import cosine, projected
from gate.repair.base import Setting, Source
from gate.repair.safe_lora import SafeLora
from gate.repair.safe_merge import ALL, SafeMerge
from gate.repair.scaling import Scaling
from gate.repair.serving import Serving
from gate.repair.task_arithmetic import TaskArithmetic, dropped
from gate.repair.tensors import Adapter
from tests.repair.scene import adapted, make_source, served, served_folder

if TYPE_CHECKING:
    import torch

Tensors = dict[str, "torch.Tensor"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """The scene, made once."""
    return make_source(tmp_path_factory.mktemp("scene"))


@pytest.fixture(scope="module")
def weights(source: Source) -> tuple[Tensors, Tensors, Tensors, Tensors]:
    """Dense weights as served: aligned, unaligned, tuned, safety."""
    assert source.aligned is not None
    assert source.unaligned is not None
    assert source.safety_adapter is not None
    return served(source.aligned), served(source.unaligned), served(source.candidate), served(source.safety_adapter)


def nothing(_: int, __: int) -> None:
    """No progress is looked at."""


def close(found: Tensors, expected: Tensors) -> bool:
    """Whether both hold the same weights but for rounding, and are no empty comparison."""
    import torch

    assert found.keys() == expected.keys()
    return all(torch.allclose(found[name], expected[name], atol=2e-5, rtol=1e-4) for name in found) and len(found) > 10


def dense_c(aligned: torch.Tensor, unaligned: torch.Tensor) -> torch.Tensor:
    """The d × d matrix that the method never builds."""
    vector = (aligned - unaligned).double()
    dense: torch.Tensor = vector @ vector.T / vector.norm()
    return dense


@pytest.mark.parametrize("merged", [False, True])
def test_scaling_serves_the_aligned_model_plus_a_part_of_the_update(
    source: Source, weights: tuple[Tensors, Tensors, Tensors, Tensors], tmp_path: Path, merged: bool
) -> None:
    """θ_aligned + α·Δ in every weight, as an adapter or merged; the adapter's weights file keeps its bytes."""
    aligned, _, tuned, _ = weights
    out = Scaling().apply(source, Setting(values={"alpha": 0.3, "merged": merged}), tmp_path / "out", nothing)
    assert close(served_folder(out), {name: aligned[name] + 0.3 * (tuned[name] - aligned[name]) for name in aligned})
    assert load_candidate(str(out)).kind == ("model" if merged else "adapter")
    assert not close(tuned, aligned)


def test_scaling_a_whole_model_goes_from_it_to_the_aligned_one(
    source: Source, weights: tuple[Tensors, Tensors, Tensors, Tensors], tmp_path: Path
) -> None:
    """A merged candidate is scaled by its difference from the aligned model."""
    aligned, _, tuned, _ = weights
    whole = Scaling().apply(source, Setting(values={"alpha": 1.0, "merged": True}), tmp_path / "whole", nothing)
    again = Source(candidate=load_candidate(str(whole)), aligned=source.aligned)
    out = Scaling().apply(again, Setting(values={"alpha": 0.25, "merged": False}), tmp_path / "out", nothing)
    assert close(served_folder(out), {name: aligned[name] + 0.25 * (tuned[name] - aligned[name]) for name in aligned})


def test_the_projection_and_its_cosine_are_those_of_the_dense_matrix(
    source: Source, weights: tuple[Tensors, Tensors, Tensors, Tensors]
) -> None:
    """V(VᵀB)/‖V‖ is C·B, and the cosine from r × r matrices is that of C·B·A and B·A, in each module."""
    import torch

    aligned, unaligned, _, _ = weights
    for module, factors in Adapter.read(Path(source.candidate.path)).factors.items():
        name = f"{module}.weight"
        c, a, b = dense_c(aligned[name], unaligned[name]), factors.a.double(), factors.b.double()
        image = projected((aligned[name] - unaligned[name]).double(), b)
        assert torch.allclose(image, c @ b)
        wanted = torch.nn.functional.cosine_similarity((c @ b @ a).flatten(), (b @ a).flatten(), dim=0)
        assert cosine(image, b, a) == pytest.approx(float(wanted), abs=1e-5)
        assert 0 < float(wanted) < 1


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize(("share", "threshold"), [(0.5, -1.0), (0.0, 0.5), (1.0, -1.0)])
def test_safe_lora_projects_the_layers_of_lowest_cosine(
    source: Source,
    weights: tuple[Tensors, Tensors, Tensors, Tensors],
    tmp_path: Path,
    rescale: bool,
    share: float,
    threshold: float,
) -> None:
    """The chosen layers are served with C·Δ (rescaled: with Δ's norm), the others with Δ; by share or by threshold."""
    aligned, unaligned, tuned, _ = weights
    values = {"share": share, "threshold": threshold, "rescale": rescale}
    out = SafeLora().apply(source, Setting(values=values), tmp_path / "out", nothing)
    changed = {name: (tuned[name] - aligned[name]).double() for name in aligned if adapted(name)}
    images = {name: dense_c(aligned[name], unaligned[name]) @ delta for name, delta in changed.items()}
    cosines = {name: float((images[name] * d).sum() / images[name].norm() / d.norm()) for name, d in changed.items()}
    by_cosine = sorted(cosines, key=lambda name: cosines[name])
    chosen = set(by_cosine[: round(share * len(by_cosine))]) | {name for name in cosines if cosines[name] < threshold}
    expected = dict(tuned)
    for name in chosen:
        image = images[name] * (changed[name].norm() / images[name].norm() if rescale else 1.0)
        expected[name] = aligned[name] + image.float()
    assert close(served_folder(out), expected)
    assert 0 < len(chosen) <= len(cosines)
    assert json.loads((out / "repair.json").read_text())["projected"] == sorted(n.removesuffix(".weight") for n in chosen)


def test_task_arithmetic_adds_the_safety_vector(
    source: Source, weights: tuple[Tensors, Tensors, Tensors, Tensors], tmp_path: Path
) -> None:
    """W + γ·(W_aligned − W_unaligned) in every weight, those that the adapter leaves alone too."""
    aligned, unaligned, tuned, _ = weights
    out = TaskArithmetic().apply(source, Setting(values={"gamma": 0.6, "drop": 0.0}), tmp_path / "out", nothing)
    expected = {name: tuned[name] + 0.6 * (aligned[name] - unaligned[name]) for name in aligned}
    assert close(served_folder(out), expected)
    assert not close(tuned, expected)


def test_dare_drops_the_updates_elements_and_nothing_else(
    source: Source, weights: tuple[Tensors, Tensors, Tensors, Tensors], tmp_path: Path
) -> None:
    """An element of the served update is 0, in a share of `drop`, or the update's ÷ (1 − drop); equal seeds agree."""
    import torch

    aligned, _, tuned, _ = weights
    setting = Setting(values={"gamma": 0.0, "drop": 0.25})
    out = TaskArithmetic().apply(source, setting, tmp_path / "out", nothing)
    found, zero, total = served_folder(out), 0, 0
    for name in filter(adapted, aligned):
        kept, update = found[name] - aligned[name], tuned[name] - aligned[name]
        gone = (kept.abs() < 1e-6) & (update.abs() > 1e-4)
        assert torch.allclose(kept[~gone], update[~gone] / 0.75, atol=2e-5)
        zero, total = zero + int(gone.sum()), total + gone.numel()
    assert zero / total == pytest.approx(0.25, abs=0.03)
    again = TaskArithmetic().apply(source, setting, tmp_path / "again", nothing)
    assert load_candidate(str(again)).digest == load_candidate(str(out)).digest
    whole = torch.ones(4, 4)
    assert not torch.equal(dropped(whole, 0.5, 0, "a"), dropped(whole, 0.5, 1, "a"))
    assert not torch.equal(dropped(whole, 0.5, 0, "a"), dropped(whole, 0.5, 0, "b"))


@pytest.mark.parametrize("threshold", [0.5, ALL])
def test_safe_merge_mixes_where_the_cosine_is_low(
    source: Source, weights: tuple[Tensors, Tensors, Tensors, Tensors], tmp_path: Path, threshold: float
) -> None:
    """own·Δ + safety·Δ' in the layers below the threshold, Δ in the others; the ranks 3 and 2 are stacked to 5."""
    aligned, unaligned, tuned, safety = weights
    values = {"threshold": threshold, "own": 0.8, "safety": 0.4}
    out = SafeMerge().apply(source, Setting(values=values), tmp_path / "out", nothing)
    expected, mixed = dict(tuned), 0
    for name in filter(adapted, aligned):
        delta, other = tuned[name] - aligned[name], safety[name] - aligned[name]
        image = dense_c(aligned[name], unaligned[name]).float() @ delta
        if float((image * delta).sum() / image.norm() / delta.norm()) < threshold:
            expected[name], mixed = aligned[name] + 0.8 * delta + 0.4 * other, mixed + 1
    assert close(served_folder(out), expected)
    assert (0 < mixed < 6) if threshold < 1 else mixed == 6
    assert json.loads((out / "adapter_config.json").read_text())["r"] == 5


def test_serving_restores_the_template_and_leaves_the_weights(source: Source, tmp_path: Path) -> None:
    """The repaired folder asks as the aligned model does, and answers with the candidate's weights."""
    import shutil

    folder = tmp_path / "aligned"
    shutil.copytree(Path(source.candidate.path).parent / "aligned", folder)
    shutil.copytree(source.candidate.path, tmp_path / "odd")
    (tmp_path / "odd" / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    odd = load_candidate(str(tmp_path / "odd"))
    assert source.aligned is not None
    assert Serving().unfit(source) != ""
    changed = Source(candidate=odd, aligned=source.aligned)
    assert Serving().unfit(changed) == ""
    out = Serving().apply(changed, Setting(values={}), tmp_path / "out", nothing)
    restored = load_candidate(str(out))
    assert restored.chat_template_digest == source.aligned.chat_template_digest != odd.chat_template_digest
    assert close(served(restored), served(odd))
