"""A labelled row as the one or two texts that the model reads of it, with or without the logits it gave them.

In: `Row`s. Out: `Text`s (a prompt; an answer with its prompt) with the labels that belong to that text, and `Scored`: texts with
logits, from which calibration, thresholds and the quality gate take what concerns one head.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guard_server.labels import TASKS, Direction, Task
from guard_server.training.rows import Row
from guard_server.training.weights import OWN_PREFIX, Flags, Floats

HARM, REFUSAL = 0, 1
"""Columns of the response head."""


@dataclass(frozen=True, slots=True)
class Text:
    """One text as the model reads it."""

    id: str
    dataset: str
    direction: Direction
    text: str
    """The prompt, or the answer."""
    context: str | None
    """The prompt of an answer."""
    task: Task
    harmful: bool | None
    """Of this text; None where no label says so."""
    refused: bool | None = None
    """Of an answer: refused (True) or complied (False); None where not said, or said to be partial."""
    partial: bool = False
    category: str | None = None
    lang: str = "en"

    @property
    def own(self) -> bool:
        """Whether it is our own material."""
        return self.dataset.startswith(OWN_PREFIX)


def texts_of(rows: Iterable[Row]) -> Iterator[Text]:
    """The labelled texts of rows: the prompt where it has a label, the answer where it has one."""
    for row in rows:
        if row.label is not None:
            yield Text(
                id=row.id,
                dataset=row.dataset,
                direction=Direction.PROMPT,
                text=row.text,
                context=None,
                task=row.task,
                harmful=row.label == "harmful",
                category=row.category,
                lang=row.lang,
            )
        if row.response and row.response_label is not None:
            said = row.response_label
            yield Text(
                id=row.id,
                dataset=row.dataset,
                direction=Direction.RESPONSE,
                text=row.response,
                context=row.text,
                task=row.task,
                harmful=said == "harmful" if said in {"harmful", "safe"} else None,
                refused=said == "refused" if said in {"complied", "refused"} else None,
                partial=said == "partial",
                category=row.category,
                lang=row.lang,
            )


@dataclass(frozen=True, slots=True)
class Logits:
    """The four outputs of the model for n texts, float64 (bundle_spec names the columns)."""

    task: Floats
    harm: Floats
    category: Floats
    response: Floats

    def __len__(self) -> int:
        """The number of texts."""
        return len(self.task)

    def select(self, chosen: Flags | NDArray[np.int64]) -> "Logits":
        """Some of the texts."""
        return Logits(self.task[chosen], self.harm[chosen], self.category[chosen], self.response[chosen])

    def risk(self, direction: Direction, task: Task) -> Floats:
        """The logit that decides, [n]: of harm in a prompt of that task, or of harm in an answer."""
        return self.harm[:, TASKS.index(task)] if direction is Direction.PROMPT else self.response[:, HARM]

    @classmethod
    def joined(cls, parts: Iterable["Logits"]) -> "Logits":
        """All parts one after the other."""
        columns = zip(*((part.task, part.harm, part.category, part.response) for part in parts), strict=True)
        task, harm, category, response = (np.concatenate(column).astype(np.float64) for column in columns)
        return Logits(task, harm, category, response)


@dataclass(frozen=True, slots=True)
class Scored:
    """Texts and what a model says of them, in the same order."""

    texts: tuple[Text, ...]
    logits: Logits

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.logits) or not all(np.isfinite(part).all() for part in _arrays(self.logits)):
            msg = f"{len(self.texts)} texts need as many finite logits, not {len(self.logits)}"
            raise ValueError(msg)

    def where(self, chosen: Flags) -> "Scored":
        """The texts that a flag chooses."""
        return Scored(tuple(text for text, inside in zip(self.texts, chosen, strict=True) if inside), self.logits.select(chosen))

    def datasets(self) -> tuple[str, ...]:
        """The set of each text."""
        return tuple(text.dataset for text in self.texts)

    def about_harm(self, direction: Direction, task: Task | None = None) -> "Scored":
        """The texts of a direction (and task) whose harm is labelled."""
        return self.where(
            np.array(
                [t.direction is direction and t.harmful is not None and task in {None, t.task} for t in self.texts],
                dtype=np.bool_,
            )
        )

    def about_refusal(self) -> "Scored":
        """The answers that are labelled refused or complied."""
        return self.where(np.array([t.refused is not None for t in self.texts], dtype=np.bool_))

    def harmful(self) -> Flags:
        """Which are harmful, [n]; for texts whose harm is labelled."""
        return np.array([bool(text.harmful) for text in self.texts], dtype=np.bool_)

    def refused(self) -> Flags:
        """Which refuse, [n]; for answers labelled so."""
        return np.array([bool(text.refused) for text in self.texts], dtype=np.bool_)


def _arrays(logits: Logits) -> tuple[Floats, ...]:
    return logits.task, logits.harm, logits.category, logits.response
