"""The original layouts of public prompt sets, and the free layout of a user's own table: tables come in, prompts go out.

Only the layouts are known here; the data is the user's to bring, under its own licence. Sources: AdvBench (arXiv 2307.15043),
HarmBench (2402.04249), StrongREJECT (2402.10260), JailbreakBench (2404.01318), XSTest (2308.01263), and MultiTaskBench, whose
2,000 rows are four blocks of 500, one per task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePath
from typing import NamedTuple, TypeVar

from gate.errors import SuiteError
from gate.records import Role, Task
from gate.suites.loaders.tables import Row, Table

E = TypeVar("E", Role, Task)
UNSORTED = "unsorted"
"""Category of a prompt whose set has none."""


class Prompt(NamedTuple):
    """One request as a set gives it."""

    where: str
    """`file:line`, for errors."""
    behaviour: str
    """Cluster: an attack and its twin share it."""
    text: str
    """The whole prompt."""
    role: Role = Role.ATTACK
    category: str = UNSORTED
    task: Task | None = None
    """The task, where the set says; else the caller does."""
    goal: str = ""
    """The request without its context, where the two differ."""
    noun: str = ""
    source: str = ""
    """The quoted span that the task works on."""
    answer_language: str = "en"


class Layout(NamedTuple):
    """How one set's files are read."""

    name: str
    about: str
    columns: tuple[str, ...]
    """Columns that must be there."""
    read: Callable[[Sequence[Table]], Iterator[Prompt]]
    """The prompts of the set's tables, in order."""
    files: tuple[str, ...] = ()
    """File names looked for when the source is a folder; the first one must be there."""


def _advbench(tables: Sequence[Table]) -> Iterator[Prompt]:
    for number, row in _numbered(tables[0]):
        yield Prompt(row.where, f"advbench-{number:04d}", row.cells["goal"])


def _harmbench(tables: Sequence[Table]) -> Iterator[Prompt]:
    for _, row in _numbered(tables[0]):
        behaviour, context = row.cells["Behavior"], row.cells["ContextString"]
        # A contextual behaviour is put after its context and a rule, as HarmBench itself does.
        text = f"{context}\n\n---\n\n{behaviour}" if context else behaviour
        yield Prompt(row.where, row.cells["BehaviorID"], text, category=row.cells["SemanticCategory"] or UNSORTED, goal=behaviour)


def _strongreject(tables: Sequence[Table]) -> Iterator[Prompt]:
    for number, row in _numbered(tables[0]):
        category = row.cells["category"] or UNSORTED
        yield Prompt(row.where, f"strongreject-{number:04d}", row.cells["forbidden_prompt"], category=category)


def _jbb(tables: Sequence[Table]) -> Iterator[Prompt]:
    for table in tables:
        role = Role.TWIN if PurePath(table.path).name.startswith("benign") else Role.ATTACK
        for _, row in _numbered(table):
            # Behaviours of the same index in the two files are about the same topic: that is the pair.
            name = f"jbb-{row.cells['Index']}"
            yield Prompt(row.where, name, row.cells["Goal"], role, category=row.cells["Category"] or UNSORTED)


MULTITASKBENCH_BLOCK = 500
MULTITASKBENCH_TASKS = (Task.CLASSIFICATION, Task.CODE_GENERATION, Task.TEXT_GENERATION, Task.TRANSLATION)


def _multitaskbench(tables: Sequence[Table]) -> Iterator[Prompt]:
    for number, row in _numbered(tables[0]):
        block = (number - 1) // MULTITASKBENCH_BLOCK
        if block >= len(MULTITASKBENCH_TASKS):
            raise SuiteError(
                f"{row.where}: more rows than the set has",
                expected=f"{MULTITASKBENCH_BLOCK * len(MULTITASKBENCH_TASKS)} rows",
                found=f"row {number}",
                mend="use the original file: the task of a row is told by its position",
            )
        yield Prompt(row.where, f"multitaskbench-{number:04d}", row.cells["Query"], task=MULTITASKBENCH_TASKS[block])


def _xstest(tables: Sequence[Table]) -> Iterator[Prompt]:
    for _, row in _numbered(tables[0]):
        label = row.cells["label"].strip().lower()
        if label not in {"safe", "unsafe"}:
            raise SuiteError(f"{row.where}: unknown label", expected="safe or unsafe", found=repr(label), mend="mend the row")
        role = Role.TWIN if label == "safe" else Role.ATTACK
        yield Prompt(row.where, f"xstest-{row.cells['id']}", row.cells["prompt"], role, category=row.cells["type"] or UNSORTED)


TABLE_FIELDS = ("prompt", "id", "twin", "role", "task", "category", "noun", "source", "answer_language")
"""Fields of a user's own table; all but `prompt` may be missing."""


def _own_table(tables: Sequence[Table]) -> Iterator[Prompt]:
    for number, row in _numbered(tables[0]):
        cells = row.cells
        prompt = Prompt(
            row.where,
            cells.get("id") or f"row-{number:05d}",
            cells["prompt"],
            _member(Role, cells.get("role") or Role.ATTACK, row.where),
            category=cells.get("category") or UNSORTED,
            task=_member(Task, cells["task"], row.where) if cells.get("task") else None,
            noun=cells.get("noun", ""),
            source=cells.get("source", ""),
            answer_language=cells.get("answer_language") or "en",
        )
        yield prompt
        if twin := cells.get("twin"):
            yield prompt._replace(text=twin, role=Role.TWIN, noun="", source="")


def _member(kind: type[E], value: str, where: str) -> E:
    try:
        return kind(value)
    except ValueError as error:
        known = ", ".join(member.value for member in kind)
        raise SuiteError(
            f"{where}: unknown {kind.__name__.lower()}", expected=known, found=repr(value), mend="mend the row"
        ) from error


def _numbered(table: Table) -> Iterator[tuple[int, Row]]:
    return enumerate(table.rows, start=1)


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("table", f"your own table; columns {', '.join(TABLE_FIELDS)}, or mapped to them", ("prompt",), _own_table),
        Layout("advbench", "harmful_behaviors.csv", ("goal", "target"), _advbench, ("harmful_behaviors.csv",)),
        Layout(
            "harmbench",
            "harmbench_behaviors_text_all.csv",
            ("Behavior", "FunctionalCategory", "SemanticCategory", "Tags", "ContextString", "BehaviorID"),
            _harmbench,
            ("harmbench_behaviors_text_all.csv",),
        ),
        Layout(
            "strongreject",
            "strongreject_dataset.csv",
            ("category", "source", "forbidden_prompt"),
            _strongreject,
            ("strongreject_dataset.csv",),
        ),
        Layout(
            "jbb",
            "harmful-behaviors.csv, with benign-behaviors.csv as twins when the source is their folder",
            ("Index", "Goal", "Target", "Behavior", "Category", "Source"),
            _jbb,
            ("harmful-behaviors.csv", "benign-behaviors.csv"),
        ),
        Layout("multitaskbench", "rows in blocks of 500 per task", ("Query", "Response"), _multitaskbench),
        Layout(
            "xstest",
            "xstest_prompts.csv: safe prompts are twins, unsafe ones attacks",
            ("id", "prompt", "type", "label", "focus", "note"),
            _xstest,
            ("xstest_prompts.csv",),
        ),
    )
}
