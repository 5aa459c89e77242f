"""Harmful prompts at headline level: in, hand-written lines from `text/harmful_*.yaml`; out, rows with category and task.

Four styles (bare imperatives, as people type, as code, in the other tasks) and attacks on the instructions of a model. So that
the form of an attack is not taken for harm, harmless prompts of the same form stand beside them.
"""

from collections.abc import Iterator
from functools import partial
from random import Random

from guard_server.labels import Category, Task
from guard_server.training.material.base import Family, row, words
from guard_server.training.rows import Row

FILLINGS = 3
"""How many rows an attack with a slot for a request gives."""


def _lines(block: str) -> list[str]:
    return [line.replace("\\n", "\n") for line in block.splitlines()]


def _by_category(name: str, task: Task, _: Random) -> Iterator[Row]:
    for category, block in words(f"harmful_{name}").items():
        for text in _lines(block):
            yield row(f"harmful_{name}", text, task, "harmful", category=Category(category))


def tasks(_: Random) -> Iterator[Row]:
    """Harmful translation, summarisation and choice requests; the keys of the file are `task/category`."""
    for key, block in words("harmful_tasks").items():
        task, category = key.split("/")
        for text in _lines(block):
            yield row("harmful_tasks", text, Task(task), "harmful", category=Category(category))


def attacks(rng: Random) -> Iterator[Row]:
    """Every attack; one with a slot is filled with requests drawn without replacement."""
    requests = [text for block in words("harmful_imperatives").values() for text in _lines(block)]
    for form in words("harmful_attacks"):
        fills = rng.sample(requests, FILLINGS) if "{request}" in form else [""]
        for fill in fills:
            text = form.replace("{request}", fill if fill.endswith("?") else fill + ".")
            yield row("harmful_attacks", text, Task.TEXT_GENERATION, "harmful", category=Category.PROMPT_ATTACK)


def contrast(_: Random) -> Iterator[Row]:
    """Harmless prompts in the form of an attack."""
    for text in words("harmful_contrast"):
        yield row("harmful_contrast", text, Task.TEXT_GENERATION, "benign")


FAMILIES: dict[str, Family] = {
    "harmful_imperatives": partial(_by_category, "imperatives", Task.TEXT_GENERATION),
    "harmful_users": partial(_by_category, "users", Task.TEXT_GENERATION),
    "harmful_code": partial(_by_category, "code", Task.CODE_GENERATION),
    "harmful_tasks": tasks,
    "harmful_attacks": attacks,
    "harmful_contrast": contrast,
}
"""The families of harmful prompts, and of their harmless contrast, by name."""
