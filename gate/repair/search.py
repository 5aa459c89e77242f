"""Which of a method's settings to try next, and when to stop. Pure but for `attempt`, which makes and gates one setting.

In: the settings, smallest change first, and what each attempt comes to. Out: the smallest change that passes, or null.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import assert_never

from gate.repair.base import Search, Setting
from gate.repair.card import Try

Attempt = Callable[[Setting], Try]


def search(how: Search, settings: Sequence[Setting], attempt: Attempt) -> Try | None:
    """The setting that passes with the least change."""
    match how:
        case "climb":
            return next((tried for setting in settings if (tried := attempt(setting)).passed), None)
        case "bisect":
            return _bisect(settings, attempt)
        case _:
            assert_never(how)


def _bisect(settings: Sequence[Setting], attempt: Attempt) -> Try | None:
    """Halve: on after a setting that answers too much, back after one that passes or was changed too much.

    Right where safety rises along the settings; ⌈log₂(n + 1)⌉ attempts.
    """
    best, low, high = None, 0, len(settings)
    while low < high:
        middle = (low + high) // 2
        tried = attempt(settings[middle])
        if tried.too_weak:
            low = middle + 1
        else:
            best, high = (tried if tried.passed else best), middle
    return best


def most_attempts(how: Search, number: int) -> int:
    """How many attempts a search of so many settings takes at most."""
    return number if how == "climb" else number.bit_length()
