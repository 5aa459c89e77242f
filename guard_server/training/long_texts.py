"""Harmless long documents on which the thresholds for many segments are set. In: a seed and a window. Out: texts by kind.

Filler of our own material (prose, code, logs, chats ...); the shipped model was trained on passages of the same sort, which the
evaluation card says. Lists of many separate requests are made here too, and set no threshold: each request of a list may be
flagged at the rate of one, so a list of them is flagged more often than one text. Thresholds that kept lists to the rate of one
text would hide a short attack in every other long text. The card says how often lists are flagged.
"""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Final

from guard_server.bundle_spec import Window
from guard_server.training.material.documents import FILLER_KINDS, KINDS, REQUESTS, filler

PER_KIND: Final = 6
WINDOWS: Final = 128
"""Of a document; with its sentences and lines it has four to eight times as many segments."""
Document = tuple[str, str | None]
"""Text and context."""


def characters_for(window: Window, windows: int) -> int:
    """The length of a text that has exactly so many windows."""
    return window.characters + (windows - 1) * (window.characters - window.overlap)


def prompt_documents(window: Window, seed: int, *, per_kind: int = PER_KIND, windows: int = WINDOWS) -> dict[str, list[Document]]:
    """Documents of `windows` windows by kind."""
    length = characters_for(window, windows)
    return {
        kind: [(filler(kind, length, Random(f"{seed}:{kind}:{at}")), None) for at in range(per_kind)] for kind in sorted(KINDS)
    }


def list_documents(
    prompts: Mapping[str, Sequence[str]], window: Window, seed: int, *, count: int, windows: int
) -> list[Document]:
    """Prompts one after the other, each document of one set, the sets in turn."""
    names, length = sorted(prompts), characters_for(window, windows)
    return [(_list(prompts[names[at % len(names)]], length, Random(f"{seed}:prompts:{at}")), None) for at in range(count)]


def answer_documents(
    window: Window, seed: int, *, per_kind: int = PER_KIND // 2, windows: int = WINDOWS
) -> dict[str, list[Document]]:
    """Documents as answers to the requests that belong to their kind."""
    length = characters_for(window, windows)
    found: dict[str, list[Document]] = {}
    for kind in FILLER_KINDS:
        random = Random(f"{seed}:answers:{kind}")
        found[kind] = [
            (filler(kind, length, Random(f"{seed}:answers:{kind}:{at}")), random.choice(REQUESTS[kind])[0])
            for at in range(per_kind)
        ]
    return found


def _list(prompts: Sequence[str], length: int, random: Random) -> str:
    """Prompts of one set in random order, again from the start where they are too few."""
    parts: list[str] = []
    size = 0
    while size < length:
        for prompt in random.sample(list(prompts), len(prompts)):
            parts.append(prompt)
            size += len(prompt) + 2
            if size >= length:
                break
    return "\n\n".join(parts)[:length]
