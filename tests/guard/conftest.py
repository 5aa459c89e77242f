"""Fixtures of the guard's tests: one small bundle that all of them read."""

from pathlib import Path

import pytest

from tests.guard.tiny_bundle import write_tiny_bundle


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unsigned fp32 bundle; read it, don't write to it (`write_tiny_bundle` makes one of your own)."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")
