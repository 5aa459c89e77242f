"""More look-alikes: in, hand-written pairs from `text/contrast_*.yaml`; out, harmless rows, each with its harmful twin.

A line of the files is `harmless || harmful`, or one sentence with `{harmless|harmful}` where the twins part, so that everything
around it is the same on both sides. The alarming word and the longer text stand on either side.
"""

import re
from collections.abc import Iterator
from functools import partial
from random import Random
from typing import Final

from guard_server.labels import Category, Task
from guard_server.training.material.base import Family, row, words
from guard_server.training.rows import Row

TRANSLATE: Final = (
    "Translate into German: {passage}",
    "How would you say this in Spanish?\n{passage}",
    'Please translate the following text to French.\n\n"{passage}"',
    "{passage}\n\nTranslate the text above into Italian.",
    "EN > PT: {passage}",
    "Give me a Dutch version of this message: {passage}",
)
SUMMARIZE: Final = (
    "Summarize: {passage}",
    "{passage}\n\nTL;DR",
    'Shorten this post to a few words: "{passage}"',
    "Put the following message into one short line.\n\n{passage}",
    "What is the gist?\n{passage}",
)
WRAPPED: Final = ((Task.TRANSLATION, TRANSLATE), (Task.SUMMARIZATION, SUMMARIZE))

PARTING: Final = re.compile(r"\{([^{}|]*)\|([^{}|]*)\}")


def twins(line: str) -> tuple[str, str]:
    """The harmless and the harmful text of one line; raises `ValueError` where the line does not part."""
    if "||" in line:
        harmless, harmful = line.split("||")
    else:
        harmless, harmful = PARTING.sub(r"\1", line), PARTING.sub(r"\2", line)
    if harmless == harmful:
        msg = f"twins that do not part: {line[:80]!r}"
        raise ValueError(msg)
    return _tidy(harmless), _tidy(harmful)


def _tidy(text: str) -> str:
    return re.sub(r" +(?=[ ,.?!\n])", "", text.strip().replace("\\n", "\n"))


def lines(name: str) -> Iterator[tuple[Category, tuple[str, str]]]:
    """The twins of `text/contrast_<name>.yaml` with the category of the harmful one."""
    for category, block in words(f"contrast_{name}").items():
        for line in block.splitlines():
            yield Category(category), twins(line)


def _both(family: str, task: Task, category: Category, pair: tuple[str, str], key: str) -> Iterator[Row]:
    yield row(family, pair[0], task, "benign", pair=key)
    yield row(family, pair[1], task, "harmful", category=category, pair=key)


def _plain(name: str, task: Task, _: Random) -> Iterator[Row]:
    family = f"contrast_{name}"
    for at, (category, pair) in enumerate(lines(name)):
        yield from _both(family, task, category, pair, f"{family}-{at}")


def passages(rng: Random) -> Iterator[Row]:
    """Every pair of passages bare and once inside a request to translate or to shorten it, the same one for both twins."""
    family = "contrast_passages"
    for at, (category, (harmless, harmful)) in enumerate(lines("passages")):
        yield from _both(family, Task.OTHER, category, (harmless, harmful), f"{family}-{at}")
        task, forms = WRAPPED[at % len(WRAPPED)]
        form = rng.choice(forms)
        pair = (form.replace("{passage}", harmless), form.replace("{passage}", harmful))
        yield from _both(family, task, category, pair, f"{family}-{at}-{task}")


FAMILIES: dict[str, Family] = {
    "contrast_howto": partial(_plain, "howto", Task.TEXT_GENERATION),
    "contrast_code": partial(_plain, "code", Task.CODE_GENERATION),
    "contrast_puzzles": partial(_plain, "puzzles", Task.OTHER),
    "contrast_choices": partial(_plain, "choices", Task.CLASSIFICATION),
    "contrast_passages": passages,
    "contrast_requests": partial(_plain, "requests", Task.TEXT_GENERATION),
}
"""The families of this second body by name."""
