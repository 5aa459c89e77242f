"""Programs that a test drives and that are no Python packages of ours: found, or the test is skipped. CI has them all."""

import os
import shutil
from pathlib import Path

import pytest


def program(*names: str, package: str) -> Path:
    """The first of the named programs that is installed; `package` is Debian's name for what is missing."""
    for name in names:
        if found := shutil.which(name):
            return Path(found)
    pytest.skip(f"{names[0]} is not installed (Debian: {package})")


def litellm_proxy() -> Path:
    """LiteLLM's command in the environment that `make test` makes for it."""
    path = Path(os.environ.get("TASKGATE_LITELLM", ""))
    if not path.is_file():
        pytest.skip("LiteLLM's proxy is not installed: `make test` makes its environment and sets TASKGATE_LITELLM")
    return path
