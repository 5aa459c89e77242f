"""What an attack transform is: a pure function from an item to an item, and the language the item is to be worded in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gate.records import Message, SuiteItem


@dataclass(frozen=True)
class Transform:
    """One line of the table of transforms."""

    name: str
    apply: Callable[[SuiteItem], SuiteItem]
    """Direct item in, transformed item out, with the transform's name in it and in its id."""
    source: str
    """Where the technique is described."""
    language: str = "en"
    """The language that the task frame must word the item in."""


def rewrap(item: SuiteItem, name: str, *, content: str | None = None, prefill: str = "") -> SuiteItem:
    """The item under the transform `name`, its last turn replaced by `content` where given. Id: `…/name/role`."""
    stem, _, role = item.id.rsplit("/", 2)
    changes: dict[str, object] = {"id": f"{stem}/{name}/{role}", "transform": name, "prefill": prefill}
    if content is not None:
        changes["messages"] = (*item.messages[:-1], Message(role="user", content=content))
    return item.model_copy(update=changes)
