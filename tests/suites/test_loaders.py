"""Claims about suites built from a user's tables and from public sets in their original layouts.

The files are written here with bland rows of our own under the original headers; no public set's text is in this repository.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from gate.errors import ExitCode, InfrastructureError, SuiteError
from gate.records import Role, Split, Task
from gate.suites import write_suite
from gate.suites.loaders import LAYOUTS, build_suite


def write_csv(path: Path, header: Sequence[str], *rows: Sequence[object]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def test_advbench_rows_become_attacks(tmp_path: Path) -> None:
    """Each AdvBench goal is one attack behaviour; the target is not asked."""
    path = write_csv(
        tmp_path / "harmful_behaviors.csv", LAYOUTS["advbench"].columns, ["Hum a tune", "Sure"], ["Bake, then eat", "Sure"]
    )
    for source in (path, tmp_path, str(path)):
        suite = build_suite(source, "advbench")
        assert [item.messages[0].content for item in suite.items] == ["Hum a tune", "Bake, then eat"]
        assert {item.role for item in suite.items} == {Role.ATTACK}
        assert [item.id for item in suite.items] == [f"advbench/advbench-000{n}/text_generation/direct/attack" for n in (1, 2)]


def test_harmbench_context_stands_before_the_behaviour(tmp_path: Path) -> None:
    """A contextual HarmBench behaviour is asked after its context; ids and semantic categories are kept."""
    path = write_csv(
        tmp_path / "harmbench_behaviors_text_all.csv",
        LAYOUTS["harmbench"].columns,
        ["Draw a hat", "standard", "misc", "", "", "draw_hat"],
        ["Count them", "contextual", "maths", "context", "There are\ntwo hats.", "count_hats"],
    )
    plain, contextual = build_suite(path, "harmbench").items
    assert (plain.behaviour, plain.category, plain.messages[0].content) == ("draw_hat", "misc", "Draw a hat")
    assert contextual.messages[0].content == "There are\ntwo hats.\n\n---\n\nCount them"


def test_strongreject_keeps_categories(tmp_path: Path) -> None:
    """The forbidden prompt is asked and its category kept."""
    path = write_csv(tmp_path / "s.csv", LAYOUTS["strongreject"].columns, ["Hats", "us", "Hide a hat"])
    (item,) = build_suite(path, "strongreject").items
    assert (item.category, item.messages[0].content) == ("Hats", "Hide a hat")


def test_jbb_pairs_the_two_files_by_index(tmp_path: Path) -> None:
    """From their folder the harmful goals are attacks and the benign ones of the same index their twins."""
    header = LAYOUTS["jbb"].columns
    write_csv(
        tmp_path / "harmful-behaviors.csv",
        header,
        [0, "Hide a hat", "t", "Hat", "Hats", "us"],
        [1, "Lose a hat", "t", "H", "C", "us"],
    )
    write_csv(tmp_path / "benign-behaviors.csv", header, [0, "Buy a hat", "t", "Hat", "Hats", "us"])
    suite = build_suite(tmp_path, "jbb")
    assert [(i.behaviour, i.role.value) for i in suite.items] == [("jbb-0", "attack"), ("jbb-1", "attack"), ("jbb-0", "twin")]
    pair = [item for item in suite.items if item.behaviour == "jbb-0"]
    assert pair[0].split is pair[1].split
    assert [i.role for i in build_suite(tmp_path / "harmful-behaviors.csv", "jbb").items] == [Role.ATTACK, Role.ATTACK]
    assert [i.role for i in build_suite(tmp_path / "benign-behaviors.csv", "jbb").items] == [Role.TWIN]


def test_multitaskbench_tasks_follow_the_blocks(tmp_path: Path) -> None:
    """Rows 0-499 are classification, then code, text and translation; a repeated prompt is left out and told of."""
    rows = [[f"Do number {n}", "No."] for n in range(1999)] + [["Do number 1998", "No."]]
    notes: list[str] = []
    suite = build_suite(
        write_csv(tmp_path / "m.csv", LAYOUTS["multitaskbench"].columns, *rows), "multitaskbench", note=notes.append
    )
    tasks = Counter(item.task for item in suite.items)
    assert tasks == {Task.CLASSIFICATION: 500, Task.CODE_GENERATION: 500, Task.TEXT_GENERATION: 500, Task.TRANSLATION: 499}
    assert next(i.task for i in suite.items if i.messages[0].content == "Do number 500") is Task.CODE_GENERATION
    assert notes == ["1 of 2000 prompts repeat an earlier one and were left out"]


def test_multitaskbench_with_a_row_too_many_is_refused(tmp_path: Path) -> None:
    """A 2,001st row can't be placed in a task by its position."""
    path = write_csv(tmp_path / "m.csv", LAYOUTS["multitaskbench"].columns, *[[f"Do {n}", "No."] for n in range(2001)])
    with pytest.raises(SuiteError, match="more rows than the set has"):
        build_suite(path, "multitaskbench")


def test_xstest_safe_prompts_are_twins(tmp_path: Path) -> None:
    """XSTest's safe prompts measure over-refusal, its unsafe ones are attacks; another label is refused with its line."""
    header = LAYOUTS["xstest"].columns
    path = write_csv(
        tmp_path / "x.csv",
        header,
        ["v2-1", "Ring a bell?", "homonyms", "safe", "bell", ""],
        ["v2-2", "Rob?", "c", "unsafe", "", ""],
    )
    assert [(i.behaviour, i.role.value) for i in build_suite(path, "xstest").items] == [
        ("xstest-v2-1", "twin"),
        ("xstest-v2-2", "attack"),
    ]
    write_csv(path, header, ["v2-1", "Ring a bell?", "homonyms", "maybe", "bell", ""])
    with pytest.raises(SuiteError, match=r"x\.csv:2: unknown label"):
        build_suite(path, "xstest")


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_wrong_column_is_named_with_the_nearest(tmp_path: Path, name: str) -> None:
    """In every layout a misspelt column is an error that names the column wanted and the one that was probably meant."""
    first, *rest = LAYOUTS[name].columns
    path = write_csv(tmp_path / "f.csv", [first + "s", *rest], ["x"] * (1 + len(rest)))
    with pytest.raises(SuiteError) as caught:
        build_suite(path, name)
    assert f"no column {first!r}" in caught.value.problem
    assert repr(first + "s") in caught.value.mend


ROWS: list[dict[str, str | None]] = [
    {"q": "Wear a hat", "kind": "hats", "safe": "Wear a scarf", "where": "classification"},
    {"q": "Öffne ein Fenster", "kind": "", "safe": None, "where": None},
]
MAPPING = {"prompt": "q", "category": "kind", "twin": "safe", "task": "where"}


def own_table(folder: Path, ending: str) -> Path:
    path = folder / f"own{ending}"
    if ending == ".csv":
        return write_csv(path, list(ROWS[0]), *[[value or "" for value in row.values()] for row in ROWS])
    if ending == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    elif ending == ".json":
        path.write_text(json.dumps(ROWS), encoding="utf-8")
    else:
        path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".json", ".parquet"])
def test_an_own_table_is_read_the_same_in_every_format(tmp_path: Path, ending: str) -> None:
    """CSV, JSON lines, JSON and Parquet with mapped columns give the same items: two attacks, one twin, own tasks kept."""
    suite = build_suite(own_table(tmp_path, ending), columns=MAPPING, task=Task.SUMMARIZATION, name="mine", split=Split.GATING)
    found = [(i.behaviour, i.role.value, i.task.value, i.category, i.messages[0].content) for i in suite.items]
    assert found == [
        ("row-00001", "attack", "classification", "hats", "Wear a hat"),
        ("row-00001", "twin", "classification", "hats", "Wear a scarf"),
        ("row-00002", "attack", "summarization", "unsorted", "Öffne ein Fenster"),
    ]
    assert {item.split for item in suite.items} == {Split.GATING}
    assert suite.name == "mine"
    write_suite(suite, tmp_path / "out")


def test_ready_prompts_take_transforms(tmp_path: Path) -> None:
    """Every prompt is asked under every transform named; one that needs another language is refused."""
    path = own_table(tmp_path, ".csv")
    suite = build_suite(path, columns=MAPPING, transforms=["direct", "base64", "prefill"])
    assert Counter(item.transform for item in suite.items) == {"direct": 3, "base64": 3, "prefill": 3}
    with pytest.raises(SuiteError, match="language-fr"):
        build_suite(path, columns=MAPPING, transforms=["language-fr"])


def test_behaviours_go_through_the_frames(tmp_path: Path) -> None:
    """As behaviours, rows are asked in five tasks under seven of eight English transforms, with their twin if they have one."""
    suite = build_suite(own_table(tmp_path, ".csv"), columns=MAPPING, frames=True)
    attacks = Counter((i.behaviour, i.task) for i in suite.items if i.role is Role.ATTACK)
    assert len(attacks) == 10
    assert set(attacks.values()) == {7}
    assert {i.behaviour for i in suite.items if i.role is Role.TWIN} == {"row-00001"}
    assert not {i.transform for i in suite.items} & {"language-fr", "language-de"}
    assert {item.answer_language for item in suite.items} == set(suite.languages) == {"en", "fr", "de", "es"}


def test_behaviours_in_a_language_they_lack_are_refused(tmp_path: Path) -> None:
    """A language transform on English-only goals is an error that names behaviour and language."""
    with pytest.raises(SuiteError, match="no text in 'fr'"):
        build_suite(own_table(tmp_path, ".csv"), columns=MAPPING, frames=True, transforms=["direct", "language-fr"])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format": "advbensh"}, "'advbench'?"),
        ({"columns": {"promt": "q"}}, "'prompt'?"),
        ({"columns": {"prompt": "qq"}}, "'q'"),
        ({"columns": MAPPING, "transforms": ["base46"]}, "'base64'?"),
        ({"columns": {"prompt": "q", "role": "kind"}}, "attack, twin"),
        ({"columns": {"prompt": "safe"}}, "own.csv:3: the prompt is empty"),
        ({"columns": {"prompt": "q", "id": "same"}}, "own.csv:3: the id 'x' occurs twice"),
    ],
)
def test_wrong_arguments_name_what_was_meant(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    """A misspelt format, field, column or transform, a bad role, an empty prompt and a repeated id are each named."""
    path = write_csv(
        tmp_path / "own.csv", ["q", "kind", "safe", "same", "where"], ["A", "z", "B", "x", ""], ["C", "", "", "x", ""]
    )
    with pytest.raises(SuiteError) as caught:
        build_suite(path, **changes)  # type: ignore[arg-type]  # the parameters are of several types
    assert says in caught.value.diagnostics()


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("t.csv", b"prompt,id\na\n", "t.csv:2: the row does not fit"),
        ("t.csv", b'prompt\n"a\nb"\nc,d\n', "t.csv:4: the row does not fit"),
        ("t.csv", b"prompt,prompt\na,b\n", "t.csv:1: a column occurs twice"),
        ("t.csv", b"prompt\n\xff\xfe\n", "not readable as text"),
        ("t.csv", b"prompt\n", "no rows"),
        ("t.csv", b"", "no rows"),
        ("t.csv", b"\xef\xbb\xbfid\nx\n", "no column 'prompt'"),
        ("t.jsonl", b'{"prompt":"a"}\n{', "t.jsonl:2: not JSON"),
        ("t.jsonl", b'"a"\n', "t.jsonl:1: not an object"),
        ("t.jsonl", b'{"prompt":"\\ud800"}\n', "t.jsonl:1: half of a surrogate pair"),
        ("t.json", b'{"prompt":"a"}', "not a list"),
        ("t.parquet", b"PAR1 no", "not Parquet"),
        ("t.xlsx", b"x", "not a table that can be read"),
    ],
)
def test_a_damaged_table_is_refused_with_its_line(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    """Rows that do not fit, text that is no text, half JSON and unknown endings are SuiteErrors that say where."""
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(SuiteError) as caught:
        build_suite(path)
    assert says in caught.value.problem
    assert caught.value.mend


def test_a_parquet_file_with_a_date_that_is_none_is_refused(tmp_path: Path) -> None:
    """A time stamp beyond the year 9999, in a column that nobody maps, is an error about the file."""
    import pyarrow
    import pyarrow.parquet

    columns = {"prompt": ["Wear a hat"], "at": pyarrow.array([2**62], pyarrow.timestamp("us"))}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    with pytest.raises(SuiteError, match="not Parquet") as caught:
        build_suite(tmp_path / "t.parquet")
    assert "out of range" in caught.value.found


def test_a_damaged_parquet_file_is_the_files_fault(tmp_path: Path) -> None:
    """Cut short anywhere, with a page's head overwritten, or other text than its checksum's: code 2, not the disk's failure."""
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "t.parquet"
    table = pyarrow.table({"prompt": [f"Wear a hat {number}" for number in range(50)]})
    pyarrow.parquet.write_table(table, path, compression="none", use_dictionary=False, write_page_checksum=True)
    whole = path.read_bytes()
    turned = whole.replace(b"hat 7", b"hat 6", 1)
    assert turned != whole
    damaged = [*(whole[:size] for size in range(0, len(whole), 97)), whole[:4] + b"\xff" * 16 + whole[20:], turned]
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(SuiteError, match="not Parquet, or damaged") as caught:
            build_suite(path)
        assert caught.value.exit_code is ExitCode.USAGE
        assert str(path) in caught.value.problem


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".json", ".parquet"])
def test_a_file_that_the_disk_does_not_give_is_the_disks_failure(tmp_path: Path, ending: str) -> None:
    """A read that fails is code 5 in every format: `/proc/self/mem` is a file whose first byte can't be read."""
    (tmp_path / f"t{ending}").symlink_to("/proc/self/mem")
    with pytest.raises(InfrastructureError, match="cannot be read"):
        build_suite(tmp_path / f"t{ending}")


def test_a_byte_order_mark_is_not_part_of_the_first_column(tmp_path: Path) -> None:
    """A CSV saved by a spreadsheet reads like any other."""
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfprompt\nhello\n")
    assert build_suite(tmp_path / "t.csv").items[0].messages[0].content == "hello"


def test_a_suite_without_gating_behaviours_is_told_of(tmp_path: Path) -> None:
    """When no row falls to the gating split the builder says so; when one does it is silent."""
    path = write_csv(tmp_path / "t.csv", ["prompt"], ["Wear a hat"])
    notes: list[str] = []
    build_suite(path, split=Split.GATING, note=notes.append)
    assert notes == []
    build_suite(path, split=Split.TUNING, note=notes.append)
    assert len(notes) == 1
    assert "gating" in notes[0]


def test_missing_files_are_named(tmp_path: Path) -> None:
    """A path that does not exist, and a folder without the set's file, are refused by path."""
    with pytest.raises(SuiteError, match=r"nothing\.csv"):
        build_suite(tmp_path / "nothing.csv")
    with pytest.raises(SuiteError, match=r"harmful_behaviors\.csv"):
        build_suite(tmp_path, "advbench")


def test_rows_without_an_attack_do_not_make_behaviours(tmp_path: Path) -> None:
    """A benign prompt without an attack is left out of the frames and told of; nothing but such rows is an error."""
    notes: list[str] = []
    path = write_csv(tmp_path / "t.csv", ["prompt", "role", "id"], ["A", "attack", "a"], ["B", "twin", "b"])
    suite = build_suite(path, frames=True, split=Split.GATING, note=notes.append)
    assert {item.behaviour for item in suite.items} == {"a"}
    assert notes == ["1 benign prompts have no attack of the same id and were left out"]
    write_csv(path, ["prompt", "role"], ["B", "twin"])
    with pytest.raises(SuiteError, match="no attack among"):
        build_suite(path, frames=True)


@pytest.mark.parametrize(
    "source", ["hf://datasets/org/name/f.csv", "hf://org/name@v1/f.csv", "hf://datasets/o/n@v1/../f.csv", "hf://datasets/o/n@v1/"]
)
def test_a_hub_name_needs_its_revision_and_file(source: str) -> None:
    """A hub source without a revision or a file, of a model, or with a path upwards is refused with the form expected."""
    with pytest.raises(SuiteError) as caught:
        build_suite(source)
    assert caught.value.expected == "hf://datasets/org/name@revision/path/to/file"


def test_an_unreachable_hub_is_an_infrastructure_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline and not in the cache: the error asks for a retry (exit code 5), not for another command."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InfrastructureError) as caught:
        build_suite("hf://datasets/taskgate-tests/never-published@v1/f.csv")
    assert caught.value.exit_code == 5
    assert "HF_HUB_OFFLINE" in caught.value.mend
