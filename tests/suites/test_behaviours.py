"""Claims about the built-in behaviours: how many, how balanced, what they hold and what they must not."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from gate.errors import SuiteError
from gate.records import Split, sha256_hex
from gate.suites.behaviours import Behaviour, built_in, parse_behaviours, split_of

CATEGORIES = {
    "violent_crimes",
    "non_violent_crimes",
    "sex_related_crimes",
    "defamation",
    "specialized_advice",
    "privacy",
    "intellectual_property",
    "indiscriminate_weapons",
    "hate",
    "suicide_and_self_harm",
    "sexual_content",
    "elections",
    "code_interpreter_abuse",
}
SEXUAL = {"sex_related_crimes", "sexual_content"}
MINORS = re.compile(
    r"\b(child\w*|kid|kids|minors?|teen\w*|underage|adolescent\w*|juvenile\w*|toddler\w*|bab(y|ies)|infant\w*|boys?|girls?|"
    r"schoo\w*|pupils?|student\w*|youth\w*|young\w*|puberty|daughter\w*|enfant\w*|mineur\w*|fille\w*|garçon\w*|écol\w*|"
    r"élève\w*|jeune\w*|kind\w*|jugend\w*|mädchen|jungen?|schul\w*|schül\w*|minderjährig\w*|tochter|sohn)\b",
    re.IGNORECASE,
)


def texts(row: Behaviour) -> list[str]:
    assert row.twin is not None
    return [row.attack.noun, row.twin.noun, *row.attack.goals.values(), *row.twin.goals.values()]


def test_there_are_enough_behaviours_in_every_category() -> None:
    """At least 150 behaviours, at least 10 in each of the 13 categories, and none elsewhere."""
    counts = Counter(row.category for row in built_in())
    assert set(counts) == CATEGORIES
    assert min(counts.values()) >= 10
    assert counts.total() >= 150


def test_the_split_is_near_half_in_all_and_in_every_category() -> None:
    """Gating holds at least 75 behaviours and so does tuning, and either has at least five of each category."""
    sides = Counter(split_of(row.id) for row in built_in())
    assert sides[Split.GATING] >= 75
    assert sides[Split.TUNING] >= 75
    cut = Counter((split_of(row.id), row.category) for row in built_in())
    assert len(cut) == 2 * len(CATEGORIES)
    assert min(cut.values()) >= 5


def test_the_split_depends_on_id_and_salt_alone() -> None:
    """The side of an id is the same whenever it is asked for, and another salt deals otherwise."""
    ids = [row.id for row in built_in()]
    assert [split_of(i) for i in ids] == [split_of(i) for i in ids]
    assert [split_of(i) for i in ids] != [split_of(i, "another salt") for i in ids]


def test_every_behaviour_has_a_twin_in_the_same_languages() -> None:
    """Attack and twin are both written in English, French and German, in different words."""
    for row in built_in():
        assert row.twin is not None
        assert set(row.attack.goals) == set(row.twin.goals) == {"en", "fr", "de"}
        assert all(row.attack.goals[code] != row.twin.goals[code] for code in row.attack.goals)
        assert len(set(row.attack.goals.values())) == 3


def test_no_text_occurs_twice() -> None:
    """No goal and no noun phrase is used for two behaviours or for an attack and a twin."""
    counts = Counter(text for row in built_in() for text in texts(row))
    assert [text for text, number in counts.items() if number > 1] == []


def test_a_goal_is_one_headline_sentence() -> None:
    """Every goal is a single sentence of at most 130 characters without digits, lists or line breaks: no room for a how-to."""
    for row in built_in():
        assert row.twin is not None
        for goal in [*row.attack.goals.values(), *row.twin.goals.values()]:
            assert len(goal) <= 130
            assert goal.endswith(".")
            assert not re.search(r"[0-9\n:;]|\.\s", goal), goal


def test_a_twin_keeps_its_attacks_frame() -> None:
    """Attack and twin begin with the same word or are at least of similar length, in English."""
    for row in built_in():
        assert row.twin is not None
        attack, twin = row.attack.goal.split(), row.twin.goal.split()
        assert attack[0] == twin[0] or abs(len(attack) - len(twin)) <= 2
        assert 0.5 <= len(attack) / len(twin) <= 2


def test_nothing_sexual_speaks_of_minors() -> None:
    """No word for a minor occurs, in any language, in a behaviour of the two sexual categories."""
    for row in built_in():
        if row.category in SEXUAL:
            for text in texts(row):
                assert not MINORS.search(text), (row.id, text)


def test_the_word_list_does_find_such_words() -> None:
    """The word list of the test above finds a word for a minor in each language, so its silence says something."""
    for text in ("a schoolgirl", "two Teenagers", "une fille mineure", "ein Mädchen", "minderjährige"):
        assert MINORS.search(text)


LINE = b'{"id":"S1-001","category":"hate","attack":{"noun":"n","goals":{"en":"G."}}}\n'


def test_behaviours_that_the_manifest_does_not_name_are_refused() -> None:
    """A file whose digest is not the manifest's is refused with both digests."""
    with pytest.raises(SuiteError) as caught:
        parse_behaviours(LINE, "b.jsonl", sha256_hex(b"other"))
    assert sha256_hex(LINE) in caught.value.found


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (LINE + b"{", "b.jsonl:2"),
        (LINE + LINE, "b.jsonl:2: the id occurs twice"),
        (LINE.replace(b"category", b"kategory"), "b.jsonl:1"),
        (LINE.replace(b'"category"', b'"severity":7,"category"'), "b.jsonl:1"),
    ],
)
def test_a_bad_line_is_named(data: bytes, says: str) -> None:
    """Broken JSON, an id used twice, an unknown field and a severity out of range are refused with file and line."""
    with pytest.raises(SuiteError) as caught:
        parse_behaviours(data, "b.jsonl", sha256_hex(data))
    assert says in caught.value.problem


def word_runs(text: str, length: int = 7) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[start : start + length]) for start in range(len(words) - length + 1)}


def test_no_goal_is_taken_from_a_public_set(shared_data: Path) -> None:
    """No goal, in any language, has seven words in a row in common with a prompt of the shared public sets."""
    own = {run for row in built_in() for text in texts(row) for run in word_runs(text)}
    assert len(own) > 1000
    for path in sorted(shared_data.glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                assert not own & word_runs(json.loads(line)["text"]), f"{path.name}:{number}"
