"""A whole bundle from a tiny random model: the server's checks accept it, and what must repeat repeats."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from guard_server.bundle import load_bundle
from guard_server.classifier import OnnxModel, OnnxTokenizer
from guard_server.labels import TASKS, Direction
from guard_server.training.build import Built, put, run_bundle
from guard_server.training.card import Card
from guard_server.training.quantise import QualityError
from guard_server.training.rethreshold import run_rethreshold
from guard_server.training.rows import read_folder
from guard_server.training.scored import Scored, texts_of
from guard_server.training.sign import run_keygen
from guard_server.training.train import write_scores
from tests.guard.training.guards import SENTENCES, save_guard
from tests.guard.training.scores import logits

SETS = {
    "mbpp_sanitized": ("code_generation", "benign", "yes"),
    "advbench": ("text_generation", "harmful", "yes"),
    "oktest": ("text_generation", "benign", "unclear"),
    "multitaskbench": ("code_generation", "harmful", "unclear"),
}
WORDS = " ".join(SENTENCES).split()


def _write_data(folder: Path) -> Path:
    folder.mkdir()
    random = np.random.default_rng(0)
    for dataset, (task, label, _) in SETS.items():
        rows = [
            {"id": f"{dataset}{n}", "dataset": dataset, "task": task, "label": label, "text": " ".join(random.choice(WORDS, 9))}
            for n in range(70)
        ]
        if dataset == "advbench":
            for n, row in enumerate(rows):
                row |= {"response": "no thanks " + row["id"], "response_label": ("safe", "harmful", "refused", "complied")[n % 4]}
        (folder / f"{dataset}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    entries = {f"{name}.jsonl": {"licence": "MIT", "commercial_use": use, "origin": "here"} for name, (_, _, use) in SETS.items()}
    (folder / "MANIFEST.json").write_text(json.dumps(entries))
    return folder


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Model, out-of-fold logits (of the training sets, harmful ones higher), data."""
    folder = tmp_path_factory.mktemp("parts")
    data = _write_data(folder / "data")
    model = save_guard(folder / "model")
    texts = tuple(texts_of(row for name, rows in read_folder(data).items() if SETS[name][2] == "yes" for row in rows))
    random = np.random.default_rng(1)
    harm = random.normal(0, 1, len(texts)) + [4.0 if t.harmful or t.refused else -2.0 for t in texts]
    write_scores(Scored(texts, logits(harm)), model / "oof.jsonl")
    return model, model / "oof.jsonl", data


def _build(parts: tuple[Path, Path, Path], out: Path, key: Path | None = None, *, force: bool = False) -> Built:
    model, oof, data = parts
    quiet = Console(file=io.StringIO())
    return run_bundle(
        model, oof, out, key, data=data, encoder="random (test)", documents=1, longest=16, force=force, console=quiet
    )


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return run_keygen(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def built(parts: tuple[Path, Path, Path], keys: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Built:
    return _build(parts, tmp_path_factory.mktemp("built") / "bundle", keys[0])


def test_the_server_accepts_the_bundle(built: Built, keys: tuple[Path, Path]) -> None:
    """The signed folder passes the server's checks with the digest that the build named; every self-test repeats."""
    bundle = load_bundle(built.folder, public_key=keys[1], require_signed=True)
    assert bundle.digest == built.digest
    tokenizer, model = OnnxTokenizer(bundle), OnnxModel(bundle)
    assert len(bundle.spec.self_tests) >= 12
    for test in bundle.spec.self_tests:
        scores = model.score_one(tokenizer.encode(test.text, context=test.context))
        assert scores.risk(test.direction, test.task) == pytest.approx(test.score, abs=1e-9)


def test_every_direction_task_and_target_has_thresholds(built: Built) -> None:
    """All are there, none falls with the number of segments, and the stricter target is never the lower threshold."""
    spec = load_bundle(built.folder, public_key=None, require_signed=False).spec
    for direction in Direction:
        for task in TASKS:
            strict, _, loose = (spec.threshold(direction, task, target) for target in (0.01, 0.02, 0.05))
            assert strict is not None
            assert loose is not None
            assert list(loose.at) == sorted(loose.at)
            assert all(a >= b for a, b in zip(strict.at, loose.at, strict=True))


def test_the_card_says_what_it_was_made_of(built: Built) -> None:
    """Sets are listed with licence and use; never-trained figures are of the sets that may not train, and of no other."""
    card = Card.model_validate_json((built.folder / "card.json").read_text())
    uses = {entry.name: entry.use for entry in card.data}
    assert uses["advbench"].startswith("training")
    assert uses["oktest"] == "evaluation alone"
    assert card.never_trained is not None
    assert card.never_trained.data == ("multitaskbench", "oktest")
    assert card.own is None
    assert card.left_out is not None
    assert card.left_out.data == ("advbench", "mbpp_sanitized")
    text = (built.folder / "CARD.md").read_text()
    assert "| oktest | evaluation alone | 70 | MIT | here |" in text
    assert "## Limits" in text


@pytest.mark.full
def test_two_builds_have_one_digest(parts: tuple[Path, Path, Path], built: Built, tmp_path: Path) -> None:
    """A second build of the same inputs has the same digest, signed or not; latencies lie outside the folder."""
    again = _build(parts, tmp_path / "bundle")
    assert again.digest == built.digest
    assert (tmp_path / "bundle.latency.json").is_file()
    assert {path.name for path in again.folder.iterdir()} == {
        "model.onnx", "tokenizer.json", "bundle.json", "card.json", "CARD.md", "manifest.json"
    }  # fmt: skip


def test_thresholds_of_long_texts_set_again_change_nothing_else(
    parts: tuple[Path, Path, Path], built: Built, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    """Fewer documents give other thresholds for many segments; model, scales and thresholds of one segment stay as they were."""
    out = tmp_path / "again"
    quiet = Console(file=io.StringIO())
    run_rethreshold(built.folder, out, keys[0], version="2", data=parts[2], documents=1, longest=4, console=quiet)
    before, after = (load_bundle(folder, public_key=keys[1], require_signed=True) for folder in (built.folder, out))
    assert (out / "model.onnx").read_bytes() == (built.folder / "model.onnx").read_bytes()
    assert [t.at[0] for t in after.spec.thresholds] == [t.at[0] for t in before.spec.thresholds]
    assert [t.at for t in after.spec.thresholds] != [t.at for t in before.spec.thresholds]
    assert after.spec.model_copy(update={"version": before.spec.version, "thresholds": before.spec.thresholds}) == before.spec
    old, new = (Card.model_validate_json((folder / "card.json").read_text()) for folder in (built.folder, out))
    assert new.never_trained is not None
    assert old.never_trained is not None
    assert new.never_trained.groups == old.never_trained.groups  # texts of one window
    assert new.left_out == old.left_out
    with pytest.raises(FileExistsError, match="--force"):
        run_rethreshold(built.folder, out, version="3", console=quiet)


def test_nothing_is_overwritten_or_left_half_done(parts: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """A folder that is there stays unless forced; a build that fails leaves neither a bundle nor a scratch folder."""
    model, oof, data = parts
    out = tmp_path / "bundle"
    out.mkdir()
    (out / "mine").write_text("keep")
    with pytest.raises(FileExistsError, match="--force"):
        _build(parts, out)
    with pytest.raises(QualityError, match="too large"):
        run_bundle(
            model, oof, out, data=data, documents=1, longest=2, force=True, largest=10_000, console=Console(file=io.StringIO())
        )
    assert [path.name for path in out.iterdir()] == ["mine"]
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_what_stood_there_stays_until_the_new_one_is_in_place(tmp_path: Path) -> None:
    """Where the new folder can't be moved, the old one is there as before; where it can, nothing is left beside it."""
    out = tmp_path / "bundle"
    out.mkdir()
    (out / "old").touch()
    with pytest.raises(FileNotFoundError):
        put(tmp_path / "missing", out)
    assert [path.name for path in out.iterdir()] == ["old"]
    (tmp_path / "new").mkdir()
    put(tmp_path / "new", out)
    assert list(out.iterdir()) == []
    assert list(tmp_path.iterdir()) == [out]


def test_a_wrong_key_is_noticed_before_the_work(parts: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """A file that is no key is refused by its name, before the out-of-fold logits are even looked for."""
    model, _, data = parts
    (tmp_path / "bad.pem").write_text("not a key")
    with pytest.raises(ValueError, match=r"bad\.pem"):
        run_bundle(model, tmp_path / "none", tmp_path / "out", tmp_path / "bad.pem", data=data)


def test_logits_of_other_texts_are_refused(parts: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """Out-of-fold logits whose texts are not in the data given are an error that says so."""
    model, oof, _ = parts
    with pytest.raises(ValueError, match="not in the training data"):
        run_bundle(model, oof, tmp_path / "out", console=Console(file=io.StringIO()))
