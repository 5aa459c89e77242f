"""Puts any text into a request of a given task: in, a prompt; out, the same prompt inside a translation, code or choice request.

Used to make task-wrapped copies of labelled prompts. A wrapper is neither harmful nor harmless by itself, so the label of the
text is also the label of the copy. Wordings stand in `text/wrap.yaml`.
"""

import json
from collections.abc import Callable
from functools import cache
from random import Random
from string import ascii_lowercase, ascii_uppercase
from typing import Final

from guard_server.labels import Task
from guard_server.training.material.base import words

Layout = Callable[[list[str]], str]


def _lines(mark: Callable[[int], str], joint: str = "\n") -> Layout:
    return lambda options: joint.join(mark(at) + option for at, option in enumerate(options))


LAYOUTS: Final[tuple[Layout, ...]] = (
    _lines(lambda at: f"{ascii_uppercase[at]}) "),
    _lines(lambda at: f"{ascii_uppercase[at]}. "),
    _lines(lambda at: f"({ascii_uppercase[at]}) "),
    _lines(lambda at: f"({ascii_lowercase[at]}) ", " "),
    _lines(lambda at: f"{ascii_lowercase[at]}) "),
    _lines(lambda at: f"{at + 1}. "),
    _lines(lambda at: f"{at + 1}) ", " "),
    _lines(lambda at: f"[{at}] "),
    _lines(lambda at: f"Option {ascii_uppercase[at]}: "),
    _lines(lambda at: f"Choice {at + 1}: ", "; "),
    _lines(lambda _: "- "),
    _lines(lambda _: "* "),
    _lines(lambda at: f"{ascii_uppercase[at]}: ", " | "),
    lambda options: "Options: " + ", ".join(options),
    lambda options: json.dumps(dict(zip(ascii_uppercase, options, strict=False)), ensure_ascii=False),
    " / ".join,
)
"""Ways to lay out up to eight options of a multiple-choice question."""


@cache
def _wordings() -> dict[str, dict[str, list[str]]]:
    book = words("wrap")
    return {lang: {str(task): list(forms) for task, forms in book[lang].items()} for lang in ("en", "fr", "de", "es")}


@cache
def _lists() -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    book = words("wrap")
    return tuple(book["languages"]), tuple(tuple(map(str, options)) for options in book["options"])


def wordings(task: Task, lang: str) -> list[str]:
    """The wordings of a task: English ones for English and for a language without its own, else its own and the English ones."""
    book = _wordings()
    english = book["en"][task]
    return english if lang == "en" or lang not in book else book[lang][task] * 2 + english


def _slots(text: str, form: str, rng: Random) -> dict[str, str]:
    languages, option_sets = _lists()
    return {
        "{text}": text.replace('"""', '\\"\\"\\"') if '"""' in form else text,
        "{quoted}": json.dumps(text, ensure_ascii=False),
        "{words}": json.dumps(text.split(), ensure_ascii=False),
        "{comment}": "\n".join(f"# {line}" for line in text.splitlines()),
        "{language}": rng.choice(languages),
        "{options}": rng.choice(LAYOUTS)(list(rng.choice(option_sets))),
    }


def wrapped(text: str, task: Task, rng: Random, lang: str = "en") -> str:
    """The same request inside a request of `task`; `lang` is the language of the text.

    The text goes in verbatim; code wordings that hold it as a literal, a list of words or a comment escape, split or prefix it.
    """
    form = rng.choice(wordings(task, lang))
    slots = _slots(text, form, rng)
    # One pass from the left, so that braces inside the text are never taken for slots.
    out, rest = "", form
    while True:
        at, name = min(((rest.find(name), name) for name in slots if name in rest), default=(-1, ""))
        if at < 0:
            return out + rest
        out, rest = out + rest[:at] + slots[name], rest[at + len(name) :]
