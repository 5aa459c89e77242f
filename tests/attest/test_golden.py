"""Attestations of every version that ever signed one, against the code of today."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from gate.attest.statement import Statement, read_statement
from gate.errors import RefusedAttestation
from tests.attest.golden import GOLDEN
from tests.attest.runs import trusted, verified

FILES = sorted(GOLDEN.glob("*/*.intoto.jsonl"))
FOLDERS = {"pass": "model", "block": "model", "adapter": "adapter"}


def statements_in(file: Path) -> tuple[Statement, ...]:
    """What the file says, whoever signed it."""
    return tuple(read_statement(base64.b64decode(json.loads(line)["payload"])) for line in file.read_bytes().splitlines())


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.name}")
def test_an_old_attestation_is_still_verified(file: Path) -> None:
    """A pass of an earlier version is verified as on its day; a block is refused for its decision and nothing else."""
    name = file.name.partition(".")[0]
    said = statements_in(file)
    base = GOLDEN / "model" if name == "adapter" else None
    if name == "block":
        with pytest.raises(RefusedAttestation) as caught:
            verified(file.read_bytes(), trusted(said), GOLDEN / FOLDERS[name])
        assert caught.value.check == "decision"
    else:
        assert verified(file.read_bytes(), trusted(said), GOLDEN / FOLDERS[name], base).decision == "pass"


def test_there_are_golden_files_of_every_kind() -> None:
    """Each version's folder holds a pass, a block and an adapter."""
    versions = {file.parent.name for file in FILES}
    assert versions
    for version in versions:
        assert {file.name.partition(".")[0] for file in FILES if file.parent.name == version} == set(FOLDERS)
