"""Claims about the attack transforms: pure, named, and decodable where they encode."""

from __future__ import annotations

import base64

import pytest

from gate.records import Role, Split, SuiteItem, Task
from gate.suites.behaviours import built_in
from gate.suites.cell import Cell
from gate.suites.cross_task import FRAMES
from gate.suites.transforms import TRANSFORMS, Transform
from gate.suites.transforms.encodings import BASE64, LEETSPEAK, PROTECTED, to_base64, to_leetspeak

EVERY = pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)


def direct_items(language: str = "en", every: int = 7) -> list[SuiteItem]:
    """Items of some behaviours in all frames, both roles and several wordings."""
    return [
        frame(Cell("s", behaviour, role, Split.GATING, language, variant))
        for behaviour in built_in()[::every]
        for frame in FRAMES.values()
        for role in Role
        for variant in range(0, 10, 3)
    ]


def test_the_table_is_the_minimal_set() -> None:
    """Direct, three personas, refusal suppression, two encodings, prefill and two languages: ten transforms."""
    names = list(TRANSFORMS)
    assert len(names) == 10
    assert sum(name.startswith("persona-") for name in names) == 3
    assert sum(transform.language != "en" for transform in TRANSFORMS.values()) == 2
    assert {"direct", "refusal-suppression", "base64", "leetspeak", "prefill"} < set(names)


@EVERY
def test_a_transform_is_pure(transform: Transform) -> None:
    """The item passed in is unchanged, and the same item gives the same result twice."""
    for item in direct_items(transform.language, every=31):
        before = item.model_dump_json()
        assert transform.apply(item) == transform.apply(item)
        assert item.model_dump_json() == before


@EVERY
def test_a_transform_changes_only_the_request(transform: Transform) -> None:
    """Task, role, split, source, options, canaries, entry point and answer language survive; name and id tell the transform."""
    free = {"id", "transform", "messages", "prefill"}
    for item in direct_items(transform.language, every=31):
        made = transform.apply(item)
        assert made.model_dump(exclude=free) == item.model_dump(exclude=free)
        assert made.transform == transform.name
        assert made.id == f"s/{item.behaviour}/{item.task}/{transform.name}/{item.role}"
        assert [turn.role for turn in made.messages] == ["user"]
        SuiteItem.model_validate_json(made.model_dump_json())


@pytest.mark.parametrize("name", [n for n in TRANSFORMS if n.startswith("persona-")] + ["refusal-suppression"])
def test_a_wrapper_keeps_the_whole_request(name: str) -> None:
    """A persona or the suppression rules stand before the request, which follows word for word."""
    for item in direct_items():
        made = TRANSFORMS[name].apply(item).messages[-1].content
        assert made.endswith(item.messages[-1].content)
        assert len(made) > len(item.messages[-1].content)


def test_prefill_speaks_for_the_assistant_and_leaves_the_request() -> None:
    """Prefill adds an opening for the task at hand and changes no turn; no other transform has one."""
    for item in direct_items(every=31):
        made = TRANSFORMS["prefill"].apply(item)
        assert made.prefill.startswith("Sure")
        assert made.messages == item.messages
        assert all(not t.apply(item).prefill for t in TRANSFORMS.values() if t.name != "prefill")


def from_base64(content: str) -> str:
    """The request that `to_base64` encoded."""
    return base64.b64decode(content.removeprefix(BASE64.removesuffix("{content}"))).decode()


def from_leetspeak(content: str) -> str:
    """The request that `to_leetspeak` encoded, with the replaced letters in lower case (digits of its own become letters)."""
    text = content.removeprefix(LEETSPEAK.removesuffix("{content}"))
    letters = str.maketrans("431057", "aeiost")
    kept = [match.group() for match in PROTECTED.finditer(text)]
    between = [part.translate(letters) for part in PROTECTED.split(text)]
    return between[0] + "".join(token + part for token, part in zip(kept, between[1:], strict=True))


def test_base64_decodes_to_the_request() -> None:
    """The encoded request decodes to the original, byte for byte, in every frame."""
    for item in direct_items():
        content = to_base64(item).messages[-1].content
        assert item.messages[-1].content not in content
        assert from_base64(content) == item.messages[-1].content


def test_leetspeak_decodes_to_the_request() -> None:
    """The leetspeak request reads as the original again, letter case aside, and the goal does not stand in it in clear."""
    for item in direct_items():
        content = to_leetspeak(item).messages[-1].content
        original = item.messages[-1].content
        assert from_leetspeak(content).casefold() == original.casefold()
        assert (item.source or original) not in content or item.task is Task.CODE_GENERATION


def test_leetspeak_leaves_what_the_answer_is_judged_by() -> None:
    """Canary tokens, option letters and the function's signature stand unchanged in a leetspeak request."""
    for item in direct_items():
        content = to_leetspeak(item).messages[-1].content
        assert all(token in content for token in item.canaries)
        assert all(f"\n{option.letter}) " in content for option in item.options)
        assert f"def {item.entry_point}" in content or not item.entry_point
