"""A trained model becomes a bundle: export, precision, calibration, thresholds, self-tests, card, manifest, signature.

In: what `guard train` wrote (weights and out-of-fold logits) and, where given, the folder of labelled data. Out: a folder that
the server's own checks accept, put in place whole or not at all. The same inputs on the same kind of machine give the same bytes:
the latencies, which never repeat, lie beside the folder (`<name>.latency.json`) and outside the digest.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from random import Random
from typing import Final

from pydantic import JsonValue
from rich.console import Console

from guard_server.bundle import CARD, MODEL, SPEC, TOKENIZER, load_bundle
from guard_server.bundle_spec import BundleSpec, Calibration, Scale, SelfTest, Threshold
from guard_server.labels import CATEGORIES, TASKS, Direction
from guard_server.training.calibrate import calibrate, probabilities
from guard_server.training.card import Card, DataSet, render
from guard_server.training.evaluate import judge_all, labelled
from guard_server.training.export import run_export
from guard_server.training.figures import TARGETS, Evaluation, Judged, summarise
from guard_server.training.latency import Latency, measure
from guard_server.training.long_rates import long_unseen, read_documents
from guard_server.training.long_texts import PER_KIND, WINDOWS
from guard_server.training.material import generate
from guard_server.training.quantise import COMPUTED_IN_FP32, LARGEST, Kind, choose
from guard_server.training.recipe import Recipe, Texts
from guard_server.training.rows import Row
from guard_server.training.scored import REFUSAL, Scored, Text, texts_of
from guard_server.training.scoring import Scorer
from guard_server.training.self_tests import self_tests
from guard_server.training.sign import read_key, sign_manifest, write_manifest
from guard_server.training.sources import Sources, clean, read_sources
from guard_server.training.thresholds import Shipped, left_out_rates, scale_of, set_thresholds

NAME: Final = "taskgate-guard"
ENCODER: Final = "sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0)"
CARD_TEXT: Final = "CARD.md"
FILES: Final = (MODEL, TOKENIZER, SPEC, CARD, CARD_TEXT)
GATE_TEXTS: Final = 150
"""Texts per task and label that judge a variant."""
LONGEST_SAMPLED: Final = 1_500
"""Characters of a text that is sampled to compare files: longer ones cost much and tell little more."""
SHIFT_TEXTS: Final = 40
"""Harmless texts per set on which the file's shift is measured."""
CARDS_ROOM: Final = 1_000_000
"""Bytes kept for what is written after the model."""
TRAINING_CARD: Final = "training_card.json"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Built:
    """A finished bundle."""

    folder: Path
    digest: str
    bytes: int
    precision: Kind
    latency: Latency


@dataclass(frozen=True, slots=True)
class _Input:
    """What a build reads."""

    model: Path
    out_of_fold: Scored
    sources: Sources
    manifest: dict[str, dict[str, JsonValue]]
    training: dict[str, JsonValue]
    seed: int
    workers: int
    per_kind: int
    longest: int


def run_bundle(
    model: Path,
    oof: Path,
    out: Path,
    key: Path | None = None,
    *,
    data: Path | None = None,
    name: str = NAME,
    version: str = "1",
    encoder: str = ENCODER,
    workers: int = 1,
    documents: int = PER_KIND,
    longest: int = WINDOWS,
    force: bool = False,
    largest: int = LARGEST,
    console: Console | None = None,
) -> Built:
    """Build the bundle `out` from a folder and the out-of-fold logits that `guard train` wrote.

    `data`: the folder it was trained with; its sets that never train judge precision and the result. `documents`: long documents
    of each kind for the thresholds, each of `longest` windows. Raises `FileExistsError` unless `force`, `QualityError`,
    `ParityError`, `ValueError`.
    """
    say = (console or Console(stderr=True)).print
    check_out(out, key, force=force)
    given = _read(model, oof, data, workers, (documents, longest))
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        folder = Path(scratch) / "bundle"
        folder.mkdir()
        spec, kind = _fill(folder, Path(scratch), given, _draft(name, version, encoder, given.training), largest, say)
        digest, size = sealed(folder, key, largest)
        latency = measure(Scorer(folder, spec))
        put(folder, out)
    latency_file = out.with_name(f"{out.name}.latency.json")
    latency_file.write_text(latency.model_dump_json(indent=1) + "\n", encoding="utf-8")
    say(f"{out}: {kind}, {size / 1e6:.1f} MB, digest {digest}; latencies in {latency_file.name}")
    return Built(out, digest, size, kind, latency)


def _read(model: Path, oof: Path, data: Path | None, workers: int, documents: tuple[int, int]) -> _Input:
    """Read logits and texts, and see that they belong together."""
    from guard_server.training.train import read_scores

    training: dict[str, JsonValue] = {}
    with suppress(FileNotFoundError):  # weights of another trainer have none
        training = json.loads((model / TRAINING_CARD).read_text(encoding="utf-8"))
    found = training.get("seed", 0)
    seed = found if isinstance(found, int) else 0
    own = tuple(generate(seed))
    sources = clean(own, ()) if data is None else read_sources(data, own)
    scored = _with_texts(read_scores(oof), sources.training, oof)
    manifest = {} if data is None else json.loads((data / "MANIFEST.json").read_text(encoding="utf-8"))
    return _Input(model, scored, sources, manifest, training, seed, workers, *documents)


def _with_texts(scored: Scored, rows: Iterable[Row], oof: Path) -> Scored:
    """The logits' texts, which their file leaves out, from the rows they were made of."""
    known = {(text.dataset, text.id, text.direction): text for text in texts_of(rows)}
    texts = [known.get((text.dataset, text.id, text.direction)) for text in scored.texts]
    if missing := [text.id for text, found in zip(scored.texts, texts, strict=True) if found is None]:
        msg = (
            f"{oof}: {len(missing)} of {len(texts)} texts are not in the training data given; name the folder it was trained with"
        )
        raise ValueError(msg)
    return Scored(tuple(text for text in texts if text is not None), scored.logits)


def _fill(folder: Path, scratch: Path, given: _Input, draft: BundleSpec, largest: int, say: Say) -> tuple[BundleSpec, Kind]:
    """Write every file but the manifest; returns the spec and the precision."""
    say("export")
    full = scratch / "full"
    export = run_export(given.model, full)
    shutil.copyfile(export.tokenizer, folder / TOKENIZER)
    gate, what = _gate_texts(given)
    say(f"precision: {len(gate)} texts")

    def score(path: Path) -> Scored:
        beside = folder if path.parent == folder else full
        return Scorer(beside, draft, workers=given.workers).score(gate)

    room = largest - (folder / TOKENIZER).stat().st_size - CARDS_ROOM
    kind, attempts = choose(full / MODEL, folder / MODEL, score, largest=room)
    draft = draft.model_copy(update={"precision": "fp32" if kind in COMPUTED_IN_FP32 else "int8"})
    say(f"calibration and thresholds: {kind}")
    calibration, fits = calibrate(given.out_of_fold)
    scorer = Scorer(folder, draft, workers=given.workers)
    thresholds, bases = set_thresholds(
        given.out_of_fold,
        calibration,
        read_documents(scorer, given.seed, per_kind=given.per_kind, windows=given.longest),
        _shipped(given, scorer, Scorer(full, draft, workers=given.workers)),
        longest=draft.window.characters,
    )
    spec = draft.model_copy(update={"calibration": calibration, "thresholds": thresholds})
    spec = BundleSpec.model_validate(spec.model_copy(update={"self_tests": self_tests(scorer, spec)}).model_dump())
    (folder / SPEC).write_text(spec.model_dump_json(indent=1) + "\n", encoding="utf-8")
    say("figures")
    card = Card(
        name=spec.name,
        version=spec.version,
        encoder=spec.encoder,
        precision=kind,
        model_bytes=(folder / MODEL).stat().st_size,
        seed=given.seed,
        opset=export.opset,
        parity=export.parity,
        training=given.training,
        data=_data_sets(given),
        gate_texts=what,
        attempts=attempts,
        calibration=fits,
        thresholds=bases,
        left_out=_left_out(given.out_of_fold, spec, own=False),
        own=_left_out(given.out_of_fold, spec, own=True),
        left_out_rates=left_out_rates(given.out_of_fold, calibration),
        never_trained=never_trained(folder, given.sources.unseen, spec, workers=given.workers),
        long_unseen=tuple(long_unseen(given.sources.unseen, scorer, spec, given.seed)),
    )
    (folder / CARD).write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (folder / CARD_TEXT).write_text(render(card, thresholds), encoding="utf-8")
    return spec, kind


def _draft(name: str, version: str, encoder: str, training: dict[str, JsonValue]) -> BundleSpec:
    """A spec for scoring before there is anything to put into it: window, context and token limit as in training."""
    recipe = training.get("recipe")
    texts = Recipe.model_validate(recipe).texts if recipe else Texts()
    scale = Scale(temperature=1)
    return BundleSpec(
        name=name,
        version=version,
        encoder=encoder,
        precision="fp32",
        max_tokens=texts.max_tokens,
        window=texts.window,
        context_characters=texts.context_characters,
        tasks=TASKS,
        categories=CATEGORIES,
        calibration=Calibration(harm=dict.fromkeys(TASKS, scale), response_harm=scale, refusal=scale, task_temperature=1),
        thresholds=(Threshold(direction=Direction.PROMPT, task=TASKS[0], target_fpr=0.5, segments=(1,), at=(1.0,), benign=0),),
        self_tests=(SelfTest(direction=Direction.PROMPT, text="-", task=TASKS[0], score=0, tolerance=1),),
    )


def _gate_texts(given: _Input) -> tuple[list[Text], str]:
    """Up to `GATE_TEXTS` texts per task and label: of sets that never train, and where these have few also of training sets."""
    random = Random(given.seed)
    chosen: list[Text] = []
    filled = 0
    unseen, trained = (
        [text for text in texts if text.harmful is not None and len(text.text) <= LONGEST_SAMPLED]
        for texts in (texts_of(given.sources.unseen), given.out_of_fold.texts)
    )
    for direction, task, harmful in product(Direction, TASKS, (True, False)):
        first, second = (
            [text for text in texts if (text.direction, text.task, text.harmful) == (direction, task, harmful)]
            for texts in (unseen, trained)
        )
        taken = random.sample(first, min(len(first), GATE_TEXTS))
        more = random.sample(second, min(len(second), max(0, GATE_TEXTS * 2 // 3 - len(taken))))
        chosen += [*taken, *more]
        filled += len(more)
    return chosen, f"{len(chosen) - filled} texts of sets that were never trained on and {filled} of training sets"


def _shipped(given: _Input, file: Scorer, full: Scorer) -> Shipped:
    """A sample of the harmless texts of every set, scored at full precision and by the file."""
    random = Random(f"{given.seed}:shift")
    by_set: dict[tuple[str, Direction], list[Text]] = {}
    for text in given.out_of_fold.texts:
        if text.harmful is False and len(text.text) <= LONGEST_SAMPLED:
            by_set.setdefault((text.dataset, text.direction), []).append(text)
    texts = [text for _, own in sorted(by_set.items()) for text in random.sample(own, min(len(own), SHIFT_TEXTS))]
    return Shipped(full.score(texts), file.score(texts))


def _left_out(scored: Scored, spec: BundleSpec, *, own: bool) -> Evaluation | None:
    """The fold models on foreign sets, or on our own families; None where there are none."""
    judged = [one for one in _judged(scored, spec) if one.text.own is own]
    return summarise(judged, bundle=f"{spec.name} {spec.version}, fold models", digest="") if judged else None


def _judged(scored: Scored, spec: BundleSpec) -> Iterable[Judged]:
    """Out-of-fold logits as the server would judge texts of one segment."""
    scores = {
        (direction, task): probabilities(scored.logits.risk(direction, task), scale_of(spec.calibration, direction, task))
        for direction in Direction
        for task in TASKS
    }
    refusal = probabilities(scored.logits.response[:, REFUSAL], spec.calibration.refusal)
    known = {category.value: category for category in CATEGORIES}
    for at, text in enumerate(scored.texts):
        found = {target: spec.threshold(text.direction, text.task, target) for target in TARGETS}
        yield Judged(
            text=text,
            risk=float(scores[text.direction, text.task][at]),
            thresholds={target: threshold.for_segments(1) for target, threshold in found.items() if threshold},
            segments=1,
            task=TASKS[int(scored.logits.task[at].argmax())],
            category=CATEGORIES[int(scored.logits.category[at].argmax())],
            refusal=float(refusal[at]),
            expected_category=known.get(text.category or ""),
        )


def never_trained(folder: Path, unseen: Iterable[Row], spec: BundleSpec, *, workers: int) -> Evaluation | None:
    """The finished file on the sets that never train, through the server's code; None where there are none."""
    texts = labelled(iter(unseen))
    if not texts:
        return None
    bundle = Scorer.bundle_of(folder, spec)
    return summarise(list(judge_all(bundle, texts, workers=workers)), bundle=f"{spec.name} {spec.version}", digest="")


def _data_sets(given: _Input) -> tuple[DataSet, ...]:
    """Every foreign set with its licence and its use."""
    trained: dict[str, int] = {}
    for row in given.sources.training:
        trained[row.dataset] = trained.get(row.dataset, 0) + 1
    found = []
    for file, entry in sorted(given.manifest.items()):
        name = file.removesuffix(".jsonl")
        unseen = sum(row.dataset == name for row in given.sources.unseen)
        use = "training, thresholds" if name in trained else "evaluation alone"
        licence, origin = str(entry.get("licence", "")), str(entry.get("origin", ""))
        found.append(DataSet(name=name, use=use, rows=trained.get(name, unseen), licence=licence, origin=origin))
    own = [(name, count) for name, count in sorted(trained.items()) if name.startswith("own_")]
    return (
        *found,
        *(DataSet(name=n, use="training, thresholds", rows=c, licence="Apache-2.0", origin="generated here") for n, c in own),
    )


def check_out(out: Path, key: Path | None, *, force: bool) -> None:
    """What would stop a build at its end is noticed before minutes of work: `FileExistsError`, or what a wrong key raises."""
    if out.exists() and not force:
        msg = f"{out} is there already; --force replaces it"
        raise FileExistsError(msg)
    if key is not None:
        read_key(key)


def sealed(folder: Path, key: Path | None, largest: int = LARGEST) -> tuple[str, int]:
    """Write the manifest of a finished folder, sign it where a key is given, and load it; its digest and its size in bytes.

    Raises `ValueError` for one of more than `largest` bytes.
    """
    digest = write_manifest(folder, FILES)
    if key is not None:
        sign_manifest(folder, key)
    size = sum(path.stat().st_size for path in folder.iterdir())
    if size > largest:
        msg = f"the bundle has {size / 1e6:.1f} MB, allowed are {largest / 1e6:.1f}"
        raise ValueError(msg)
    load_bundle(folder, public_key=None, require_signed=False)
    return digest, size


def put(folder: Path, out: Path) -> None:
    """Put the finished folder in the place of `out`; what stood there is set aside, and goes when the new one is in place."""
    aside = out.with_name(f".{out.name}.replaced")
    if out.exists():
        if aside.exists():
            shutil.rmtree(aside)
        out.rename(aside)
    try:
        folder.rename(out)
    except OSError:
        if aside.exists():
            aside.rename(out)
        raise
    if aside.exists():
        shutil.rmtree(aside)
