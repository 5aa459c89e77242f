"""What of a suite's text is its requests' own: items go in, the 13-grams that frames and transforms do not account for come out.

A frame or a transform puts the same words around many behaviours; a gram that occurs with more than `FEW` says nothing of any.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from gate.ngrams import Grams, grams
from gate.records import SuiteItem

FEW: Final = 2
"""Behaviours (of one role) that share a gram which still counts as theirs."""


def particular(items: Sequence[SuiteItem]) -> Grams:
    """The grams of the items' turns that occur with at most `FEW` behaviours, sorted."""
    seen: dict[tuple[str, str], list[Grams]] = {}
    for item in items:
        seen.setdefault((item.behaviour, item.role), []).extend(grams(text) for text in texts_of(item))
    if not seen:
        return np.zeros(0, dtype=np.uint64)
    each = [np.unique(np.concatenate(found)) for found in seen.values() if found]
    values, counts = np.unique(np.concatenate(each), return_counts=True)
    return values[counts <= FEW]


def texts_of(item: SuiteItem) -> Iterable[str]:
    """The words that an item asks."""
    return (turn.content for turn in item.messages)
