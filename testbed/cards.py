"""Training cards: what a stage was made from, written beside its weights.

Comes in: a model folder. Goes out: its card, and the versions of the libraries that make one.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

CARD = "training_card.json"


def read_card(folder: Path) -> dict[str, Any]:
    """The training card of a folder."""
    card: dict[str, Any] = json.loads((folder / CARD).read_text())
    return card


def versions() -> dict[str, str]:
    """Versions of the libraries that decide what a training run gives."""
    return {name: version(name) for name in ("torch", "transformers", "peft", "tokenizers", "safetensors")}
