"""A small training run, from rows to a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.progress import Progress

from guard_server.bundle_spec import Window
from guard_server.labels import Direction, Task
from guard_server.training.batches import Example, balanced, copies, plain
from guard_server.training.heads import Bank, batch_of, key, logits_of, merged, prompt_loss, train_heads
from guard_server.training.model import GuardModel, Heads, Shape
from guard_server.training.passages import Passages
from guard_server.training.recipe import HeadTraining, Recipe, Texts, Tuning
from guard_server.training.rows import Row
from guard_server.training.train import Corpus, Run, corpus_of, out_of_fold, read_scores, train, write_scores
from tests.guard.training.guards import tiny_guard, tiny_tokenizer

HARMFUL = ("break into the neighbour's house", "write a virus for the office", "steal the money from the shop", "forge a letter")
BENIGN = ("plant a tree in the garden", "write a letter to the cook", "summarize the match", "sort the values of a list")
SMALL = Recipe(
    shape=Shape(hidden=16),
    texts=Texts(wrapped=0.5, diluted=0.5),
    heads=HeadTraining(epochs=3, batch=16, members=2),
    tuning=Tuning(layers=1, texts=32, batch=8, blend=0.5),
    precision="fp32",
)


def rows() -> list[Row]:
    """Prompts of both labels and answers of all labels in two own sets."""
    made = []
    for number, text in enumerate([*HARMFUL, *BENIGN] * 2):
        label = "harmful" if text in HARMFUL else "benign"
        said = "refused" if number % 2 else "complied"
        made.append(
            Row(
                id=str(number),
                dataset="own_a" if number < 8 else "own_b",
                text=f"{text} {number}",
                response=f"answer {number} to that",
                response_label=said,
                task=Task.TEXT_GENERATION,
                label=label,
                category="cyber" if label == "harmful" else None,
                meta={"pair": str(number % 4)},
            )
        )
    return made


@pytest.fixture
def run(tmp_path: Path) -> Callable[[int], Run]:
    """A run on a random encoder by its seed."""
    encoder = tmp_path / "encoder"
    tiny_guard("bert").encoder.save_pretrained(encoder)
    tiny_tokenizer(encoder / "tokenizer.json")

    def made(seed: int) -> Run:
        return Run(SMALL, encoder, corpus_of(rows(), SMALL.texts, 0), seed, Progress(disable=True))

    return made


def weights(model: GuardModel) -> dict[str, torch.Tensor]:
    """All weights."""
    return model.state_dict()


def test_same_seed_gives_the_same_bits(run: Callable[[int], Run]) -> None:
    """Heads and tuned layers are bit-equal for a seed and differ for another."""
    frozen = run(0).frozen_bank()
    first, again, other = (weights(train(run(seed), frozen)) for seed in (0, 0, 1))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["heads.generic.weight"], other["heads.generic.weight"])


def test_tuning_moves_the_last_layer_alone(run: Callable[[int], Run]) -> None:
    """After tuning one layer the encoder's other weights are those of the folder."""
    ready = run(0)
    before, after = weights(ready.fresh()), weights(train(ready, ready.frozen_bank()))
    moved = {name for name, value in before.items() if name.startswith("encoder.") and not torch.equal(value, after[name])}
    assert moved
    assert all(name.startswith("encoder.encoder.layer.1.") for name in moved)


def test_out_of_fold_scores_every_text_once_and_survive_the_file(run: Callable[[int], Run], tmp_path: Path) -> None:
    """Each text is scored once, and scores written and read again agree to the five digits written."""
    ready = run(0)
    scored = out_of_fold(ready, ready.frozen_bank())
    assert sorted((t.id, t.direction) for t in scored.texts) == sorted((e.text.id, e.text.direction) for e in ready.corpus.score)
    write_scores(scored, tmp_path / "oof.jsonl")
    read = read_scores(tmp_path / "oof.jsonl")
    assert [(t.id, t.harmful, t.refused) for t in read.texts] == [(t.id, t.harmful, t.refused) for t in scored.texts]
    np.testing.assert_allclose(read.logits.harm, scored.logits.harm, atol=1e-5)


def random_bank(examples: list[Example], width: int) -> Bank:
    """A bank in which harmful prompts point one way and harmless ones the other."""
    generator = torch.Generator().manual_seed(0)
    pools = torch.randn((len(examples), width), generator=generator)
    pools[:, 0] = torch.tensor([3.0 if example.text.harmful else -3.0 for example in examples])
    found = {key(example): (at,) for at, example in enumerate(examples)}
    return Bank(pools.half(), torch.empty((0, width)).half(), torch.full((len(examples),), -1), found)


def test_training_lowers_the_loss_and_parts_the_labels() -> None:
    """On pools that tell the labels apart the loss falls below half and harmful prompts score higher."""
    examples = [e for e in plain(rows(), Texts(), all_windows=False) if e.text.direction is Direction.PROMPT]
    bank, how, shape = random_bank(examples, 8), HeadTraining(epochs=60, rate=1e-2, members=1, smoothing=0.0), Shape(hidden=16)
    heads = train_heads(examples, bank, 8, shape, Texts(), how, 0)
    batch = batch_of(examples, balanced(examples, Texts()), [bank.rows[key(e)] for e in examples], list(range(len(examples))))

    def loss(of: Heads) -> float:
        out = of(bank.pools(batch.rows))
        return float(prompt_loss(out.harm, out.task, out.category, batch, how).detach())

    torch.manual_seed(0)
    assert loss(heads) < 0.5 * loss(Heads(8, shape).eval())
    harm = logits_of(heads, examples, bank).harm[:, 0]
    harmful = np.array([bool(e.text.harmful) for e in examples])
    assert harm[harmful].min() > harm[~harmful].max()


def test_merged_heads_give_the_mean() -> None:
    """The logits of merged heads are the mean of the members' to rounding."""
    shape = Shape(hidden=16)
    examples = list(plain(rows(), Texts(), all_windows=False))
    bank = random_bank(examples, 8)
    torch.manual_seed(0)
    members = [Heads(8, shape).eval() for _ in range(3)]
    together = logits_of(merged(members, 8, shape), examples, bank)
    mean = np.mean([logits_of(member, examples, bank).task for member in members], axis=0)
    np.testing.assert_allclose(together.task, mean, atol=1e-5)


def test_text_counts_as_its_worst_window() -> None:
    """A text of two windows scores as the one that scores higher."""
    long = Row(id="1", dataset="own_a", text="tree " * 120 + "virus " * 20, task=Task.OTHER, label="harmful", category="cyber")
    (example,) = plain([long], Texts(window=Window(characters=480, overlap=160)), all_windows=True)
    assert len(example.windows) == 2
    pools = torch.randn((2, 8), generator=torch.Generator().manual_seed(0))
    bank = Bank(pools, torch.empty((0, 8)), torch.full((2,), -1), {key(example): (0, 1)})
    torch.manual_seed(0)
    heads = Heads(8, Shape(hidden=16)).eval()
    with torch.no_grad():
        expected = heads(bank.pools(torch.arange(2))).harm.amax(0).numpy()
    np.testing.assert_allclose(logits_of(heads, [example], bank).harm[0], expected, atol=1e-6)


def test_copies_keep_set_and_label_and_do_not_depend_on_other_rows() -> None:
    """A prompt's copies carry its set; the same row gives the same copies among others as alone."""
    texts = Texts(wrapped=1.0, diluted=1.0)
    fill = Passages(0, texts.window)
    every = list(copies(rows(), texts, fill, 0))
    assert {e.text.dataset for e in every} == {"own_a", "own_b"}
    alone = list(copies(rows()[3:4], texts, fill, 0))
    assert alone
    assert all(e in every for e in alone)
    hidden = [e for e in alone if e.kind == "diluted" and e.text.harmful]
    assert all("forge a letter 3" in e.text.text and len(e.windows) == 1 for e in hidden)
    assert {e.kind for e in alone if not e.text.harmful} == {"diluted", "sentences"}
    assert all(len(set(e.windows)) == len(e.windows) == texts.windows for e in alone if e.kind == "sentences")


def test_weights_balance_labels_within_a_task() -> None:
    """Harmful and harmless prompts of a task sum to the same weight however many there are of each."""
    some = [row for row in rows() if row.label == "harmful"] + [row for row in rows() if row.label == "benign"][:2]
    examples = [e for e in plain(some, Texts(), all_windows=False) if e.text.direction is Direction.PROMPT]
    found = balanced(examples, Texts())
    harmful = np.array([bool(e.text.harmful) for e in examples])
    assert found[harmful].sum() == pytest.approx(found[~harmful].sum(), rel=1e-5)


def test_scored_texts_have_no_copies(run: Callable[[int], Run]) -> None:
    """What is scored are the rows' own texts, never copies of them."""
    corpus: Corpus = run(0).corpus
    assert {e.kind for e in corpus.score} == {"plain"}
    assert {e.kind for e in corpus.train} == {"plain", "wrapped", "diluted", "sentences"}
    assert json.dumps(sorted({e.text.dataset for e in corpus.score})) == '["own_a", "own_b"]'
