"""How good a bundle is on labelled texts: a bundle and a folder of JSON Lines in, tables and an `Evaluation` out.

Every text goes through the server's own code: views, windows, tokenizer, session, judgement by the number of segments. Nothing is
truncated and nothing is sampled.
"""

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from guard_server.bundle import Bundle, load_bundle
from guard_server.bundle_spec import BundleSpec
from guard_server.classifier import OnnxModel, OnnxTokenizer
from guard_server.labels import CATEGORIES, TASKS, Category
from guard_server.policy import Policy
from guard_server.screening import judge, prepare
from guard_server.training.figures import TARGETS, Evaluation, Judged, summarise
from guard_server.training.rows import Row, read_folder
from guard_server.training.scored import Text, texts_of
from guard_server.training.sources import category_of
from guard_server.training.tables import tables

Expected = tuple[Text, Category | None]
RULE: Final = {"*": {"flag": {"target_fpr": 0.05}, "block": {"target_fpr": 0.01}}}
FLAG_AND_BLOCK: Final = Policy.model_validate({"prompt": RULE, "response": RULE, "max_characters": sys.maxsize})
"""The two targets that are reported, as the shipped default policy has them; all views; texts of any length."""


def run_evaluate(
    bundle: Path, data: Path, out: Path | None = None, *, workers: int = 1, console: Console | None = None
) -> Evaluation:
    """Score every labelled text of a folder, print the tables, write the figures as JSON to `out` where given.

    `workers`: threads, one core each. Raises `BundleError`, `FileNotFoundError`, `ValueError` naming a bad row's file and line.
    """
    console = console or Console()
    loaded = load_bundle(bundle, public_key=None, require_signed=False)
    texts = labelled(row for rows in read_folder(data).values() for row in rows)
    if not texts:
        msg = f"{data}: no row has a label; `label` or `response` with `response_label` is needed"
        raise ValueError(msg)
    with _progress(console) as progress:
        task = progress.add_task("scoring", total=len(texts))
        judged = []
        for one in judge_all(loaded, texts, workers=workers):
            judged.append(one)
            progress.advance(task)
    evaluation = summarise(judged, bundle=f"{loaded.spec.name} {loaded.spec.version}", digest=loaded.digest)
    console.print(f"{evaluation.bundle}, digest {evaluation.digest}: {evaluation.texts} texts of {len(evaluation.data)} sets")
    for table in tables(evaluation):
        console.print(table)
    if out is not None:
        out.write_text(evaluation.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return evaluation


def labelled(rows: Iterator[Row]) -> list[Expected]:
    """The labelled texts of rows, with the category of harm where the source's is one of ours or maps to one."""
    return [(text, _expected(row)) for row in rows for text in texts_of([row])]


def judge_all(bundle: Bundle, texts: Sequence[Expected], *, workers: int = 1) -> Iterator[Judged]:
    """Judge texts in their order; abandons what is queued when it is closed early or interrupted."""
    judge = Judge(bundle)
    with ThreadPoolExecutor(workers) as pool:
        try:
            yield from pool.map(lambda one: judge(*one), texts)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class Judge:
    """A loaded bundle; one call judges one text, safe from several threads."""

    def __init__(self, bundle: Bundle) -> None:
        """Raises `BundleError` where the bundle can't be loaded, `ValueError` where it lacks a threshold that is reported."""
        check_targets(bundle.spec)
        self._bundle = bundle
        self._tokenizer = OnnxTokenizer(bundle)
        self._model = OnnxModel(bundle)

    def __call__(self, text: Text, expected: Category | None) -> Judged:
        """The worst segment's scores for the text's own direction and task."""
        prepared = prepare(text.text, text.context, FLAG_AND_BLOCK, self._bundle.spec, self._tokenizer)
        scores = [self._model.score_one(encoded) for encoded in prepared.encoded]
        screened = judge(
            prepared,
            scores,
            direction=text.direction,
            task=text.task,
            policy=FLAG_AND_BLOCK,
            spec=self._bundle.spec,
            bundle=self._bundle.digest,
        )
        return Judged(
            text=text,
            risk=screened.score,
            thresholds={0.05: screened.thresholds["flag"], 0.01: screened.thresholds["block"]},
            segments=screened.segments,
            task=max(TASKS, key=screened.task_probabilities.__getitem__),
            category=max(CATEGORIES, key=screened.categories.__getitem__),
            refusal=screened.refusal or 0.0,
            expected_category=expected,
        )


def check_targets(spec: BundleSpec) -> None:
    """Raises `ValueError` where the bundle has no thresholds for the targets that are reported."""
    missing = [
        f"{threshold.direction}/{threshold.task} at {target:g}"
        for threshold in spec.thresholds
        for target in TARGETS
        if spec.threshold(threshold.direction, threshold.task, target) is None
    ]
    if missing:
        msg = f"the bundle has no threshold for {missing[0]}: build it with this version"
        raise ValueError(msg)


def _expected(row: Row) -> Category | None:
    """Our category of a row, by the table of sources, else where its own value is one of our words."""
    found = category_of(row)
    if found is None and row.category in set(Category):
        return Category(row.category)
    return found


def _progress(console: Console) -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console)
