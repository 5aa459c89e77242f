"""Model folders and runs that every test of attestations starts from; read, never written to."""

from __future__ import annotations

from pathlib import Path

import pytest

from gate.attest.statement import Statement
from gate.conformance.scene import Model, unsafe
from tests.attest.runs import run_of, signed, statements_of
from tests.candidate_folders import make_adapter, make_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder."""
    return make_model(tmp_path_factory.mktemp("attest") / "my-model")


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """An adapter folder on `model`."""
    return make_adapter(tmp_path_factory.mktemp("attest") / "my-adapter", model)


@pytest.fixture(scope="session")
def passed(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """The run of `model`, aligned."""
    return run_of(model, tmp_path_factory.mktemp("attest") / "run")


@pytest.fixture(scope="session")
def blocked(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """A run of `model` in which it answers everything."""
    return run_of(model, tmp_path_factory.mktemp("attest") / "run", Model("unsafe", unsafe))


@pytest.fixture(scope="session")
def passed_adapter(tmp_path_factory: pytest.TempPathFactory, adapter: Path, model: Path) -> Path:
    """The run of `adapter`, aligned."""
    return run_of(adapter, tmp_path_factory.mktemp("attest") / "run", base=model)


@pytest.fixture(scope="session")
def said(passed: Path) -> tuple[Statement, ...]:
    """What is said of the run that passed."""
    return statements_of(passed)


@pytest.fixture(scope="session")
def attestation(said: tuple[Statement, ...]) -> bytes:
    """The same, signed by the first test key."""
    return signed(said)
