"""A bundle whose thresholds for long texts are set again: a bundle in; the same model, the new thresholds and their figures out.

How a text is cut, and which harmless documents set the thresholds, may change while the weights stay. Scales, the thresholds of
one segment and what was measured without long texts are taken over.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from guard_server.bundle import CARD, MODEL, SPEC, TOKENIZER, load_bundle
from guard_server.bundle_spec import BundleSpec, Threshold
from guard_server.labels import Direction
from guard_server.training.build import CARD_TEXT, check_out, never_trained, put, sealed
from guard_server.training.card import LIMITS, Card, render
from guard_server.training.figures import Evaluation, Group
from guard_server.training.long_rates import long_unseen, read_documents
from guard_server.training.long_texts import PER_KIND, WINDOWS
from guard_server.training.rows import Row
from guard_server.training.scoring import Scorer
from guard_server.training.sources import read_sources
from guard_server.training.thresholds import Reading, for_long_texts, lengths_of


def run_rethreshold(
    bundle: Path,
    out: Path,
    key: Path | None = None,
    *,
    version: str,
    data: Path | None = None,
    documents: int = PER_KIND,
    longest: int = WINDOWS,
    workers: int = 1,
    force: bool = False,
    console: Console | None = None,
) -> str:
    """Write `out`, signed where a key is given; gives its digest. `out` may be `bundle` itself.

    `data`: the folder it was trained with, whose sets that never train judge the result; without it the card has none of these
    figures. `documents`: long documents of each kind, each of `longest` windows. Raises `FileExistsError` unless `force`,
    `BundleError`, `ValueError`.
    """
    say = (console or Console(stderr=True)).print
    check_out(out, key, force=force)
    loaded = load_bundle(bundle, public_key=None, require_signed=False)
    card = Card.model_validate_json((bundle / CARD).read_text(encoding="utf-8"))
    unseen = () if data is None else read_sources(data).unseen
    scorer = Scorer(bundle, loaded.spec, workers=workers)
    say("reading long documents")
    read = read_documents(scorer, card.seed, per_kind=documents, windows=longest)
    spec = rethresholded(loaded.spec, read, version)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        folder = Path(scratch) / "bundle"
        folder.mkdir()
        for name in (MODEL, TOKENIZER):
            shutil.copyfile(bundle / name, folder / name)
        say("figures")
        card = card.model_copy(
            update={
                "version": version,
                "limits": LIMITS,
                "thresholds": tuple(replace(b, documents=lengths_of(read[b.direction])) for b in card.thresholds),
                "never_trained": _judged_again(folder, unseen, spec, card.never_trained, workers),
                "long_unseen": tuple(long_unseen(unseen, scorer, spec, card.seed)),
            }
        )
        (folder / SPEC).write_text(spec.model_dump_json(indent=1) + "\n", encoding="utf-8")
        (folder / CARD).write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")
        (folder / CARD_TEXT).write_text(render(card, spec.thresholds), encoding="utf-8")
        digest, size = sealed(folder, key)
        put(folder, out)
    say(f"{out}: {size / 1e6:.1f} MB, digest {digest}")
    return digest


def _judged_again(
    folder: Path, unseen: Sequence[Row], spec: BundleSpec, before: Evaluation | None, workers: int
) -> Evaluation | None:
    """The evaluation of all prompts, and of answers whose harm is labelled; what was said of refusals is taken over.

    Refusals are read in an answer's first window, which is cut as before.
    """
    if before is None:
        return never_trained(folder, unseen, spec, workers=workers)
    refusals = {"refused", "complied", "partial"}
    rows = [row.model_copy(update={"response_label": None}) if row.response_label in refusals else row for row in unseen]
    found = never_trained(folder, rows, spec, workers=workers)
    if found is None:
        return None
    kept = {"refusal", "partial", "partial_refusal"}
    return found.model_copy(
        update={
            "data": before.data,
            "texts": before.texts,
            "groups": (*found.groups, *_refusals(before.groups)),
            "by_dataset": tuple(sorted((*found.by_dataset, *_refusals(before.by_dataset)), key=lambda group: group.name)),
            "heads": found.heads.model_copy(update={name: getattr(before.heads, name) for name in kept}),
        }
    )


def _refusals(groups: Sequence[Group]) -> Iterator[Group]:
    return (group for group in groups if group.head == "refusal")


def rethresholded(spec: BundleSpec, read: Mapping[Direction, Mapping[str, Sequence[Reading]]], version: str) -> BundleSpec:
    """The numbers of a bundle with the thresholds for more than one segment set on these documents."""
    thresholds = tuple(for_long_texts(_of_one_segment(t), spec.calibration, read[t.direction]) for t in spec.thresholds)
    return spec.model_copy(update={"version": version, "thresholds": thresholds})


def _of_one_segment(threshold: Threshold) -> Threshold:
    return threshold.model_copy(update={"segments": (1,), "at": threshold.at[:1], "sentences": ()})
