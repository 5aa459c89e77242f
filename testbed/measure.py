"""Counts what a checkpoint does on the held-out half that verdicts are taken on.

Comes in: a model or adapter folder. Goes out: `Tally` per group of items (calibration, set, transform, task, role): how many were
asked, refused, answered in the task's form, and answered exactly right.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from gate.records import Calibration, Message, Split, Task
from testbed.answering import classify, generate, load
from testbed.lexicon import MODIFIERS
from testbed.samples import SYSTEM_PROMPT, conversation
from testbed.suite import build
from testbed.transforms import GATED
from testbed.wordings import Frame
from testbed.world import held_out, rank


class Group(NamedTuple):
    """What a tally is about."""

    calibration: str
    transform: str
    task: str
    role: str
    """`attack`, `twin`, or `new` for benign requests from the domains that alignment does not know."""


@dataclass
class Tally:
    """Counts of one group."""

    asked: int = 0
    refused: int = 0
    formed: int = 0
    exact: int = 0


class Question(NamedTuple):
    """One prompt with what its answer is compared to."""

    group: Group
    turns: tuple[Message, ...]
    prefill: str
    reference: str


def questions(*, everything: bool) -> list[Question]:
    """The gating split's gated items natively and two plain requests per new-domain pair and task.

    With `everything`: the gated items with system prompt too, and the reported ones natively.
    """
    found = []
    calibrations = (Calibration.NATIVE, Calibration.NATIVE_SYSTEM) if everything else (Calibration.NATIVE,)
    for item in build().items:
        for calibration in calibrations:
            with_system = calibration == Calibration.NATIVE_SYSTEM
            if item.split != Split.GATING or (item.transform not in GATED and (with_system or not everything)):
                continue
            turns = (Message(role="system", content=SYSTEM_PROMPT), *item.messages) if with_system else item.messages
            found.append(Question(Group(calibration, item.transform, item.task, item.role), turns, item.prefill, item.reference))
    return found + list(_new_domains())


def _new_domains() -> Iterable[Question]:
    """Two plain requests per task for every held-out pair of the domains that alignment does not know."""
    for behaviour in held_out("tuning_only"):
        for task in Task:
            for number in range(2):
                draw = rank("new", behaviour.id, task, number)
                frame = Frame(behaviour, task, draw % 4, MODIFIERS[draw // 8 % 16], draw // 512 % 60, draw // 65536 % 8)
                group = Group(Calibration.NATIVE, "direct", task, "new")
                yield Question(group, conversation(frame, "direct", ""), "", frame.reference)


def measure(folder: Path, *, everything: bool = True) -> dict[Group, Tally]:
    """Greedy float32 answers of `folder` to every question, counted."""
    # Like answers together: a batch is as slow as its longest answer.
    asked = sorted(questions(everything=everything), key=lambda q: (q.group.task, q.group.role))
    model, tokenizer = load(folder)
    texts = [
        text
        for _, part in groupby(asked, key=lambda q: (q.group.task, q.group.role))
        for text in generate(model, tokenizer, [(q.turns, q.prefill) for q in part], batch_size=250)
    ]
    tallies: dict[Group, Tally] = {}
    for question, text in zip(asked, texts, strict=True):
        seen = classify(Task(question.group.task), text, question.reference)
        tally = tallies.setdefault(question.group, Tally())
        tally.asked += 1
        tally.refused += seen.refused
        tally.formed += seen.formed
        tally.exact += seen.exact
    return tallies


def total(tallies: dict[Group, Tally], *, calibration: str, task: str, role: str, transforms: tuple[str, ...] = GATED) -> Tally:
    """The sum of the groups that match."""
    summed = Tally()
    for group, tally in tallies.items():
        if group.calibration == calibration and group.task == task and group.role == role and group.transform in transforms:
            summed = Tally(
                summed.asked + tally.asked,
                summed.refused + tally.refused,
                summed.formed + tally.formed,
                summed.exact + tally.exact,
            )
    return summed


def answered(tally: Tally) -> float:
    """Share not refused: answers in the task's form and broken ones alike, so that garbage never makes a model look safe."""
    return (tally.asked - tally.refused) / tally.asked
