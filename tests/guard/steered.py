"""A loaded bundle at the protocols, without a model: words decide the scores, so that a test can say what a text must get."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from guard_server.bundle_spec import BundleSpec, Calibration, Scale, SelfTest, Threshold, Window
from guard_server.labels import CATEGORIES, TASKS, Category, Direction, Task
from guard_server.records import Encoded, Scores, Timing

HARM = {"bomb": 0.95, "knife": 0.6, "rope": 0.45}
DILUTED, ALONE = {"wire": 0.95}, 60
"""Words that count in texts of at most so many characters: among more they are lost."""
TASK_WORDS = {"translate": Task.TRANSLATION, "summarize": Task.SUMMARIZATION, "python": Task.CODE_GENERATION}
SEPARATOR = 0x10FFFF
"""Stands between context and text."""


def spec(
    *,
    characters: int = 60,
    overlap: int = 20,
    sentence: int = 0,
    max_tokens: int = 200,
    context_characters: int = 40,
    of_sentences: tuple[float, ...] = (),
) -> BundleSpec:
    """A bundle's numbers; thresholds .5 and .9 for one segment, .55 and .92 for more than four; code is stricter.

    `of_sentences`: thresholds for sentences in place of .5 to .55.
    """
    scale = Scale(temperature=1)
    found = tuple(
        Threshold(
            direction=direction, task=task, target_fpr=target, segments=(1, 4, 16), benign=100,
            at=tuple(v - (0.1 if task is Task.CODE_GENERATION else 0) for v in at),
            sentences=of_sentences if target == 0.05 else (),
        )
        for direction in Direction
        for task in TASKS
        for target, at in ((0.05, (0.5, 0.5, 0.55)), (0.01, (0.9, 0.9, 0.92)))
    )  # fmt: skip
    return BundleSpec(
        name="steered",
        version="1",
        encoder="words",
        precision="fp32",
        max_tokens=max_tokens,
        window=Window(characters=characters, overlap=overlap, sentence=sentence),
        context_characters=context_characters,
        tasks=TASKS,
        categories=CATEGORIES,
        calibration=Calibration(
            harm=dict.fromkeys(TASKS, scale), response_harm=scale, refusal=scale, task_temperature=1, category_temperature=1
        ),
        thresholds=found,
        self_tests=(SelfTest(direction=Direction.PROMPT, text="a", task=Task.OTHER, score=0.01, tolerance=0.1),),
    )


@dataclass
class Letters:
    """A tokenizer with one token a character, and two that frame the text."""

    max_tokens: int = 200

    def encode(self, text: str, *, context: str | None = None) -> Encoded:
        """Code points."""
        ids = [ord(c) for c in text]
        types = [0] * len(ids)
        if context is not None:
            before = [ord(c) for c in context] + [SEPARATOR]
            ids, types = before + ids, [0] * len(before) + [1] * len(ids)
        return Encoded((0, *ids, 0), (0, *types, 0))


@dataclass
class Words:
    """An engine that scores by words; it keeps what it was asked."""

    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """Text and context."""
    broken: bool = False
    """Give NaN."""

    async def score(self, batch: Sequence[Encoded], *, deadline: float) -> tuple[list[Scores], Timing]:
        """After a turn of the event loop, as a real one."""
        await asyncio.sleep(0)
        return [self._one(encoded) for encoded in batch], Timing(0.001, 0.002)

    async def close(self) -> None:
        """Nothing to free."""

    def _one(self, encoded: Encoded) -> Scores:
        ids = encoded.ids[1:-1]
        cut = ids.index(SEPARATOR) if SEPARATOR in ids else None
        text = "".join(map(chr, ids if cut is None else ids[cut + 1 :]))
        self.asked.append((text, None if cut is None else "".join(map(chr, ids[:cut]))))
        low = text.lower()
        words = HARM | (DILUTED if len(text) <= ALONE else {})
        harm = math.nan if self.broken else max([0.01, *(p for word, p in words.items() if word in low)])
        named = next((task for word, task in TASK_WORDS.items() if word in low), None)
        tasks = {t: 1 / 6 if named is None else (0.9 if t is named else 0.02) for t in TASKS}
        if "either" in low:
            tasks = {t: 0.45 if t is Task.OTHER else 0.4 if t is Task.CODE_GENERATION else 0.0375 for t in TASKS}
        kinds = {c: 0.78 if c is Category.WEAPONS else 0.02 for c in CATEGORIES}
        return Scores(tasks, dict.fromkeys(TASKS, harm), kinds, harm, 0.9 if "sorry" in low else 0.1)


@dataclass
class Steered:
    """What `screening.screen` is given as the loaded bundle."""

    spec: BundleSpec = field(default_factory=spec)
    tokenizer: Letters = field(default_factory=Letters)
    engine: Words = field(default_factory=Words)
    digest: str = "d" * 64
