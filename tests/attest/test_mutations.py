"""Every field of envelope, statement and model folder, changed in turn: nothing that was changed is verified."""

from __future__ import annotations

import base64
import copy
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gate.attest.envelope import sign
from gate.attest.predicates import derived
from gate.attest.statement import SafetyEvaluationStatement, Statement, read_statement
from gate.errors import RefusedAttestation
from gate.records import canonical_json
from tests.attest.runs import evidence_of, key_number, signed, statements_of, trusted, verified

Place = tuple[str | int, ...]


def mutations(value: Any, place: Place = ()) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - any JSON
    """Every JSON that differs from `value` in one place: a leaf changed; a field or entry gone, new, renamed, doubled, moved."""
    name = "/".join(map(str, place))
    if isinstance(value, dict):
        for key in value:
            rest = {k: v for k, v in value.items() if k != key}
            yield f"{name}/{key} gone", rest
            yield f"{name}/{key} renamed", {**rest, f"{key}X": value[key]}
            yield from ((told, {**value, key: inner}) for told, inner in mutations(value[key], (*place, key)))
        yield f"{name} with a field more", {**value, "more": 1}
    elif isinstance(value, list):
        for i in range(len(value)):
            yield f"{name}/{i} dropped", value[:i] + value[i + 1 :]
            yield f"{name}/{i} doubled", value[: i + 1] + value[i:]
            yield from ((told, [*value[:i], inner, *value[i + 1 :]]) for told, inner in mutations(value[i], (*place, i)))
        if len(value) > 1 and value[0] != value[-1]:
            yield f"{name} turned round", value[::-1]
        yield f"{name} with an entry more", [*value, "more"]
    else:
        yield from ((f"{name} changed", other) for other in _others(value))


def _others(value: Any) -> Iterator[Any]:  # noqa: ANN401 - any JSON
    if isinstance(value, bool) or value is None:
        yield from (not value, "x")
    elif isinstance(value, int | float):
        yield from (value + 1, str(value), None)
    else:
        assert isinstance(value, str)
        yield from (value + "0", value[:-1] + chr(ord(value[-1]) ^ 1) if value else "x", value.swapcase(), f" {value}", None)


def refused(attestation: bytes, said: tuple[Statement, ...], model: Path) -> str:
    """The check that refuses; `verified` where none does."""
    try:
        verified(attestation, trusted(said), model)
    except RefusedAttestation as refusal:
        return refusal.check
    return "verified"


def lines_of(attestation: bytes) -> list[dict[str, Any]]:
    """The envelopes as JSON."""
    return [json.loads(line) for line in attestation.splitlines()]


def joined(lines: list[dict[str, Any]]) -> bytes:
    """Envelopes as a file."""
    return b"".join(canonical_json(line) + b"\n" for line in lines)


def test_every_change_of_an_envelope_is_found(attestation: bytes, said: tuple[Statement, ...], model: Path) -> None:
    """Payload, type, key id and signature of each line, each changed, dropped, renamed or doubled: refused."""
    tried = 0
    for number, line in enumerate(lines_of(attestation)):
        for what, changed in mutations(line):
            if changed == line:
                continue
            lines = lines_of(attestation)
            lines[number] = changed
            assert refused(joined(lines), said, model) in ("key", "attestation"), f"line {number}: {what}"
            tried += 1
    assert tried >= 3 * 25


def test_an_envelope_has_one_form(attestation: bytes, said: tuple[Statement, ...], model: Path) -> None:
    """The same envelope with a space, with fields in another order, or with a field twice, the true one last, is refused."""
    first, rest = attestation.split(b"\n", 1)
    line = json.loads(first)
    twice = b'{"payload":"AAAA",' + first[1:]
    assert json.loads(twice) == line
    turned = json.dumps(dict(reversed(line.items())), separators=(",", ":")).encode()
    for other in (first.replace(b":", b": ", 1), b" " + first, first + b" ", turned, twice):
        assert refused(other + b"\n" + rest, said, model) == "attestation", other[:40]


def test_base64_has_one_form(attestation: bytes, said: tuple[Statement, ...], model: Path) -> None:
    """The same bytes in another spelling of base64 are refused: line breaks, missing padding, unused bits set."""
    for field in ("payload", "sig"):
        for respell in (lambda t: t + "\n", lambda t: t.rstrip("="), lambda t: t + "=", _with_unused_bits):
            lines = lines_of(attestation)
            holder = lines[0] if field == "payload" else lines[0]["signatures"][0]
            before = holder[field]
            holder[field] = respell(before)
            if holder[field] != before:
                assert refused(joined(lines), said, model) == "key"


def _with_unused_bits(text: str) -> str:
    """The last digit before the padding, changed so that a lenient decoder reads the same bytes."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    body = text.rstrip("=")
    if body == text:
        return text
    other = body[:-1] + alphabet[alphabet.index(body[-1]) ^ 1] + text[len(body) :]
    assert base64.b64decode(other) == base64.b64decode(text)
    return other


def test_every_change_of_a_statement_is_found(attestation: bytes, said: tuple[Statement, ...], model: Path) -> None:
    """Each field of each statement, changed under the old signature: refused for its key."""
    tried = 0
    for number, line in enumerate(lines_of(attestation)):
        statement = json.loads(base64.b64decode(line["payload"]))
        for what, changed in mutations(statement):
            if changed == statement:
                continue
            lines = lines_of(attestation)
            lines[number]["payload"] = base64.b64encode(canonical_json(changed)).decode()
            assert refused(joined(lines), said, model) == "key", f"line {number}: {what}"
            tried += 1
    assert tried > 500


def test_every_change_is_found_though_the_key_signs_it(attestation: bytes, said: tuple[Statement, ...], model: Path) -> None:
    """Each field of each statement, changed and signed again by the trusted key alone: the lines contradict each other."""
    tried = 0
    for number in range(len(said)):
        statement = json.loads(said[number].payload())
        for what, changed in mutations(statement):
            if changed == statement:
                continue
            lines = attestation.splitlines(keepends=True)
            lines[number] = sign([canonical_json(changed)], key_number())
            assert refused(b"".join(lines), said, model) in ("predicate type", "verifier", "subject"), f"line {number}: {what}"
            tried += 1
    assert tried > 500


CHECKED = {
    "subject": lambda s: s["subject"][0]["digest"].update(sha256="0" * 64),
    "the folder's digest": lambda s: s["predicate"]["candidate"]["folder"].update(sha256="0" * 64),
    "a file's digest": lambda s: s["predicate"]["candidate"]["folder"]["files"][0].update(sha256="0" * 64),
    "a file's size": lambda s: s["predicate"]["candidate"]["folder"]["files"][0].update(size=7),
    "a file's name": lambda s: s["predicate"]["candidate"]["folder"]["files"][0].update(path="config.jsoo"),
    "a file more": lambda s: s["predicate"]["candidate"]["folder"]["files"].append({"path": "x", "size": 0, "sha256": "0" * 64}),
    "the verifier": lambda s: s["predicate"]["verifier"].update(id="https://example.com/somebody"),
    "the suite": lambda s: s["predicate"]["suite"]["digest"].update(sha256="0" * 64),
    "the policy": lambda s: s["predicate"]["policy"]["digest"].update(sha256="0" * 64),
    "the time": lambda s: s["predicate"].update(timeCreated="2025-01-01T00:00:00Z"),
    "the run's date": lambda s: s["predicate"].update(evaluatedOn="2025-01-01"),
    "the decision": lambda s: s["predicate"].update(decision="inconclusive"),
    "a base": lambda s: s["predicate"]["candidate"].update(base=copy.deepcopy(s["predicate"]["candidate"]["folder"])),
    "the kind": lambda s: s["predicate"]["candidate"].update(kind="adapter"),
}


@pytest.mark.parametrize("what", CHECKED)
def test_a_consistent_lie_by_the_key_fails_its_own_check(what: str, said: tuple[Statement, ...], model: Path) -> None:
    """What verify compares, changed with all that follows from it and signed anew by the trusted key, is refused."""
    change: Callable[[dict[str, Any]], object] = CHECKED[what]
    raw = json.loads(evidence_of(said).payload())
    change(raw)
    evidence = read_statement(canonical_json(raw))
    assert isinstance(evidence, SafetyEvaluationStatement)
    check = refused(signed((evidence, *derived(evidence))), said, model)
    assert check in ("subject", "verifier", "policy", "suite", "age", "decision")


def test_every_change_of_the_folder_is_found(
    attestation: bytes, said: tuple[Statement, ...], model: Path, tmp_path: Path
) -> None:
    """Each file with a bit flipped, a byte more or less, emptied, gone, renamed in place of the order or not; files more."""
    names = sorted(file.name for file in model.iterdir())
    for number, (what, change) in enumerate(_folder_changes(names)):
        folder = shutil.copytree(model, tmp_path / str(number))
        change(folder)
        assert refused(attestation, said, folder) == "subject", what
    assert refused(attestation, said, shutil.copytree(model, tmp_path / "untouched")) == "verified"


def _folder_changes(names: list[str]) -> Iterator[tuple[str, Callable[[Path], None]]]:
    for name in names:
        for what, change in CHANGES.items():
            yield f"{name}: {what}", partial(_at, change, name)
    for name, other in itertools.pairwise(names):
        yield f"{name} and {other}: contents exchanged", partial(_exchange, name, other)
    for name in ("more.json", "zz", ".hidden", "sub/more.json", "sub/.git", "model.sig.json"):
        yield f"{name} more", partial(_more, name)


def _at(change: Callable[[Path], None], name: str, folder: Path) -> None:
    change(folder / name)


def _flip(place: int, file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


def _longer(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\n")


def _shorter(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _emptied(file: Path) -> None:
    file.write_bytes(b"")


def _renamed(file: Path) -> None:
    file.rename(file.with_name(f"{file.name}."))


def _moved(file: Path) -> None:
    (file.parent / "sub").mkdir()
    file.rename(file.parent / "sub" / file.name)


CHANGES: dict[str, Callable[[Path], None]] = {
    "first bit": partial(_flip, 0),
    "last bit": partial(_flip, -1),
    "a byte more": _longer,
    "a byte less": _shorter,
    "empty": _emptied,
    "gone": Path.unlink,
    "renamed, the order kept": _renamed,
    "in a folder": _moved,
}


def _exchange(one: str, other: str, folder: Path) -> None:
    first, second = (folder / one).read_bytes(), (folder / other).read_bytes()
    (folder / one).write_bytes(second)
    (folder / other).write_bytes(first)


def _more(name: str, folder: Path) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"")


def test_every_change_of_a_base_is_found(passed_adapter: Path, adapter: Path, model: Path, tmp_path: Path) -> None:
    """An adapter's base, changed in any file or file name, is refused."""
    said = statements_of(passed_adapter)
    attestation, trust = signed(said), trusted(said)
    assert verified(attestation, trust, adapter, model)
    for number, (what, change) in enumerate(_folder_changes(sorted(file.name for file in model.iterdir()))):
        base = shutil.copytree(model, tmp_path / str(number))
        change(base)
        with pytest.raises(RefusedAttestation) as caught:
            verified(attestation, trust, adapter, base)
        assert caught.value.check == "subject", what
