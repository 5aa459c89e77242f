"""How a generator of training text is written: a family is a function of a seeded random generator that yields rows.

A family is one way of writing (one set of templates and words); it is the unit that is left out as a whole when models and
thresholds are chosen. A module of this folder lists its families in a literal `FAMILIES`; the package's `families()` joins them.
Long lists of words and sentences stand in `text/*.yaml`, read by `words()`.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import yaml

from guard_server.labels import Category, Task
from guard_server.training.rows import PromptLabel, ResponseLabel, Row

Family = Callable[[Random], Iterator[Row]]


def words(name: str) -> Any:  # noqa: ANN401 - YAML of any shape
    """The content of `text/<name>.yaml`."""
    return yaml.safe_load((Path(__file__).parent / "text" / f"{name}.yaml").read_text(encoding="utf-8"))


def row(
    family: str,
    text: str,
    task: Task,
    label: PromptLabel | None,
    *,
    category: Category | None = None,
    lang: str = "en",
    response: str | None = None,
    response_label: ResponseLabel | None = None,
    pair: str | None = None,
) -> Row:
    """A row of our own material; `pair` is any string shared by the two twins. A harmful row needs a category."""
    if label == "harmful" and category is None:
        msg = f"a harmful row of {family!r} without a category: {text[:60]!r}"
        raise ValueError(msg)
    digest = hashlib.sha256("\x1f".join((family, text, response or "")).encode()).hexdigest()[:16]
    meta = {} if pair is None else {"pair": pair}
    return Row(
        id=digest,
        dataset=f"own_{family}",
        text=text,
        response=response,
        task=task,
        label=label,
        response_label=response_label,
        category=None if category is None else category.value,
        lang=lang,
        meta=meta,
    )
