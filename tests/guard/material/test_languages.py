"""The training text in French, German and Spanish, and the requests to translate."""

import re
from collections import Counter, defaultdict
from functools import cache
from random import Random

import pytest

from guard_server.labels import Category, Task
from guard_server.training.material import languages
from guard_server.training.material.base import words
from guard_server.training.rows import Row

HARMFUL_SHARE = (0.3, 0.6)


@cache
def made(family: str) -> tuple[Row, ...]:
    """The rows of a family from a fixed seed."""
    return tuple(languages.FAMILIES[family](Random(f"0:{family}")))


def everything() -> list[Row]:
    """The rows of all families of the module."""
    return [row for family in languages.FAMILIES for row in made(family)]


def share(rows: list[Row]) -> float:
    """The part of the rows that is harmful."""
    return sum(row.label == "harmful" for row in rows) / len(rows)


def asked(row: Row, wording: languages.Wording) -> bool:
    """Whether the row is a request in this wording."""
    before, after = wording.frame.split("{text}")
    return row.text.startswith(before) and row.text.endswith(after)


def test_size() -> None:
    """The families yield between 3,500 and 4,600 rows altogether."""
    assert 3500 <= len(everything()) <= 4600


@pytest.mark.parametrize("lang", languages.LANGUAGES)
def test_counts_per_language(lang: str) -> None:
    """Each language has 120 harmless prompts, 90 harmful requests, 60 statements and 35 task requests of each label, or more."""
    assert len({row.text for row in made("lang_general") if row.lang == lang}) >= 120
    assert len(languages.pairs("languages_requests", lang)) >= 90
    assert len(languages.pairs("languages_statements", lang)) >= 60
    labels = Counter(row.label for row in made("lang_tasks") if row.lang == lang)
    assert labels["harmful"] >= 35
    assert labels["harmful"] == labels["benign"]


def test_sources() -> None:
    """There are at least 200 different harmless sentences to translate."""
    assert len({line for block in words("languages_sources").values() for line in languages.lines(block)}) >= 200


@pytest.mark.parametrize("lang", languages.LANGUAGES)
def test_categories(lang: str) -> None:
    """Every category of harm but attacks on the prompt has at least seven harmful requests in each language."""
    found = Counter(pair.category for pair in languages.pairs("languages_requests", lang))
    assert set(found) == set(Category) - {Category.PROMPT_ATTACK}
    assert min(found.values()) >= 7


def test_no_duplicates() -> None:
    """No text occurs twice, letter case and spaces aside, and no id either."""
    rows = everything()
    texts = Counter(" ".join(row.text.casefold().split()) for row in rows)
    assert [text for text, count in texts.items() if count > 1] == []
    assert len({row.id for row in rows}) == len(rows)


def test_every_sentence_in_few_rows() -> None:
    """No hand-written harmful request stands in more than four rows."""
    rows = [row for family in ("lang_harmful", "translate") for row in made(family) if row.label == "harmful"]
    for lang in languages.SOURCES:
        texts = [row.text for row in rows if row.lang == lang]
        for pair in languages.pairs("languages_requests", lang):
            assert 1 <= sum(pair.harmful in text for text in texts) <= 4, pair.harmful


def test_deterministic() -> None:
    """The same seed gives the same rows, and another seed gives other requests to translate."""
    for name, family in languages.FAMILIES.items():
        assert tuple(family(Random(f"0:{name}"))) == made(name)
    assert tuple(languages.FAMILIES["translate"](Random("1:translate"))) != made("translate")


def test_twins() -> None:
    """Every harmful row has exactly one harmless partner of the same task and language."""
    by_pair: dict[str, list[Row]] = defaultdict(list)
    for row in everything():
        if "pair" in row.meta:
            by_pair[row.meta["pair"]].append(row)
        else:
            assert row.label == "benign"
    for twins in by_pair.values():
        assert sorted(str(row.label) for row in twins) == ["benign", "harmful"]
        assert len({(row.task, row.lang) for row in twins}) == 1


def test_wording_is_no_cue() -> None:
    """Within every wording of a request to translate, and every pair of languages, 30 to 60 % of the rows are harmful."""
    for src in languages.SOURCES:
        rows = [row for row in made("translate") if row.lang == src]
        into: dict[str, list[Row]] = defaultdict(list)
        for wording in languages.wordings(src):
            matching = [row for row in rows if asked(row, wording)]
            assert len(matching) >= 6, wording
            assert HARMFUL_SHARE[0] <= share(matching) <= HARMFUL_SHARE[1], wording
            into[wording.into] += matching
        for target, matching in into.items():
            assert HARMFUL_SHARE[0] <= share(matching) <= HARMFUL_SHARE[1], (src, target)


@pytest.mark.parametrize("family", ["lang_harmful", "lang_tasks", "translate"])
def test_language_is_no_cue(family: str) -> None:
    """In the families of both labels, 30 to 60 % of the rows of each language and task are harmful."""
    groups: dict[tuple[str, Task], list[Row]] = defaultdict(list)
    for row in made(family):
        groups[row.lang, row.task].append(row)
    for rows in groups.values():
        assert HARMFUL_SHARE[0] <= share(rows) <= HARMFUL_SHARE[1]


def test_length_is_no_cue() -> None:
    """Harmful sentences are on average within 15 % as long as their twins, in every language."""
    for lang in languages.SOURCES:
        both = [pair for name in ("languages_requests", "languages_statements") for pair in languages.pairs(name, lang)]
        ratio = sum(len(pair.harmful) for pair in both) / sum(len(pair.benign) for pair in both)
        assert 0.85 <= ratio <= 1.15, (lang, ratio)


def test_no_open_slot() -> None:
    """No text holds a slot that was left open, or the mark between two twins."""
    for row in everything():
        assert not re.search(r"\{\w*\}|\|\|", row.text), row.text
