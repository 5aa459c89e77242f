"""Claims about the balanced incomplete block design."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.suites.design import balanced_blocks


@settings(max_examples=25, deadline=None)
@given(blocks=st.integers(0, 90), shape=st.sampled_from([(10, 7), (8, 7), (10, 4), (7, 7), (5, 1)]), salt=st.text(max_size=5))
def test_numbers_and_pairs_are_balanced_over_any_number_of_blocks(blocks: int, shape: tuple[int, int], salt: str) -> None:
    """Every number occurs equally often (± 1) and every pair nearly so (± 4), whatever the number of blocks and the salt."""
    count, size = shape
    made = balanced_blocks(blocks, count, size, salt)
    assert len(made) == blocks
    assert all(len(set(block)) == size and list(block) == sorted(block) for block in made)
    singles = Counter(i for block in made for i in block)
    spread = [singles[i] for i in range(count)]
    assert max(spread) - min(spread) <= 1
    pairs = Counter(pair for block in made for pair in combinations(block, 2))
    together = [pairs[pair] for pair in combinations(range(count), 2)]
    assert max(together) - min(together) <= 4


def test_the_design_is_reproducible_and_follows_the_salt() -> None:
    """The same salt gives the same blocks, another salt other ones."""
    assert balanced_blocks(20, 10, 7, "a") == balanced_blocks(20, 10, 7, "a")
    assert balanced_blocks(20, 10, 7, "a") != balanced_blocks(20, 10, 7, "b")


@pytest.mark.parametrize("size", [0, 11])
def test_a_block_that_does_not_fit_is_refused(size: int) -> None:
    """A block of none, or of more than there are, is a ValueError."""
    with pytest.raises(ValueError, match="out of 10"):
        balanced_blocks(3, 10, size, "a")
