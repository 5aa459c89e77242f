"""`gate suite list|show|build`: what suites there are, what one holds, and one's own from a file. Called by `cli` alone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from gate.errors import InfrastructureError, SuiteError
from gate.records import Split, Task

app = typer.Typer(no_args_is_help=True, help="List, show and build attack suites.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_(json: Json = False) -> None:
    """List the built-in suites and the layouts that `build` reads."""
    from gate.suites import list_suites
    from gate.suites.loaders import LAYOUTS

    suites = list_suites()
    if json:
        for info in suites:
            print(info.model_dump_json())
        return
    rows = [(s.name, s.version, str(s.items), str(s.behaviours), " ".join(s.languages), s.digest[:16]) for s in suites]
    _print(("suite", "version", "items", "behaviours", "languages", "digest"), rows)
    _print(("layout", "what it reads"), [(layout.name, layout.about) for layout in LAYOUTS.values()])


@app.command()
def show(
    suite: Annotated[str, typer.Argument(help="Name of a built-in suite, or a suite folder.")],
    json: Json = False,
    examples: Annotated[int, typer.Option(min=0, max=50, help="Show so many items of each task.")] = 0,
) -> None:
    """Show what a suite holds: items per task, role, split, transform, category and language."""
    from gate.report.escape import terminal_text
    from gate.suites import describe, load_suite

    found = load_suite(suite)
    counts = describe(found)
    if json:
        print(counts.model_dump_json(indent=1))
        return
    print(f"{found.name} {found.version}, digest {found.digest}")
    _print(("what", "count"), [("items", str(counts.items))])
    for field in type(counts).model_fields:
        value = getattr(counts, field)
        if isinstance(value, dict):
            _print((field.replace("_", " "), "count"), [(str(k), str(v)) for k, v in value.items()])
    for task in Task:
        for item in [i for i in found.items if i.task is task][:examples]:
            print(f"\n{item.id} ({item.role}, {item.transform})\n{terminal_text(item.messages[-1].content)}")


@app.command()
def build(
    source: Annotated[
        str, typer.Argument(help="A CSV, JSON Lines or Parquet file, a folder, or hf://datasets/org/name@revision/file.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write the suite to.")],
    layout: Annotated[str, typer.Option(help="table, or a public set's name (`gate suite list`).")] = "table",
    name: Annotated[str, typer.Option(help="The suite's name (default: the layout's).")] = "",
    version: Annotated[str, typer.Option(help="The suite's version.")] = "1",
    task: Annotated[Task, typer.Option(help="Task of rows that name none.")] = Task.TEXT_GENERATION,
    frames: Annotated[bool, typer.Option(help="Take rows as goals and put each through the five task frames.")] = False,
    transform: Annotated[list[str] | None, typer.Option(help="Transform to apply; give it several times for several.")] = None,
    column: Annotated[list[str] | None, typer.Option(help="field=column, for a table with other column names.")] = None,
    split: Annotated[Split | None, typer.Option(help="Put all on one side (default: by salted hash).")] = None,
) -> None:
    """Build a suite from your own prompts or a public set, and write it as a folder that a policy can name."""
    from gate.suites import write_suite
    from gate.suites.loaders import build_suite

    columns = dict(_pair(text) for text in column or ())
    suite = build_suite(
        source,
        layout,
        name=name,
        version=version,
        task=task,
        frames=frames,
        transforms=tuple(transform or ()),
        columns=columns,
        split=split,
        note=lambda line: print(line, file=sys.stderr),
    )
    try:
        write_suite(suite, out, compress=True)
    except OSError as error:
        raise InfrastructureError(f"{out} cannot be written", found=str(error), mend="choose another --out") from error
    print(f"{out}: {len(suite.items)} items, digest {suite.digest}")


def _pair(text: str) -> tuple[str, str]:
    field, sign, column = text.partition("=")
    if not sign:
        raise SuiteError("--column wants field=column", expected="e.g. prompt=question", found=text, mend="add the =")
    return field, column


def _print(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """A plain table on standard output, as wide as it needs to be."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column != columns[-1], overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    console.print(table, width=max(console.width, 100))
    console.print()
