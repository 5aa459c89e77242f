"""Quantisation: the gate passes what keeps its judgements and refuses what does not."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from guard_server.labels import Direction, Task
from guard_server.training.quantise import QualityError, choose, compare, quantise
from guard_server.training.scored import Scored, Text
from guard_server.training.scoring import Scorer
from tests.guard.training.guards import SENTENCES
from tests.guard.training.scores import scored
from tests.guard.training.specs import plain_spec


def _texts() -> list[Text]:
    words = " ".join(SENTENCES).split()
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(words, 12)) for _ in range(240)]
    return [Text(str(n), f"s{n % 3}", Direction.PROMPT, t, None, Task.OTHER, harmful=n % 2 == 0) for n, t in enumerate(texts)]


def _judged(noise: float) -> tuple[Scored, Scored]:
    random = np.random.default_rng(1)
    harmful = np.arange(2000) % 2 == 0
    harm = random.normal(0, 1, 2000) + 3 * harmful
    return scored(harm, harmful), scored(harm + random.normal(0, noise, 2000), harmful)


def test_a_small_change_passes() -> None:
    """Noise of a hundredth of the scores' spread is let through, for the task and over all."""
    changes = compare(*_judged(0.01))
    assert {change.task for change in changes} == {Task.TEXT_GENERATION, None}
    assert all(change.judged and change.passed for change in changes)


def test_spoiled_scores_fail() -> None:
    """Noise as large as the scores' spread fails on both counts."""
    for change in compare(*_judged(2.0)):
        assert not change.passed
        assert change.auroc is not None
        assert change.auroc_after is not None
        assert change.auroc - change.auroc_after > 0.01
        assert change.flips > 0.02


def test_flips_are_counted_at_each_file_s_own_threshold() -> None:
    """A file that adds two logits to every text changes no decision, because its threshold moves along."""
    before, _ = _judged(0)
    after = scored(before.logits.harm[:, 0] + 2, before.harmful())
    assert all(change.flips == 0 for change in compare(before, after))


def test_few_texts_are_shown_and_not_judged() -> None:
    """Fifty texts don't fail the build, whatever they say."""
    before = scored(np.linspace(0, 1, 50), np.arange(50) > 25)
    after = scored(np.linspace(1, 0, 50), np.arange(50) > 25)
    assert all(not change.judged and change.passed for change in compare(before, after))


def test_few_harmless_texts_set_no_threshold_to_judge_by() -> None:
    """Three hundred harmful texts and ten harmless ones don't fail the build: ten texts have no 5 % quantile."""
    random = np.random.default_rng(2)
    harmful = np.arange(310) >= 10
    before, after = (scored(random.normal(0, 1, 310), harmful) for _ in range(2))
    assert all(not change.judged for change in compare(before, after))


def test_a_quantised_file_is_smaller_and_repeats(exported: Path, tmp_path: Path) -> None:
    """int8 is smaller than int8 with fp32 feed-forward-down layers, which is smaller than fp32; the bytes repeat."""
    sizes = {}
    for kind in ("int8", "int8-ffn-fp32", "fp32"):
        quantise(exported / "model.onnx", tmp_path / f"{kind}.onnx", kind)
        sizes[kind] = (tmp_path / f"{kind}.onnx").stat().st_size
    assert sizes["int8"] < sizes["int8-ffn-fp32"] < sizes["fp32"]
    quantise(exported / "model.onnx", tmp_path / "again.onnx", "int8")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "int8.onnx").read_bytes()
    assert any(node.op_type == "DynamicQuantizeLinear" for node in onnx.load(tmp_path / "again.onnx").graph.node)


def test_the_first_variant_that_passes_ships(exported: Path, tmp_path: Path) -> None:
    """With scores that only the fallback keeps, the fallback ships and the failed try is on record."""
    good, bad = _judged(2.0)
    answers = iter((good, bad, good))
    kind, attempts = choose(exported / "model.onnx", tmp_path / "model.onnx", lambda _: next(answers))
    assert kind == "int8-ffn-fp32"
    assert [bool(attempt.failed) for attempt in attempts] == [True, False]


def test_nothing_ships_when_nothing_passes(exported: Path, tmp_path: Path) -> None:
    """With every smaller variant spoiled and fp32 too large, the error names the task and the change."""
    good, bad = _judged(2.0)
    answers = iter((good, bad, bad, bad))
    with pytest.raises(QualityError, match=r"text_generation AUROC.*decisions changed.*too large"):
        choose(exported / "model.onnx", tmp_path / "model.onnx", lambda _: next(answers), largest=1000)


def test_fp32_ships_where_it_is_small_enough(exported: Path, tmp_path: Path) -> None:
    """With every smaller variant spoiled, the fp32 file ships when it fits."""
    good, bad = _judged(2.0)
    answers = iter((good, bad, bad, bad))
    kind, _ = choose(exported / "model.onnx", tmp_path / "model.onnx", lambda _: next(answers))
    assert kind == "fp32"


def test_int8_scores_do_not_depend_on_company(exported: Path, tmp_path: Path) -> None:
    """The int8 file gives a text the same logits alone, among others, and with two workers; they are near fp32's."""
    quantise(exported / "model.onnx", tmp_path / "model.onnx", "int8")
    (tmp_path / "tokenizer.json").write_bytes((exported / "tokenizer.json").read_bytes())
    texts = _texts()
    one, two = (Scorer(tmp_path, plain_spec(), workers=n).score(texts) for n in (1, 2))
    assert np.array_equal(one.logits.harm, two.logits.harm)
    alone = Scorer(tmp_path, plain_spec()).score(texts[7:8])
    assert np.array_equal(alone.logits.harm[0], one.logits.harm[7])
    full = Scorer(exported, plain_spec()).score(texts)
    assert np.abs(full.logits.harm - one.logits.harm).mean() < 0.2


def test_a_long_text_has_its_worst_window(exported: Path) -> None:
    """A text of many windows gets the logits of the one that is worst for its task."""
    scorer = Scorer(exported, plain_spec())
    long = Text("1", "s", Direction.PROMPT, " ".join(SENTENCES), None, Task.OTHER, harmful=False)
    windows = scorer.windows(long.text)
    assert len(windows) >= 4
    assert scorer.score([long]).logits.harm[0, -1] == windows.harm[:, -1].max()
