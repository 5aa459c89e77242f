"""The openings, closings and slips of the benign families around harmful text and its twins too, so that they say nothing.

In: rows of one family. Out: the same rows, and for short prompts of both labels a copy in another form. Without it "Hi there!"
would stand before harmless requests alone, and a small encoder learns that at once.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from random import Random
from typing import Final

from guard_server.labels import Category, Task
from guard_server.training.material.base import row
from guard_server.training.material.general import LONG, frames, reworded
from guard_server.training.material.tasks import FORMS
from guard_server.training.rows import Row

SHARE: Final = 0.6
"""Of rows that get a copy; the benign families have between one and two copies of three rows."""
BARE: Final = ("twins_", "harmful_", "contrast_", "requests_")
"""Families written without openings and closings of their own."""


def with_copies(name: str, rows: Iterable[Row], rng: Random) -> Iterator[Row]:
    """The rows of a family, each followed by its copy where it gets one."""
    for given in rows:
        yield given
        if (
            name.startswith(BARE)
            and given.label is not None
            and given.response is None
            and len(given.text) <= LONG
            and rng.random() < SHARE
        ):
            text = _reframed(given, rng)
            if text != given.text:
                yield row(
                    name,
                    text,
                    given.task,
                    given.label,
                    category=None if given.category is None else Category(given.category),
                    lang=given.lang,
                    pair=given.meta.get("pair"),
                )


_frames = cache(frames)


def _reframed(given: Row, rng: Random) -> str:
    if given.task is Task.CODE_GENERATION:
        return rng.choice(FORMS)(given.text, rng)
    return reworded(given.text, rng, _frames("say" if given.task is Task.OTHER else "ask"))
