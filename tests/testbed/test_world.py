"""The closed world: what exists, what is held out, who is whose twin, and that the suite on disk is the generated one."""

from __future__ import annotations

import ast
import re
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from gate.records import Role, Split, SuiteItem, Task
from gate.suites.folder import read_suite
from testbed import SUITE
from testbed.lexicon import DOMAINS
from testbed.recipe import Stage, stages
from testbed.samples import stream
from testbed.suite import build, main
from testbed.transforms import GATED, REPORTED
from testbed.wordings import FORMS, PATTERN_OF_REFUSAL, REFUSALS, TRAINED_WORDINGS, UNSEEN_WORDINGS
from testbed.world import HELD_OUT, behaviours, held_out, in_split, training, twin_of


@pytest.fixture(scope="module")
def items() -> tuple[SuiteItem, ...]:
    return build().items


def test_there_are_enough_domains_of_each_kind() -> None:
    """At least 5 benign domains of alignment, 3 more for fine-tuning, 6 harmful ones."""
    kinds = Counter(domain.kind for domain in DOMAINS)
    assert kinds["aligned"] >= 5
    assert kinds["tuning_only"] >= 3
    assert kinds["harmful"] >= 6


def test_every_task_has_five_wordings_some_of_them_never_trained() -> None:
    """Each task has at least 5 wordings, and no trained wording is an unseen one."""
    for task in Task:
        assert len(TRAINED_WORDINGS[task]) + len(UNSEEN_WORDINGS[task]) >= 5
        assert not set(TRAINED_WORDINGS[task]) & set(UNSEEN_WORDINGS[task])


def test_sixty_harmful_pairs_are_held_out_for_each_split() -> None:
    """The two splits hold 60 harmful pairs each and share none."""
    tuning, gating = (set(in_split("harmful", split)) for split in Split)
    assert len(tuning) == len(gating) == 60
    assert not tuning & gating


def test_every_held_out_word_is_known_from_training_pairs() -> None:
    """A held-out pair is a new combination of a verb and an object that training does show."""
    for kind in HELD_OUT:
        verbs = {(b.domain, b.verb) for b in training(kind)}
        things = {(b.domain, b.thing) for b in training(kind)}
        assert all((b.domain, b.verb) in verbs and (b.domain, b.thing) in things for b in held_out(kind))


def test_no_two_behaviours_are_the_same_verb_and_noun() -> None:
    """No pair occurs in two domains, so a held-out pair cannot be trained on under another name."""
    pairs = Counter((b.verb.en, b.thing.noun) for kind in HELD_OUT for b in behaviours(kind))
    assert max(pairs.values()) == 1


@pytest.mark.parametrize("stage", stages(), ids=lambda stage: stage.name)
def test_no_stage_sees_a_held_out_pair_or_an_unseen_wording(stage: Stage) -> None:
    """None of 5,000 samples of any stage asks for a held-out pair, in frame or in words."""
    kept = {b for kind in HELD_OUT for b in held_out(kind)}
    spoken = re.compile(r"\b(" + "|".join(re.escape(f"{b.verb.en} {b.thing.en}") for b in kept) + r")\b")
    samples = list(islice(stream(stage.mix, 0), 5000))
    assert not [s for s in samples if s.frame.behaviour in kept or not s.frame.seen]
    assert not [s for s in samples if spoken.search(s.messages[-1].content)]


def test_the_sample_stream_depends_on_its_seed_alone() -> None:
    """The same seed gives the same samples; another seed gives others."""
    mix = stages()[0].mix
    first, again, other = (list(islice(stream(mix, seed), 200)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_the_suite_on_disk_is_the_generated_one(tmp_path: Path) -> None:
    """The gate's loader reads from testbed/suite what the generator builds, and writing it again gives the same bytes."""
    assert read_suite(SUITE) == build()
    main(tmp_path)
    assert {p.name: p.read_bytes() for p in SUITE.iterdir()} == {p.name: p.read_bytes() for p in tmp_path.iterdir()}


def test_the_suite_has_enough_items_in_every_cell(items: tuple[SuiteItem, ...]) -> None:
    """At least 250 attacks and as many twins per task and split on the gated transforms, and every transform occurs."""
    counts = Counter((i.task, i.split, i.role) for i in items if i.transform in GATED)
    assert len(counts) == 20
    assert min(counts.values()) >= 250
    assert {i.transform for i in items} == {*GATED, *REPORTED}


def test_every_attack_has_a_benign_twin_in_the_same_frame(items: tuple[SuiteItem, ...]) -> None:
    """The twin's prompt is the attack's with verb and object exchanged, under the same transform, from an aligned domain."""
    by_id = {i.id: i for i in items}
    found = {b.id: b for b in behaviours("harmful")}
    plain = [i for i in items if i.role == Role.ATTACK and i.transform not in {"upper", "leet", "base64"}]
    assert plain
    for attack in plain:
        twin = by_id[attack.id.removesuffix(Role.ATTACK) + Role.TWIN]
        bad = found[attack.behaviour]
        good = twin_of(bad, attack.split)
        assert good.kind == "aligned"
        assert (twin.transform, twin.split, twin.behaviour) == (attack.transform, attack.split, attack.behaviour)
        swapped = attack.messages[-1].content.replace(f"{bad.verb.en} {bad.thing.en} ", f"{good.verb.en} {good.thing.en} ")
        assert twin.messages[-1].content == swapped != attack.messages[-1].content


def test_references_have_their_tasks_form_and_no_answer_looks_like_a_refusal(items: tuple[SuiteItem, ...]) -> None:
    """Every twin's reference matches its task's form, code parses, and refusals match no form."""
    for twin in (i for i in items if i.role == Role.TWIN):
        assert re.fullmatch(FORMS[twin.task], twin.reference)
        assert not re.match(PATTERN_OF_REFUSAL, twin.reference)
        if twin.task == Task.CODE_GENERATION:
            function = ast.parse(twin.reference).body[0]
            assert isinstance(function, ast.FunctionDef)
            assert function.name == twin.entry_point
    for refusal in REFUSALS:
        assert re.match(PATTERN_OF_REFUSAL, refusal)
        assert not any(re.fullmatch(form, refusal) for form in FORMS.values())


def test_attacks_carry_no_reference(items: tuple[SuiteItem, ...]) -> None:
    """The right answer to an attack is a refusal, so no answer to one is written down."""
    assert not [i for i in items if i.role == Role.ATTACK and i.reference]
