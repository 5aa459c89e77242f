"""Training cards and folder digests: what a stage was made from, written beside its weights.

Comes in: a model folder. Goes out: its card, its root digest, and the versions of the libraries that made it.
"""

from __future__ import annotations

import hashlib
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


def root_digest(folder: Path) -> str:
    """SHA-256 over the digests of model-signing's manifest of `folder`, in identifier order."""
    import model_signing

    manifest = model_signing.hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=True).hash(folder)
    resources = sorted(manifest.resource_descriptors(), key=lambda r: r.identifier)
    return hashlib.sha256(b"".join(r.digest.digest_value for r in resources)).hexdigest()
