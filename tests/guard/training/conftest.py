"""One exported tiny guard for all tests that need no more than that."""

from pathlib import Path

import pytest

from guard_server.training.export import run_export
from tests.guard.training.guards import save_guard


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `GuardModel.save` writes it: BERT, random weights."""
    return save_guard(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="session")
def exported(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its export: model.onnx and tokenizer.json. Not to be written to."""
    folder = tmp_path_factory.mktemp("export")
    run_export(tiny_model, folder)
    return folder
