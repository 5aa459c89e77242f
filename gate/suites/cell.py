"""A cell of the design: one behaviour in one role, language and wording; a task frame turns it into a `SuiteItem`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gate.records import Message, Option, Role, Split, SuiteItem, Task
from gate.suites.behaviours import Behaviour, Wording


@dataclass(frozen=True)
class Cell:
    """What a frame needs to know to word one item."""

    suite: str
    behaviour: Behaviour
    role: Role
    split: Split
    language: str = "en"
    """Language the whole request is made in."""
    variant: int = 0
    """Counts up through a design; a frame takes it modulo the number of its wordings."""

    @property
    def wording(self) -> Wording:
        """The attack's words or the twin's. A behaviour without a twin has no twin cell."""
        if self.role is Role.ATTACK or self.behaviour.twin is None:
            return self.behaviour.attack
        return self.behaviour.twin

    @property
    def goal(self) -> str:
        """The request in the cell's language."""
        return self.wording.goals[self.language]

    def item(
        self,
        task: Task,
        content: str,
        *,
        source: str = "",
        answer_language: str = "",
        options: tuple[Option, ...] = (),
        canaries: tuple[str, ...] = (),
        entry_point: str = "",
    ) -> SuiteItem:
        """The item that asks `content`, as a direct request. The id is `suite/behaviour/task/transform/role`."""
        return SuiteItem(
            id=f"{self.suite}/{self.behaviour.id}/{task}/direct/{self.role}",
            task=task,
            behaviour=self.behaviour.id,
            category=self.behaviour.category,
            role=self.role,
            transform="direct",
            split=self.split,
            messages=(Message(role="user", content=content),),
            source=source,
            answer_language=answer_language or self.language,
            options=options,
            canaries=canaries,
            entry_point=entry_point,
        )


class Frame(Protocol):
    """A task frame: a pure function from a cell to the item that asks for its behaviour in that task."""

    def __call__(self, cell: Cell) -> SuiteItem:
        """The item, worded in the cell's language, not yet transformed."""
        ...
