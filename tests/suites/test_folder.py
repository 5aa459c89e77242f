"""Claims about suites on disk: round trip, determinism, and an error with file and line for each kind of damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gate.errors import SuiteError
from gate.records import Message, Role, Split, SuiteItem, Task, sha256_hex
from gate.suites import load_suite, write_suite
from gate.suites.base import Suite


def item(name: str, **changes: object) -> SuiteItem:
    fields: dict[str, object] = {
        "id": name,
        "task": Task.TEXT_GENERATION,
        "behaviour": name.split("/", maxsplit=1)[0],
        "category": "defamation",
        "role": Role.ATTACK,
        "transform": "direct",
        "split": Split.GATING,
        "messages": (Message(role="user", content=f"Say {name}."),),
    }
    return SuiteItem.model_validate({**fields, **changes})


def small_suite(*items: SuiteItem) -> Suite:
    return Suite(
        name="small",
        version="1",
        languages=("en",),
        system_prompt="Be kind.",
        items=items or (item("b1/a"), item("b2/ä", prefill="Sure")),
    )


@pytest.mark.parametrize("compress", [False, True])
def test_a_written_suite_reads_back_equal(tmp_path: Path, compress: bool) -> None:
    """A suite read back from its folder equals the one written, with the same digest, plain or gzipped."""
    suite = small_suite()
    write_suite(suite, tmp_path / "s", compress=compress)
    back = load_suite("s", relative_to=tmp_path)
    assert back == suite
    assert back.digest == suite.digest


@pytest.mark.parametrize("compress", [False, True])
def test_writing_twice_gives_the_same_bytes(tmp_path: Path, compress: bool) -> None:
    """Two writes of one suite give the same files byte for byte."""
    for name in ("one", "two"):
        write_suite(small_suite(), tmp_path / name, compress=compress)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) == 2
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def damage_lines(folder: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Change the items' lines and mend the digest, so that only the change itself is wrong."""
    path = folder / "items.jsonl"
    data = b"\n".join(change(path.read_bytes().splitlines())) + b"\n"
    path.write_bytes(data)
    header = json.loads((folder / "suite.json").read_text())
    header["items_sha256"] = sha256_hex(data)
    (folder / "suite.json").write_text(json.dumps(header))


@pytest.mark.parametrize(
    ("change", "where", "says"),
    [
        (lambda lines: [lines[0], b"{"], "items.jsonl:2", "not JSON"),
        (lambda lines: [lines[0], b"[]"], "items.jsonl:2", "not a JSON object"),
        (lambda lines: [lines[0], lines[1].replace(b'"task"', b'"taks"')], "items.jsonl:2", "task"),
        (lambda lines: [lines[0], lines[1].replace(b'"role":"attack"', b'"role":"atack"')], "items.jsonl:2", "role"),
        (lambda lines: [lines[0].replace(b'"split"', b'"splitt":1,"split"'), lines[1]], "items.jsonl:1", "'split'?"),
        (lambda lines: [lines[0], lines[0]], "items.jsonl:2", "id occurs twice"),
        (lambda lines: [lines[0], lines[0].replace(b'"id":"b1/a"', b'"id":"z"')], "items.jsonl:2", "same prompt occurs twice"),
        (lambda lines: lines[:1], "suite.json", "counts."),
    ],
)
def test_damage_is_named_with_file_and_line(
    tmp_path: Path, change: Callable[[list[bytes]], list[bytes]], where: str, says: str
) -> None:
    """Each kind of damaged item is refused with the file, the line and what is wrong."""
    write_suite(small_suite(), tmp_path)
    damage_lines(tmp_path, change)
    with pytest.raises(SuiteError) as caught:
        load_suite(tmp_path)
    assert where in caught.value.problem
    assert says in caught.value.diagnostics()
    assert caught.value.expected
    assert caught.value.mend


def test_items_that_the_header_does_not_name_are_refused(tmp_path: Path) -> None:
    """One changed byte in the items file is a digest mismatch that shows both digests."""
    write_suite(small_suite(), tmp_path)
    path = tmp_path / "items.jsonl"
    path.write_bytes(path.read_bytes().replace(b"Say b1", b"Say b9"))
    with pytest.raises(SuiteError) as caught:
        load_suite(tmp_path)
    assert caught.value.expected.startswith("SHA-256 ")
    assert caught.value.found == f"SHA-256 {sha256_hex(path.read_bytes())}"


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("format", "taskgate/suite/v9", "taskgate/suite/v1"),
        ("items", "../items.jsonl", "items"),
        ("sistem_prompt", "x", "'system_prompt'?"),
        ("system_prompt", "", "system_prompt"),
    ],
)
def test_a_wrong_header_is_refused(tmp_path: Path, key: str, value: str, says: str) -> None:
    """An unknown format, a path out of the folder, an unknown key and an empty system prompt are each refused by name."""
    path = write_suite(small_suite(), tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(SuiteError) as caught:
        load_suite(tmp_path)
    assert says in caught.value.diagnostics()


def test_a_gzip_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    """A truncated items.jsonl.gz is a SuiteError, not a traceback."""
    write_suite(small_suite(), tmp_path, compress=True)
    path = tmp_path / "items.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(SuiteError, match="cannot be read"):
        load_suite(tmp_path)


def test_an_unknown_name_says_what_was_looked_for(tmp_path: Path) -> None:
    """A name that is neither built in nor a folder is refused with the path that was looked at."""
    with pytest.raises(SuiteError) as caught:
        load_suite("no-such", relative_to=tmp_path)
    assert str(tmp_path / "no-such") in caught.value.found


def test_an_attack_and_its_twin_may_share_words_but_one_role_may_not(tmp_path: Path) -> None:
    """Writing refuses a suite in which one role asks the same thing twice in one task."""
    same = (Message(role="user", content="Say it."),)
    write_suite(small_suite(item("a", messages=same), item("b", messages=same, role=Role.TWIN)), tmp_path / "ok")
    with pytest.raises(SuiteError, match="same prompt"):
        write_suite(small_suite(item("a", messages=same), item("b", messages=same)), tmp_path / "bad")


def test_a_changed_copy_has_a_digest_of_its_own() -> None:
    """A suite whose digest was asked for, copied with other items, has the digest of these items; the original keeps its own."""
    suite = small_suite()
    before = suite.digest
    changed = suite.model_copy(update={"items": suite.items[:1]})
    assert changed.digest == small_suite(*suite.items[:1]).digest != before
    assert suite.digest == before
