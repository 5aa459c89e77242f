"""Further harmful prompts, attacks and answers, hand-written: in, `text/requests_*.yaml`; out, rows and their harmless pairs.

Unlike the `harmful` module these speak in roundabout words, name a purpose inside a real task, or leave it to the answer whether
harm is done. A line of `requests_tasks` holds both twins: `{harmful||harmless}` marks the spans in which they differ.
"""

import re
from collections.abc import Iterator
from random import Random
from typing import Final

from guard_server.labels import Category, Task
from guard_server.training.material.answers import Labels, answered
from guard_server.training.material.base import Family, row, words
from guard_server.training.rows import Row

SPAN: Final = re.compile(r"\{((?:(?!\|\||\{).)*)\|\|((?:(?!\|\|).)*?)\}")
ANSWERS: Final[dict[str, Labels]] = {
    "complied/harmful": ("complied", "harmful"),
    "partial/harmful": ("partial", "harmful"),
    "complied/safe": ("complied", "safe"),
    "refused/safe": ("refused", "safe"),
    "partial/safe": ("partial", "safe"),
}
"""What the groups of `requests_answers` say about their answers."""


def _lines(block: str) -> list[str]:
    return [line.strip().replace("\\n", "\n") for line in block.splitlines()]


def plain(_: Random) -> Iterator[Row]:
    """Harmful requests in indirect words, by category."""
    for category, block in words("requests_plain").items():
        for text in _lines(block):
            yield row("requests_plain", text, Task.TEXT_GENERATION, "harmful", category=Category(category))


def twins_of(line: str) -> tuple[str, str]:
    """The harmful and the harmless reading of a line; raises `ValueError` when it has no span in which they differ."""
    if not SPAN.search(line):
        msg = f"no {{harmful||harmless}} in {line[:60]!r}"
        raise ValueError(msg)
    return SPAN.sub(lambda span: span[1], line), SPAN.sub(lambda span: span[2], line)


def tasks(_: Random) -> Iterator[Row]:
    """Summaries, translations, choices and code with a harmful purpose, each followed by its harmless twin of the same form."""
    for kind in ("summarization", "translation", "classification", "code_generation"):
        for category, block in words(f"requests_{kind}").items():
            for line in _lines(block):
                bad, good = twins_of(line)
                yield row("requests_tasks", bad, Task(kind), "harmful", category=Category(category), pair=line)
                yield row("requests_tasks", good, Task(kind), "benign", pair=line)


def attacks(_: Random) -> Iterator[Row]:
    """Attacks on the instructions of a model, and harmless prompts of the same form."""
    book = words("requests_attacks")
    for text in book["harmful"]:
        yield row("requests_attacks", text, Task.TEXT_GENERATION, "harmful", category=Category.PROMPT_ATTACK)
    for text in book["benign"]:
        yield row("requests_attacks", text, Task.TEXT_GENERATION, "benign")


def answers(_: Random) -> Iterator[Row]:
    """Prompts with answers that decide; the category `benign` holds harmless prompts."""
    for group, categories in words("requests_answers").items():
        for category, pairs in categories.items():
            label = None if category == "benign" else Category(category)
            for text, *given in pairs:
                prompt = row("requests_answers", text, Task.TEXT_GENERATION, "harmful" if label else "benign", category=label)
                for answer in given:
                    yield from answered("requests_answers", prompt, answer, ANSWERS[group])


FAMILIES: dict[str, Family] = {
    "requests_plain": plain,
    "requests_tasks": tasks,
    "requests_attacks": attacks,
    "requests_answers": answers,
}
"""The families of this module by name."""
