"""What can be wrong with a history."""

from __future__ import annotations

from gate.errors import UsageError


class HistoryError(UsageError):
    """The history cannot be used as given, or holds no such run."""
