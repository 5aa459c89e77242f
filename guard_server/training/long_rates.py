"""Long harmless texts read by the file that ships: those that set thresholds, and those that only say how they do.

In: a `Scorer`. Out: `Reading`s by direction and kind; `LongRate`s of texts that no model was trained on.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np

from guard_server.bundle_spec import BundleSpec, Threshold
from guard_server.labels import Direction, Task
from guard_server.training.calibrate import probabilities
from guard_server.training.card import LongRate
from guard_server.training.figures import TARGETS, rate
from guard_server.training.long_texts import answer_documents, list_documents, prompt_documents
from guard_server.training.rows import Row
from guard_server.training.scored import Text, texts_of
from guard_server.training.scoring import Scorer
from guard_server.training.thresholds import Reading, block_maxima, scale_of

LISTS: Final = 3
"""Long texts per never-trained set."""
LIST_WINDOWS: Final = 64
LENGTHS: Final = (2, 8, 32, 64, 256)
"""Segments at which they are looked at."""
TASK: Final = Task.TEXT_GENERATION


def read_documents(scorer: Scorer, seed: int, *, per_kind: int, windows: int) -> dict[Direction, dict[str, Sequence[Reading]]]:
    """Harmless long documents by direction and kind, of `windows` windows each; half as many answers as prompts."""
    window = scorer.spec.window
    made = {
        Direction.PROMPT: prompt_documents(window, seed, per_kind=per_kind, windows=windows),
        Direction.RESPONSE: answer_documents(window, seed, per_kind=max(1, per_kind // 2), windows=windows),
    }
    return {direction: {kind: scorer.documents(texts) for kind, texts in kinds.items()} for direction, kinds in made.items()}


def long_unseen(unseen: Iterable[Row], scorer: Scorer, spec: BundleSpec, seed: int) -> Iterator[LongRate]:
    """How many long texts of never-trained harmless prompts reach the thresholds, the task taken to be text generation."""
    prompts = _harmless_prompts(texts_of(unseen))
    texts = list_documents(prompts, spec.window, seed, count=LISTS * len(prompts), windows=LIST_WINDOWS)
    read = scorer.documents(texts)
    for target in TARGETS:
        threshold = spec.threshold(Direction.PROMPT, TASK, target)
        for count in LENGTHS if texts and threshold else ():
            assert threshold is not None
            maxima = block_maxima([_reached(one, threshold, spec, count) for one in read], count)
            yield LongRate(segments=count, target=target, reached=rate(int(maxima.sum()), len(maxima)))


def _reached(one: Reading, threshold: Threshold, spec: BundleSpec, count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """1 for each segment of a text of `count` that reaches the threshold of its kind, else 0."""
    found = probabilities(one.logits.risk(Direction.PROMPT, TASK), scale_of(spec.calibration, Direction.PROMPT, TASK))
    at = np.where(one.sentences, threshold.for_segments(count, sentence=True), threshold.for_segments(count))
    return (found >= at).astype(np.float64)


def _harmless_prompts(texts: Iterable[Text]) -> dict[str, list[str]]:
    """Harmless foreign prompts by set."""
    found: dict[str, list[str]] = {}
    for text in texts:
        if text.direction is Direction.PROMPT and text.harmful is False and not text.own:
            found.setdefault(text.dataset, []).append(text.text)
    return found
