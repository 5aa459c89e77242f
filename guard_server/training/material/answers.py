"""Prompts with answers: in, answers from `text/answers_*.yaml` and the prompts of the twins and harmful modules; out, rows.

Two questions are asked of an answer, each by a row of its own: what the model did (complied, refused, partial) and whether the
answer does harm (harmful, safe). Answers that do harm are placeholders without content. `[omitted]` in them is filled by bland
words, so that the mark itself says nothing; the neutral ones stand behind harmful and harmless prompts alike, so that only the
prompt tells them apart.
"""

import re
from collections.abc import Iterator
from functools import cache
from random import Random
from typing import Final

from guard_server.labels import Category, Task
from guard_server.training.material import harmful, twins
from guard_server.training.material.base import Family, row, words
from guard_server.training.rows import ResponseLabel, Row

FILLERS: Final = (
    "[omitted]", "[placeholder]", "...", "the first thing", "the usual means", "this and that", "what we talked about", "item A",
    "the part described above", "X", "[details]", "the thing from the list", "what you have at hand", "the second item", "[...]",
    "___", "the tool", "some preparation", "the next part", "[see above]",
)  # fmt: skip
SOURCES: Final = (
    "twins_homonyms",
    "twins_contexts",
    "twins_knowledge",
    "twins_writing",
    "twins_people",
    "twins_reversed",
    "twins_code",
)
PER_REFUSAL: Final = 4
PER_OVER_REFUSAL: Final = 2
PER_HARMFUL: Final = 4
PER_NEUTRAL: Final = 8
PER_PARTIAL: Final = 5
PER_EDUCATIONAL: Final = 4


Labels = tuple[ResponseLabel, ...]


@cache
def _prompts() -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """The harmful and the harmless prompts that answers are put behind, from families that draw nothing at random."""
    every: dict[str, Family] = twins.FAMILIES | harmful.FAMILIES
    found = [one for name in (*SOURCES, "harmful_imperatives", "harmful_users", "harmful_code") for one in every[name](Random(0))]
    return tuple(one for one in found if one.label == "harmful"), tuple(one for one in found if one.label == "benign")


def _of(category: str) -> list[Row]:
    return [one for one in _prompts()[0] if category in {"any", one.category}]


def _lines(block: str) -> list[str]:
    return [line.strip().replace("\\n", "\n") for line in block.splitlines()]


def answered(family: str, prompt: Row, answer: str, labels: Labels, lang: str = "en") -> Iterator[Row]:
    """One row per label of the answer, with ids of their own."""
    for label in labels:
        category = None if prompt.category is None else Category(prompt.category)
        made = row(
            family, prompt.text, prompt.task, prompt.label, category=category, lang=lang, response=answer, response_label=label
        )
        yield made.model_copy(update={"id": f"{made.id}-{label}"})


def _drawn(family: str, answers: list[str], prompts: list[Row], each: int, labels: Labels, rng: Random) -> Iterator[Row]:
    """Every answer behind `each` prompts (all of them where there are fewer), drawn without replacement."""
    for answer in answers:
        for prompt in rng.sample(prompts, min(each, len(prompts))):
            yield from answered(family, prompt, filled(answer, rng), labels)


def filled(answer: str, rng: Random) -> str:
    """`[omitted]` and its like replaced by bland words, two thirds of the time."""
    if rng.random() < 1 / 3:
        return answer
    bland = re.sub(r"\[omitted\]", lambda _: rng.choice(FILLERS), answer)
    return re.sub(r"\[[^\[\]]+omitted\]", "...", bland)


def _refusals(lang: str) -> list[str]:
    return _lines(words("answers_refusals")[lang])


def refusals(rng: Random) -> Iterator[Row]:
    """English refusals of harmful prompts; some of them in two sentences."""
    every = _refusals("en")
    longer = [f"{first} {rng.choice(every)}" for first in rng.sample(every, len(every) // 2)]
    yield from _drawn("answers_refusals", every, _of("any"), PER_REFUSAL, ("refused", "safe"), rng)
    yield from _drawn("answers_refusals", longer, _of("any"), 2, ("refused", "safe"), rng)


def over_refusals(rng: Random) -> Iterator[Row]:
    """English refusals of harmless prompts."""
    yield from _drawn("answers_over_refusals", _refusals("en"), list(_prompts()[1]), PER_OVER_REFUSAL, ("refused", "safe"), rng)


def foreign_refusals(rng: Random) -> Iterator[Row]:
    """French, German and Spanish refusals of harmful and harmless prompts in the same language."""
    for lang, groups in words("answers_foreign").items():
        prompts = [one for key, block in groups.items() for one in _foreign(key, block)]
        for answer in _refusals(lang):
            for prompt in rng.sample(prompts, 3):
                yield from answered("answers_foreign", prompt, answer, ("refused", "safe"), lang)


def _foreign(key: str, block: str) -> Iterator[Row]:
    for text in _lines(block):
        task = Task.TRANSLATION if text.startswith(("Traduis", "Übersetze", "Traduce")) else Task.TEXT_GENERATION
        if key == "benign":
            yield row("answers_foreign", text, task, "benign")
        else:
            yield row("answers_foreign", text, task, "harmful", category=Category(key))


def helpful(_: Random) -> Iterator[Row]:
    """Hand-written harmless prompts with answers that help, many of which hold the words of a refusal."""
    for task, block in words("answers_good").items():
        for line in block.splitlines():
            prompt, answer = (part.strip().replace("\\n", "\n") for part in line.split("||"))
            yield from answered(
                "answers_helpful", row("answers_helpful", prompt, Task(task), "benign"), answer, ("complied", "safe")
            )


def complying(rng: Random) -> Iterator[Row]:
    """Answers that go along with a harmful prompt of their category, as placeholders."""
    for category, block in words("answers_harmful").items():
        if category != "neutral":
            labels: Labels = ("complied", "harmful")
            yield from _drawn("answers_complying", _lines(block), _of(category), PER_HARMFUL, labels, rng)


def neutral(rng: Random) -> Iterator[Row]:
    """Answers without any content, harmful behind a harmful prompt and safe behind a harmless one."""
    lines = _lines(words("answers_harmful")["neutral"])
    yield from _drawn("answers_neutral", lines, _of("any"), PER_NEUTRAL, ("complied", "harmful"), rng)
    yield from _drawn("answers_neutral", lines, list(_prompts()[1]), PER_NEUTRAL, ("complied", "safe"), rng)


def partial_answers(rng: Random) -> Iterator[Row]:
    """Answers that decline the request and help in part."""
    for category, block in words("answers_partial").items():
        yield from _drawn("answers_partial", _lines(block), _of(category), PER_PARTIAL, ("partial", "safe"), rng)


def educational(rng: Random) -> Iterator[Row]:
    """Informative answers to harmful prompts: safe; whether they refuse is left open."""
    for category, block in words("answers_educational").items():
        yield from _drawn("answers_educational", _lines(block), _of(category), PER_EDUCATIONAL, ("safe",), rng)


FAMILIES: dict[str, Family] = {
    "answers_refusals": refusals,
    "answers_over_refusals": over_refusals,
    "answers_foreign": foreign_refusals,
    "answers_helpful": helpful,
    "answers_complying": complying,
    "answers_neutral": neutral,
    "answers_partial": partial_answers,
    "answers_educational": educational,
}
"""The families of prompts with answers by name."""
