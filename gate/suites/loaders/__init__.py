"""Suites from a user's own data or a public set: a file, folder or hub name comes in, a `Suite` goes out.

Two ways. As *ready prompts* every row is asked as it stands, in one task frame (its own, or the one named). As *behaviours*
(`frames=True`) every row is a goal, put through the five task frames under a balanced choice of transforms, as the built-in
suite is; its twin with it where there is one.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from gate.errors import SuiteError
from gate.records import Message, Role, Split, SuiteItem, Task
from gate.suites.base import Suite
from gate.suites.behaviours import Behaviour, Wording, split_of
from gate.suites.cross_task import CELLS, SYSTEM_PROMPT, cross
from gate.suites.folder import check_unique
from gate.suites.loaders.hub_datasets import SCHEME, fetch
from gate.suites.loaders.layouts import LAYOUTS, TABLE_FIELDS, Layout, Prompt
from gate.suites.loaders.tables import Row, Table, read_table
from gate.suites.transforms import TRANSFORMS, Transform

__all__ = ["LAYOUTS", "TABLE_FIELDS", "build_suite"]

V = TypeVar("V")


def build_suite(
    source: Path | str,
    format: str = "table",  # noqa: A002 - the word that the command line uses
    *,
    name: str = "",
    version: str = "1",
    task: Task = Task.TEXT_GENERATION,
    frames: bool = False,
    transforms: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    split: Split | None = None,
    system_prompt: str = SYSTEM_PROMPT,
    note: Callable[[str], None] | None = None,
) -> Suite:
    """A suite of the prompts in `source` (a file, a folder, or `hf://datasets/org/name@revision/file`), laid out as `format`.

    `columns` maps a field to the table's column; `task` is that of rows that name none; `transforms` default to `direct` for
    ready prompts and to all English ones for behaviours; `split` puts all on one side (default: by salted hash of the
    behaviour's id). `note` is told in a sentence what was left out. Raises `SuiteError`, `InfrastructureError`.
    """
    layout = _known(format, LAYOUTS, "format")
    tell = note or (lambda _: None)
    prompts = _distinct(_prompts(source, layout, columns or {}), tell)
    suite = name or layout.name
    if frames:
        chosen = [_known(each, TRANSFORMS, "transform") for each in transforms] or _english()
        items = cross(suite, _behaviours(prompts, tell), chosen, CELLS, suite, split=split)
    else:
        chosen = [_known(each, TRANSFORMS, "transform") for each in transforms or ("direct",)]
        items = _ready_items(suite, prompts, task, chosen, split)
    check_unique(items, suite)
    if not any(item.split is Split.GATING for item in items):
        tell("no behaviour fell to the gating split, on which verdicts are taken: choose it with split")
    languages = tuple(dict.fromkeys(item.answer_language for item in items))
    return Suite(name=suite, version=version, languages=languages, system_prompt=system_prompt, items=items)


def _prompts(source: Path | str, layout: Layout, columns: Mapping[str, str]) -> list[Prompt]:
    """The set's prompts, columns mapped and checked; a prompt without text is refused."""
    tables = [_mapped(read_table(path), columns) for path in _paths(source, layout)]
    for table in tables:
        table.require(*layout.columns)
    prompts = list(layout.read(tables))
    for prompt in prompts:
        if not prompt.text.strip():
            raise SuiteError(
                f"{prompt.where}: the prompt is empty", expected="text", found="nothing", mend="fill it or drop the row"
            )
    return prompts


def _paths(source: Path | str, layout: Layout) -> list[Path]:
    """The files of the set: the one named, or those that the layout looks for in the folder."""
    if isinstance(source, str) and source.startswith(SCHEME):
        return [fetch(source)]
    path = Path(source)
    if not (path.is_dir() and layout.files):
        return [path]
    first, *others = (path / name for name in layout.files)
    return [first, *(other for other in others if other.is_file())]


def _mapped(table: Table, columns: Mapping[str, str]) -> Table:
    """The table with the columns of the mapping renamed to their fields."""
    if not columns:
        return table
    for field in columns:
        _known(field, dict.fromkeys((*TABLE_FIELDS, *(c for layout in LAYOUTS.values() for c in layout.columns))), "field")
    table.require(*columns.values())
    # A column keeps its own name beside the field's: one column may serve two fields.
    rows = tuple(
        Row(row.where, {**row.cells, **{field: row.cells.get(column, "") for field, column in columns.items()}})
        for row in table.rows
    )
    return Table(table.path, tuple(dict.fromkeys((*table.columns, *columns))), rows)


def _distinct(prompts: Sequence[Prompt], tell: Callable[[str], None]) -> list[Prompt]:
    """The prompts without repetitions: the same words in the same task and role count once."""
    first: dict[tuple[Task | None, Role, str], Prompt] = {}
    for prompt in prompts:
        first.setdefault((prompt.task, prompt.role, prompt.text), prompt)
    if len(first) < len(prompts):
        tell(f"{len(prompts) - len(first)} of {len(prompts)} prompts repeat an earlier one and were left out")
    return list(first.values())


def _ready_items(
    suite: str, prompts: Sequence[Prompt], task: Task, transforms: Sequence[Transform], split: Split | None
) -> tuple[SuiteItem, ...]:
    """Every prompt as it stands under every transform."""
    foreign = [transform.name for transform in transforms if transform.language != "en"]
    if foreign:
        raise SuiteError(
            f"transform {foreign[0]!r} needs the request in another language",
            expected="transforms that reword a ready prompt",
            found=", ".join(foreign),
            mend="leave it out",
        )
    items: list[SuiteItem] = []
    for prompt in prompts:
        own = prompt.task or task
        item = SuiteItem(
            id=f"{suite}/{prompt.behaviour}/{own}/direct/{prompt.role}",
            task=own,
            behaviour=prompt.behaviour,
            category=prompt.category,
            role=prompt.role,
            transform="direct",
            split=split or split_of(prompt.behaviour, suite),
            messages=(Message(role="user", content=prompt.text),),
            source=prompt.source,
            answer_language=prompt.answer_language,
        )
        items += [transform.apply(item) for transform in transforms]
    _check_ids(items, {prompt.behaviour: prompt.where for prompt in prompts})
    return tuple(items)


def _check_ids(items: Sequence[SuiteItem], where: Mapping[str, str]) -> None:
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise SuiteError(
                f"{where[item.behaviour]}: the id {item.behaviour!r} occurs twice in one task and role",
                expected="one row per id",
                found=item.id,
                mend="give each row its own id, or leave the id column out",
            )
        seen.add(item.id)


def _behaviours(prompts: Sequence[Prompt], tell: Callable[[str], None]) -> list[Behaviour]:
    """Attacks with the twins that share their id; a twin without an attack has no place in a frame and is left out."""
    twins = {prompt.behaviour: prompt for prompt in prompts if prompt.role is Role.TWIN}
    rows: dict[str, Behaviour] = {}
    for prompt in prompts:
        if prompt.role is Role.TWIN:
            continue
        if prompt.behaviour in rows:
            raise SuiteError(
                f"{prompt.where}: the id {prompt.behaviour!r} occurs twice",
                expected="one attack per id",
                found="two",
                mend="rename one",
            )
        twin = twins.pop(prompt.behaviour, None)
        rows[prompt.behaviour] = Behaviour(
            id=prompt.behaviour, category=prompt.category, attack=_wording(prompt), twin=_wording(twin) if twin else None
        )
    if twins:
        tell(f"{len(twins)} benign prompts have no attack of the same id and were left out")
    if not rows:
        raise SuiteError(
            "no attack among the prompts", expected="rows with the role attack", found="none", mend="check the roles"
        )
    return list(rows.values())


def _wording(prompt: Prompt) -> Wording:
    goal = (prompt.goal or prompt.text).strip()
    if goal[-1] not in ".?!":
        goal += "."
    return Wording(noun=prompt.noun or goal.rstrip(".?!") or goal, goals={"en": goal})


def _english() -> list[Transform]:
    return [transform for transform in TRANSFORMS.values() if transform.language == "en"]


def _known(key: str, table: Mapping[str, V], kind: str) -> V:
    if key in table:
        return table[key]
    near = difflib.get_close_matches(key, table, n=1)
    raise SuiteError(
        f"unknown {kind} {key!r}",
        expected=", ".join(table),
        found=key,
        mend=f"did you mean {near[0]!r}?" if near else f"choose a known {kind}",
    )
