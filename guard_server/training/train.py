"""One training run: a recipe, data and a seed in; a model folder, its training card and out-of-fold logits out.

    model.safetensors, guard.json, encoder/, tokenizer.json   the model on all that may train
    training_card.json   recipe, seeds, sets and their sizes, digests: what the weights came from
    oof.jsonl            per text the logits of a model that had not seen its set: for calibration, thresholds and selection
    oof_figures.json     the table of `select` over them

The same recipe runs once per fold and once on everything.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from tokenizers import Tokenizer

from guard_server.labels import Direction, Task
from guard_server.training.batches import Example, copies, plain
from guard_server.training.embed import bank_of
from guard_server.training.folds import FOLDS, assign, kinds_of
from guard_server.training.heads import Bank, logits_of, train_heads
from guard_server.training.material import generate
from guard_server.training.model import TOKENIZER, WEIGHTS, GuardModel, default_encoder
from guard_server.training.passages import Passages
from guard_server.training.recipe import Recipe, Texts
from guard_server.training.rows import Row
from guard_server.training.scored import Logits, Scored, Text
from guard_server.training.select import flagged_of, table
from guard_server.training.sources import clean, read_sources
from guard_server.training.tune import tune
from guard_server.wordpiece import readable

CARD: Final = "training_card.json"
OUT_OF_FOLD: Final = "oof.jsonl"
FIGURES: Final = "oof_figures.json"
SCARY: Final = "cyberseceval_mitre_frr"


@dataclass(frozen=True, slots=True)
class Corpus:
    """What a run reads."""

    train: tuple[Example, ...]
    """Prompts and answers with at most as many windows as train, and copies of prompts."""
    score: tuple[Example, ...]
    """The same texts with all windows, without copies."""


def corpus_of(rows: Sequence[Row], texts: Texts, seed: int) -> Corpus:
    """The examples of rows; copies depend on the seed and on each row's id alone."""
    copied = copies(rows, texts, Passages(seed, texts.window), seed)
    return Corpus((*plain(rows, texts, all_windows=False), *copied), tuple(plain(rows, texts, all_windows=True)))


@dataclass(frozen=True, slots=True)
class Run:
    """A recipe on a corpus: trains on parts of it and scores others."""

    recipe: Recipe
    encoder: Path
    corpus: Corpus
    seed: int
    progress: Progress

    def fresh(self) -> GuardModel:
        """The encoder with untrained heads."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return GuardModel.on_encoder(self.encoder, self.recipe.shape)

    def tokenizer(self) -> Tokenizer:
        """The encoder's tokenizer, as the server makes it."""
        return Tokenizer.from_buffer(readable((self.encoder / TOKENIZER).read_bytes()))

    def bank(self, model: GuardModel, examples: Sequence[Example]) -> Bank:
        """Pools of the examples' windows."""
        return bank_of(model, self.tokenizer(), examples, self.recipe, self.progress)

    def frozen_bank(self) -> Bank:
        """Pools of all texts by the encoder as it came."""
        return self.bank(self.fresh(), (*self.corpus.train, *self.corpus.score))

    def trained(self, examples: Sequence[Example], frozen: Bank, seed: int) -> GuardModel:
        """A model trained on some examples: heads on the frozen pools, then, where the recipe says so, tuning."""
        recipe = self.recipe
        model = self.fresh()
        heads = train_heads(examples, frozen, model.heads.width, recipe.shape, recipe.texts, recipe.heads, seed)
        model = GuardModel(model.encoder, model.shape.model_copy(update={"hidden": heads.hidden}))
        model.heads = heads
        return tune(model, self.tokenizer(), examples, recipe, seed, self.progress) if recipe.tuning.layers else model.eval()

    def scores(self, model: GuardModel, examples: Sequence[Example], frozen: Bank) -> Scored:
        """Logits of whole texts by a model."""
        bank = self.bank(model, examples) if self.recipe.tuning.layers else frozen
        return Scored(tuple(example.text for example in examples), logits_of(model.heads, examples, bank))


def train(run: Run, frozen: Bank) -> GuardModel:
    """The model on everything."""
    return run.trained(run.corpus.train, frozen, run.seed)


def out_of_fold(run: Run, frozen: Bank) -> Scored:
    """Every text's logits by a model of the same recipe that had not seen its set."""
    where = assign(kinds_of(example.text for example in run.corpus.score))
    parts = list(_folds(run, frozen, where))
    return Scored(tuple(text for part in parts for text in part.texts), Logits.joined([part.logits for part in parts]))


def _folds(run: Run, frozen: Bank, where: dict[str, int]) -> Iterator[Scored]:
    shown = run.progress.add_task("folds", total=len(FOLDS))
    for fold in range(len(FOLDS)):
        inside = [example for example in run.corpus.train if where[example.text.dataset] != fold]
        outside = [example for example in run.corpus.score if where[example.text.dataset] == fold]
        if inside and outside:
            yield run.scores(run.trained(inside, frozen, run.seed + 1 + fold), outside, frozen)
        run.progress.advance(shown)


def run_train(out: Path, data: Path | None, seed: int, encoder: Path | None, recipe: Path | None) -> None:
    """Train on our material and, where a folder is given, on its sets that may train; write the module's files into `out`.

    `recipe` is a JSON file, else the default one. Raises `FileNotFoundError` for a missing folder, `ValueError` for bad rows.
    """
    chosen = Recipe.model_validate_json(recipe.read_text()) if recipe else Recipe()
    encoder = encoder or default_encoder()
    own = tuple(generate(seed))
    sources = read_sources(data, own) if data else clean(own, ())
    with Progress(console=Console(stderr=True)) as progress:
        run = Run(chosen, encoder, corpus_of(sources.training, chosen.texts, seed), seed, progress)
        frozen = run.frozen_bank()
        train(run, frozen).save(out, encoder / TOKENIZER)
        scored = out_of_fold(run, frozen)
    write_scores(scored, out / OUT_OF_FOLD)
    (out / FIGURES).write_text(json.dumps(figures_of(scored), indent=1) + "\n")
    (out / CARD).write_text(json.dumps(card(run, sources.training, sources.dropped), indent=1) + "\n")


def card(run: Run, rows: Sequence[Row], dropped: dict[str, int]) -> dict[str, object]:
    """What the weights came from."""
    sizes = Counter(row.dataset for row in rows)
    return {
        "recipe": run.recipe.model_dump(mode="json"),
        "seed": run.seed,
        "encoder_sha256": hashlib.sha256((run.encoder / WEIGHTS).read_bytes()).hexdigest(),
        "rows": dict(sorted(sizes.items())),
        "rows_sha256": digest_of(rows),
        "dropped": dropped,
        "examples": dict(Counter(f"{example.text.direction}/{example.kind}" for example in run.corpus.train)),
        "folds": [list(fold) for fold in FOLDS],
        "torch": torch.__version__,
    }


def digest_of(rows: Iterable[Row]) -> str:
    """SHA-256 of the rows, in whatever order they come."""
    return hashlib.sha256("\n".join(sorted(row.model_dump_json() for row in rows)).encode()).hexdigest()


def figures_of(scored: Scored) -> dict[str, object]:
    """The table of `select` and the share of the look-alike code prompts that is flagged at 80 % recall."""
    rows = {name: None if row is None else asdict(row) for name, row in table(scored).items()}
    return {"table": rows, "flagged at 80 % recall": {SCARY: flagged_of(scored, SCARY)}}


def write_scores(scored: Scored, path: Path) -> None:
    """One JSON object a line: a `Text`'s fields but its texts, and `logits` with `task`, `harm`, `category`, `response`."""
    with path.open("w", encoding="utf-8") as lines:
        for at, text in enumerate(scored.texts):
            logits = {
                name: getattr(scored.logits, name)[at].round(5).tolist() for name in ("task", "harm", "category", "response")
            }
            fields = {
                name: getattr(text, name)
                for name in ("id", "dataset", "direction", "task", "harmful", "refused", "partial", "category", "lang")
            }
            lines.write(json.dumps(fields | {"logits": logits}) + "\n")


def read_scores(path: Path) -> Scored:
    """What `write_scores` wrote; the texts themselves are empty."""
    texts: list[Text] = []
    logits: list[Logits] = []
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            fields = json.loads(line)
            found = fields.pop("logits")
            direction, task = Direction(fields.pop("direction")), Task(fields.pop("task"))
            texts.append(Text(text="", context=None, direction=direction, task=task, **fields))
            logits.append(Logits(**{name: np.array([values]) for name, values in found.items()}))
    return Scored(tuple(texts), Logits.joined(logits))
