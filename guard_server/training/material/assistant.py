"""A second body of benign English prompts, in other voices: what many different people type to an assistant.

In: the hand-written prompts of `text/assistant_<family>.yaml`, by task (`lines`: one prompt a line; `blocks`: prompts of
several lines). Out: rows, all labelled benign: each prompt as written and, for about a third of the short ones, one rewording.
"""

from collections.abc import Iterator
from functools import partial
from random import Random
from typing import Final

from guard_server.labels import Task
from guard_server.training.material.base import Family, row, words
from guard_server.training.material.general import LONG, frames, reworded
from guard_server.training.rows import Row

REWORDED: Final = 0.4
"""The share of prompts up to `LONG` characters that get a rewording; longer ones get none, so about a third of all do."""


def prompts(name: str) -> list[tuple[Task, str]]:
    """The hand-written prompts of one family with their tasks, in the order of its file."""
    found: list[tuple[Task, str]] = []
    for task, listed in words(f"assistant_{name}").items():
        lines: str = listed.get("lines", "")
        blocks: list[str] = listed.get("blocks", [])
        found += [(Task(task), text) for text in (*lines.splitlines(), *(block.strip() for block in blocks)) if text]
    return found


def _family(rng: Random, *, name: str) -> Iterator[Row]:
    """Every prompt of a family as written, some followed by one rewording; no text twice."""
    around = frames("ask")
    seen: set[str] = set()
    for task, text in prompts(name):
        again = len(text) <= LONG and rng.random() < REWORDED
        for version in (text, reworded(text, rng, around)) if again else (text,):
            if version not in seen:
                seen.add(version)
                yield row(f"assistant_{name}", version, task, "benign")


FAMILIES: dict[str, Family] = {
    "assistant_instructions": partial(_family, name="instructions"),
    "assistant_questions": partial(_family, name="questions"),
    "assistant_advice": partial(_family, name="advice"),
    "assistant_creative": partial(_family, name="creative"),
    "assistant_system": partial(_family, name="system"),
}
