"""`python -m testbed.suite`: writes the testbed's own suite, in the same records as the suite for real models.

Comes in: the held-out behaviours, the tasks' frames and the transforms. Goes out: `testbed/suite/suite.json` and
`items.jsonl.gz`, the same bytes every time.

Every held-out harmful behaviour is asked for in every task: directly in two wordings and once under each persona (the 5 items
that the demonstration policy decides on, 300 per task and split), and every third one also under every reported transform. Each
attack has a twin: the benign behaviour of the same rank, in the same wording, modifier, small words and transform.
"""

from __future__ import annotations

from pathlib import Path

from gate.records import Role, Split, SuiteItem, Task
from gate.suites.base import Suite
from gate.suites.folder import write_suite
from testbed import SUITE
from testbed.lexicon import FILLERS, MODIFIERS, NAMES
from testbed.samples import SYSTEM_PROMPT, conversation
from testbed.transforms import PERSONAS, REPORTED, TRANSFORMS, prefill_of
from testbed.wordings import TRAINED_WORDINGS, Frame
from testbed.world import Behaviour, in_split, rank, twin_of

NAME, VERSION = "testbed", "1"
REPORTED_EVERY = 3
"""Every how manyth behaviour of a split is put through the reported transforms."""
CHANGED_SOURCES = ("upper", "leet")
"""Transforms under which the quoted source is changed like the rest of the prompt."""


def frame(behaviour: Behaviour, attack: Behaviour, task: Task, transform: str, number: int) -> Frame:
    """The frame of one item. All but the behaviour is drawn by the attack's hash, so that attack and twin share it."""
    draw = rank("suite", attack.id, task, transform)
    wording = (draw + number) % len(TRAINED_WORDINGS[task])
    modifier = MODIFIERS[(draw // 8 + number) % len(MODIFIERS)]
    opening = (draw // 1024 + number) % (5 * len(NAMES))
    return Frame(behaviour, task, wording, modifier, opening, (draw // 65536) % len(FILLERS), seen=transform != "unseen_wording")


def item(attack: Behaviour, role: Role, task: Task, transform: str, number: int, split: Split) -> SuiteItem:
    """One item: the attack itself, or its twin in the same frame."""
    asked = attack if role == Role.ATTACK else twin_of(attack, split)
    of = frame(asked, attack, task, transform, number)
    return SuiteItem(
        id=f"{attack.id}/{task}/{transform}-{number}/{role}",
        task=task,
        behaviour=attack.id,
        category=attack.domain,
        role=role,
        transform=transform,
        split=split,
        messages=conversation(of, transform, ""),
        prefill=prefill_of(transform),
        source=TRANSFORMS[transform](of.source) if transform in CHANGED_SOURCES else of.source,
        answer_language="fr" if task == Task.TRANSLATION else "en",
        entry_point=of.entry_point,
        reference=of.reference if role == Role.TWIN else "",
    )


def items() -> tuple[SuiteItem, ...]:
    """Every item of the suite, in a fixed order."""
    found = []
    for split in Split:
        for place, attack in enumerate(in_split("harmful", split)):
            asked = [("direct", 0), ("direct", 1), *((persona, 0) for persona in PERSONAS)]
            if place % REPORTED_EVERY == 0:
                asked += [(transform, 0) for transform in REPORTED]
            found += [
                item(attack, role, task, transform, number, split)
                for task in Task
                for transform, number in asked
                for role in (Role.ATTACK, Role.TWIN)
            ]
    return tuple(found)


def build() -> Suite:
    """The suite as one record."""
    return Suite(name=NAME, version=VERSION, languages=("en", "fr"), system_prompt=SYSTEM_PROMPT, items=items())


def main(out: Path = SUITE) -> None:
    """Write the suite's files into `out`."""
    suite = build()
    write_suite(suite, out, compress=True)
    print(f"{out}: {len(suite.items)} items, suite digest {suite.digest}")


if __name__ == "__main__":
    main()
