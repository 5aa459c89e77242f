"""Benign English text that is no special task: what people ask, write and say, much of it in words that harmful requests share.

In: the hand-written texts of `text/general_<family>.yaml` (`short`: one a line; `long`: several sentences or paragraphs) and
`general_frames.yaml` (sentences that may stand around a text). Out: rows, all labelled benign, each text in at most three
wordings.
"""

import re
from collections.abc import Iterator
from functools import partial
from random import Random
from typing import Final

from guard_server.labels import Task
from guard_server.training.material.base import Family, row, words
from guard_server.training.rows import Row

LONG: Final = 320
"""Characters from which a text is left as it is: nobody types a page without punctuation."""
COPIES: Final = (0, 1, 1, 1, 2, 2)
"""How many rewordings a short text gets, drawn from these."""


def texts(name: str) -> list[str]:
    """The hand-written texts of one family, in the order of its file."""
    listed = words(f"general_{name}")
    short: str = listed.get("short", "")
    long: list[str] = listed.get("long", [])
    return [text for text in (*short.splitlines(), *(item.strip() for item in long)) if text]


def frames(kind: str) -> dict[str, list[str]]:
    """The sentences that may stand `before` and `after` a text: kind `ask` for requests, `say` for statements."""
    found: dict[str, list[str]] = words("general_frames")[kind]
    return found


def _typo(text: str, rng: Random) -> str:
    """One slip of the finger: two letters swapped, one dropped or one doubled inside a word of four letters or more."""
    spots = [found.start() + 1 for found in re.finditer(r"[a-z]{4,}", text)]
    if not spots:
        return text
    at = rng.choice(spots)
    return text[:at] + rng.choice((text[at + 1] + text[at], text[at + 1], text[at] * 2 + text[at + 1])) + text[at + 2 :]


def _chat(text: str, rng: Random) -> str:
    """As typed on a phone: no capitals, no mark at the end, at times a slip."""
    plain = text.lower().rstrip(".?!").replace("'", rng.choice(("'", "")))
    return _typo(plain, rng) if rng.random() < 0.6 else plain


def _framed(text: str, rng: Random, around: dict[str, list[str]]) -> str:
    """The text with a sentence before it, after it or both."""
    before, after = rng.choice(around["before"]), rng.choice(around["after"])
    place = rng.random()
    if place < 0.4:
        return f"{before} {text}"
    if place < 0.8:
        return f"{text} {after}"
    return f"{before}\n\n{text}\n\n{after}"


def reworded(text: str, rng: Random, around: dict[str, list[str]]) -> str:
    """One of the ways of typing the same text: chat style, a slip, or `frames` around it.

    Harmful text that is trained on beside this module's rows should go through it too, or the frames alone would mean benign.
    """
    way = rng.random()
    if way < 0.25:
        return _chat(text, rng)
    if way < 0.4:
        return _typo(text, rng)
    return _framed(text, rng, around)


def _family(rng: Random, *, name: str, task: Task, kind: str) -> Iterator[Row]:
    """Every text of a family as written, then up to two rewordings of each short one, no text twice.

    `kind` is the set of frames: `ask` for requests, `say` for statements.
    """
    around = frames(kind)
    seen: set[str] = set()
    for text in texts(name):
        copies = 0 if len(text) > LONG else rng.choice(COPIES)
        for version in (text, *(reworded(text, rng, around) for _ in range(copies))):
            if version not in seen:
                seen.add(version)
                yield row(f"general_{name}", version, task, "benign")


FAMILIES: dict[str, Family] = {
    "general_everyday": partial(_family, name="everyday", task=Task.TEXT_GENERATION, kind="ask"),
    "general_knowledge": partial(_family, name="knowledge", task=Task.TEXT_GENERATION, kind="ask"),
    "general_writing": partial(_family, name="writing", task=Task.TEXT_GENERATION, kind="ask"),
    "general_sensitive": partial(_family, name="sensitive", task=Task.TEXT_GENERATION, kind="ask"),
    "general_professional": partial(_family, name="professional", task=Task.TEXT_GENERATION, kind="ask"),
    "general_roleplay": partial(_family, name="roleplay", task=Task.TEXT_GENERATION, kind="ask"),
    "general_passages": partial(_family, name="passages", task=Task.OTHER, kind="say"),
}
