"""Training text in French, German and Spanish, and requests to translate between these and English.

In: `text/languages_*.yaml`: hand-written sentences, harmful ones each beside a harmless twin of the same form. Out: the rows of
four families. The sentences carry the label; the wording around them (a request to translate, an opener) is dealt evenly to both
labels, so that neither a wording nor a language is a cue of harm.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

from guard_server.labels import Category, Task
from guard_server.training.material.base import Family, row, words
from guard_server.training.rows import Row

LANGUAGES: Final = ("fr", "de", "es")
SOURCES: Final = ("fr", "de", "es", "en")

_COPIES: Final = {"fr": 2, "de": 2, "es": 2, "en": 3}
"""In how many requests to translate a pair stands, by its language: English has fewer pairs."""


@dataclass(frozen=True)
class Pair:
    """A harmful sentence, its harmless twin and the kind of harm; `key` is unique among all pairs."""

    key: str
    category: Category
    harmful: str
    benign: str


@dataclass(frozen=True)
class Wording:
    """A way of asking for a translation: the text with `{text}` left open, and the language it translates into."""

    frame: str
    into: str

    def ask(self, text: str) -> str:
        """The request for this text."""
        return self.frame.replace("{text}", text)

    def after(self, sentence: str) -> "Wording":
        """The same with a sentence before the text."""
        return Wording(self.frame.replace("{text}", f"{sentence} {{text}}"), self.into)


def lines(block: str) -> list[str]:
    """The lines of a block of YAML text, without empty ones."""
    return [line.strip() for line in block.splitlines() if line.strip()]


def pairs(name: str, lang: str) -> list[Pair]:
    """The pairs of `text/<name>.yaml` in one language; raises `ValueError` for a line that isn't `harmful || benign`."""
    return _pairs(words(name)[lang], f"{name}-{lang}")


def wordings(src: str) -> list[Wording]:
    """Every way of asking for a translation from this language: in English, and in the source or the target language."""
    content = words("languages_wordings")
    found = []
    for into in SOURCES:
        if into == src:
            continue
        for asked_in in sorted({"en", src, into}):
            names = content["names"][asked_in]
            frames = content["wordings"][asked_in]
            found += [Wording(frame.replace("{src}", names[src]).replace("{dst}", names[into]), into) for frame in frames]
    return found


def general(rng: Random) -> Iterator[Row]:
    """Harmless prompts as they stand, every fourth a second time behind an opener."""
    openers = words("languages_wordings")["openers"]
    for lang, block in words("languages_general").items():
        for number, text in enumerate(lines(block)):
            for asked in _with_opener(text, openers[lang], rng, again=number % 4 == 0):
                yield row("lang_general", asked, Task.TEXT_GENERATION, "benign", lang=lang)


def harmful(rng: Random) -> Iterator[Row]:
    """Harmful requests and their look-alikes, every fourth pair a second time behind one opener for both."""
    openers = words("languages_wordings")["openers"]
    for lang in LANGUAGES:
        for number, pair in enumerate(pairs("languages_requests", lang)):
            openings = _with_opener("", openers[lang], rng, again=number % 4 == 0)
            for copy, opening in enumerate(openings):
                asked = Wording(opening + "{text}", lang)
                yield from _twins("lang_harmful", pair, asked, Task.TEXT_GENERATION, lang, copy)


def translate(rng: Random) -> Iterator[Row]:
    """Requests to translate: harmful sentences and their twins in the same wording, and harmless sentences of many kinds.

    In its second request every fifth pair stands behind a harmless sentence, the same for both twins.
    """
    for lang in SOURCES:
        deck = wordings(lang)
        rng.shuffle(deck)
        both = pairs("languages_requests", lang) + pairs("languages_statements", lang)
        rng.shuffle(both)
        texts = lines(words("languages_sources")[lang])
        rng.shuffle(texts)
        for copy in range(_COPIES[lang]):
            for number, pair in enumerate(both):
                wording = deck[(copy * len(both) + number) % len(deck)]
                if copy == 1 and number % 5 == 0:
                    wording = wording.after(texts[number // 5])
                yield from _twins("translate", pair, wording, Task.TRANSLATION, lang, copy)
        for place, text in enumerate(texts * 2):
            yield row("translate", deck[place % len(deck)].ask(text), Task.TRANSLATION, "benign", lang=lang)


def tasks(rng: Random) -> Iterator[Row]:
    """Requests to summarise, classify and program, in pairs, every second pair again behind one opener for both."""
    openers = words("languages_wordings")["openers"]
    for lang, by_task in words("languages_tasks").items():
        for name, blocks in by_task.items():
            for number, pair in enumerate(_pairs(blocks, f"languages_tasks-{lang}-{name}")):
                openings = _with_opener("", openers[lang], rng, again=number % 2 == 0)
                for copy, opening in enumerate(openings):
                    yield from _twins("lang_tasks", pair, Wording(opening + "{text}", lang), Task(name), lang, copy)


def _pairs(blocks: dict[str, str], key: str) -> list[Pair]:
    """The pairs of a mapping of category to block."""
    found = []
    for category, block in blocks.items():
        for number, line in enumerate(lines(block)):
            sides = [side.strip() for side in line.split(" || ")]
            if len(sides) != 2:
                msg = f"{key}, {category}, line {number + 1}: not `harmful || benign`: {line!r}"
                raise ValueError(msg)
            found.append(Pair(f"{key}-{category}-{number}", Category(category), *sides))
    return found


def _with_opener(text: str, openers: list[str], rng: Random, *, again: bool) -> list[str]:
    """The text, and when asked for once more behind an opener."""
    return [text, rng.choice(openers) + text] if again else [text]


def _twins(family: str, pair: Pair, wording: Wording, task: Task, lang: str, copy: int) -> Iterator[Row]:
    """The two rows of a pair in one wording."""
    key = f"{family}-{pair.key}-{copy}"
    yield row(family, wording.ask(pair.harmful), task, "harmful", category=pair.category, lang=lang, pair=key)
    yield row(family, wording.ask(pair.benign), task, "benign", lang=lang, pair=key)


FAMILIES: Final[dict[str, Family]] = {
    "lang_general": general,
    "lang_harmful": harmful,
    "translate": translate,
    "lang_tasks": tasks,
}
