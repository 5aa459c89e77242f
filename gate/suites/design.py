"""A balanced incomplete block design: which transforms each behaviour gets in each task. Counts come in, blocks go out.

Crossing everything would ask 10 transforms × 5 tasks of every behaviour. Instead each behaviour (a block) gets `size` of the
`count` transforms, so that every transform occurs equally often and every pair of transforms shares a behaviour equally
often: then transforms can be compared with one another, and tasks too, on the same behaviours.
"""

from __future__ import annotations

from itertools import combinations

from gate.suites.behaviours import salted


def balanced_blocks(blocks: int, count: int, size: int, salt: str) -> list[tuple[int, ...]]:
    """`blocks` sorted tuples of `size` numbers below `count`; over any prefix the numbers and their pairs are near balance.

    Chosen block by block: of all possible blocks the one whose numbers, then whose pairs, were left out least so far; a
    salted hash breaks ties. Numbers occur equally often within 1 and pairs within 4 over any prefix (tested).
    Raises `ValueError` when `size` is not in 1…`count`.
    """
    if not 1 <= size <= count:
        raise ValueError(f"a block of {size} out of {count}")
    # Balance of what is left out is balance of what is taken, and the left-out sets are the smaller ones.
    outside = sorted(combinations(range(count), count - size), key=lambda left: salted(repr(left), salt))
    singles = [0] * count
    pairs = [[0] * count for _ in range(count)]
    chosen: list[tuple[int, ...]] = []
    for _ in range(blocks):
        left = min(outside, key=lambda s: (sum(singles[i] for i in s), sum(pairs[i][j] for i, j in combinations(s, 2))))
        for i in left:
            singles[i] += 1
        for i, j in combinations(left, 2):
            pairs[i][j] += 1
        chosen.append(tuple(i for i in range(count) if i not in left))
    return chosen
