"""The testbed: a tiny model, trained from scratch on a closed world, whose refusals really break under harmless fine-tuning.

Comes in: nothing. Goes out: where the shipped weights and the suite lie.
"""

from __future__ import annotations

from pathlib import Path

WEIGHTS: Path = Path(__file__).resolve().parent / "weights"
"""Folder of the shipped checkpoints and adapters, one folder each."""

SUITE: Path = Path(__file__).resolve().parent / "suite"
"""Folder of the testbed's own suite: `suite.json` and its items."""
