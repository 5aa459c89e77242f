"""Which folder's tokenizer is a candidate's: folders come in, the first that has one goes out. One rule for all."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

VOCABULARY_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt")
"""Files that hold tokens. `tokenizer_config.json` holds none: alone it is no tokenizer."""
_SETS = ({"tokenizer.json"}, {"tokenizer.model"}, {"vocab.json", "merges.txt"}, {"vocab.txt"})
"""Any of these is a whole vocabulary."""


def vocabulary_files(folder: Path) -> tuple[str, ...]:
    """The names of the folder's vocabulary files; empty when they make no whole vocabulary."""
    there = tuple(name for name in VOCABULARY_FILES if (folder / name).is_file())
    return there if any(whole <= set(there) for whole in _SETS) else ()


def tokenizer_folder(places: Iterable[Path]) -> Path | None:
    """The first of a candidate's folders (an adapter's own, then its base's) with a whole vocabulary; None when none has one."""
    return next((place for place in places if vocabulary_files(place)), None)
