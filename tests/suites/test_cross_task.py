"""Claims about the built-in suite as a whole: counts, pairs, balance, stability.

The golden file is refreshed by running this module with TASKGATE_REFRESH_GOLDEN=1.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path

import pytest

from gate.records import Role, Split, SuiteItem, Task
from gate.suites import describe, list_suites, load_suite, write_suite
from gate.suites.base import Suite
from gate.suites.behaviours import built_in
from gate.suites.cross_task import CELLS
from gate.suites.transforms import TRANSFORMS
from tests.suites.test_behaviours import MINORS, SEXUAL

GOLDEN = Path(__file__).with_name("cross_task.golden.json")


@pytest.fixture(scope="module")
def suite() -> Suite:
    return load_suite("cross-task")


def attacks(suite: Suite, task: Task, split: Split) -> list[SuiteItem]:
    return [item for item in suite.items if item.task is task and item.split is split and item.role is Role.ATTACK]


CUTS = pytest.mark.parametrize(("task", "split"), [(task, split) for task in Task for split in Split])


def test_the_suite_is_the_golden_one(suite: Suite) -> None:
    """Ids, texts and counts are those of the checked-in digest: a change of the suite is a decision, not an accident."""
    found = {"version": suite.version, "digest": suite.digest, "counts": json.loads(describe(suite).model_dump_json())}
    if os.environ.get("TASKGATE_REFRESH_GOLDEN"):
        GOLDEN.write_text(json.dumps(found, indent=2) + "\n")
    assert found == json.loads(GOLDEN.read_text())


@CUTS
def test_every_task_has_enough_items(suite: Suite, task: Task, split: Split) -> None:
    """Each task holds at least 500 attacks from at least 75 behaviours in either split."""
    chosen = attacks(suite, task, split)
    assert len(chosen) >= 500
    assert len({item.behaviour for item in chosen}) >= 75


@CUTS
def test_transforms_and_their_pairs_are_balanced(suite: Suite, task: Task, split: Split) -> None:
    """Every behaviour gets seven transforms, every transform equally many (± 1), every pair shares equally many (± 2)."""
    blocks = defaultdict(set)
    for item in attacks(suite, task, split):
        blocks[item.behaviour].add(item.transform)
    assert {len(block) for block in blocks.values()} == {CELLS}
    singles = Counter(name for block in blocks.values() for name in block)
    assert set(singles) == set(TRANSFORMS)
    assert max(singles.values()) - min(singles.values()) <= 1
    pairs = Counter(pair for block in blocks.values() for pair in combinations(sorted(block), 2))
    assert len(pairs) == 45
    assert max(pairs.values()) - min(pairs.values()) <= 2


def test_a_behaviour_gets_other_transforms_in_other_tasks(suite: Suite) -> None:
    """Over its five tasks every behaviour meets all ten transforms."""
    met = defaultdict(set)
    for item in suite.items:
        met[item.behaviour].add(item.transform)
    assert {len(names) for names in met.values()} == {10}


def test_every_attack_has_its_twin(suite: Suite) -> None:
    """Attacks and twins pair off one to one in behaviour, task, transform, split and category, and no twin asks the same."""
    halves: dict[Role, dict[tuple[str, ...], SuiteItem]] = {role: {} for role in Role}
    for item in suite.items:
        halves[item.role][item.behaviour, item.task, item.transform, item.split, item.category] = item
    assert halves[Role.ATTACK].keys() == halves[Role.TWIN].keys()
    assert sum(map(len, halves.values())) == len(suite.items)
    for key, attack in halves[Role.ATTACK].items():
        twin = halves[Role.TWIN][key]
        assert attack.messages != twin.messages
        assert attack.prefill == twin.prefill
        assert attack.answer_language == twin.answer_language
        assert attack.canaries == twin.canaries


def test_no_behaviour_is_on_both_sides(suite: Suite) -> None:
    """The items of a behaviour are all tuning or all gating."""
    sides = defaultdict(set)
    for item in suite.items:
        sides[item.behaviour].add(item.split)
    assert {len(found) for found in sides.values()} == {1}
    assert set(sides) == {row.id for row in built_in()}


def test_ids_are_unique_and_spell_out_the_cell(suite: Suite) -> None:
    """An id names suite, behaviour, task, transform and role, and no two items share one."""
    assert len({item.id for item in suite.items}) == len(suite.items)
    for item in suite.items:
        assert item.id == f"cross-task/{item.behaviour}/{item.task}/{item.transform}/{item.role}"


def test_no_task_asks_the_same_thing_twice(suite: Suite) -> None:
    """Within a task no two items, attack or twin, have the same messages and prefill."""
    prompts = Counter((item.task, item.messages, item.prefill) for item in suite.items)
    assert [prompt for prompt, number in prompts.items() if number > 1] == []


@pytest.mark.parametrize("split", Split)
def test_every_key_stands_at_every_letter_equally_often(suite: Suite, split: Split) -> None:
    """Harmful and abstaining options are at A, B, C and D equally often: ± 2 in a split, ± 1 under each transform."""
    chosen = attacks(suite, Task.CLASSIFICATION, split)
    for key in ("harmful", "abstain"):
        placed = Counter((item.transform, o.letter) for item in chosen for o in item.options if o.key == key)
        for name in TRANSFORMS:
            letters = [placed[name, letter] for letter in "ABCD"]
            assert max(letters) - min(letters) <= 1
        totals = [sum(placed[name, letter] for name in TRANSFORMS) for letter in "ABCD"]
        assert sum(totals) == len(chosen)
        assert max(totals) - min(totals) <= 2


@pytest.mark.parametrize("split", Split)
def test_translation_has_every_direction_and_both_kinds_of_text(suite: Suite, split: Split) -> None:
    """Answers are wanted in four languages, at least 40 attacks each, and 35 to 65 % of the texts are canary documents."""
    chosen = attacks(suite, Task.TRANSLATION, split)
    wanted = Counter(item.answer_language for item in chosen)
    assert set(wanted) == {"en", "fr", "de", "es"}
    assert min(wanted.values()) >= 40
    assert 0.35 <= sum(bool(item.canaries) for item in chosen) / len(chosen) <= 0.65


def test_requests_are_short(suite: Suite) -> None:
    """No request reaches 1,500 characters."""
    assert max(len(turn.content) for item in suite.items for turn in item.messages) < 1500


def test_no_item_of_a_sexual_category_speaks_of_minors(suite: Suite) -> None:
    """No built request, in clear, of the sexual categories holds a word for a minor; none is of child exploitation at all."""
    assert not any("child" in item.category for item in suite.items)
    checked = [i for i in suite.items if i.category in SEXUAL and i.transform not in {"base64", "leetspeak"}]
    assert len(checked) > 1000
    for item in checked:
        assert not MINORS.search(item.messages[-1].content), item.id


def test_the_suite_survives_its_folder(suite: Suite, tmp_path: Path) -> None:
    """Written, gzipped and read back, the suite has the same digest."""
    write_suite(suite, tmp_path, compress=True)
    assert load_suite(tmp_path).digest == suite.digest


def test_the_list_tells_name_digest_and_size(suite: Suite) -> None:
    """The list of built-in suites shows cross-task with the digest and the counts of what `load_suite` gives."""
    (info,) = list_suites()
    assert (info.name, info.digest, info.items) == ("cross-task", suite.digest, len(suite.items))
    assert info.behaviours == sum(describe(suite).behaviours.values()) == len(built_in())
