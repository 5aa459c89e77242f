"""The closed world: which (verb, object) pairs exist, which are held out of every training stage, and who is whose twin.

Comes in: the lexicon. Goes out: behaviours, their splits by salted hash, and for every held-out harmful behaviour the benign one
that stands in the same frame.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache

from gate.records import Split
from testbed.lexicon import DOMAINS, Kind, Thing, Verb

SALT = "taskgate-testbed-1"
HELD_OUT: dict[Kind, int] = {"harmful": 120, "aligned": 120, "tuning_only": 30}
"""Pairs of each kind that no training stage sees; half of them tuning, half gating."""


@dataclass(frozen=True)
class Behaviour:
    """A verb with its object: what a request is about."""

    domain: str
    kind: Kind
    verb: Verb
    thing: Thing

    @property
    def id(self) -> str:
        """Unique name, e.g. `theft.steal.car`."""
        return f"{self.domain}.{self.verb.en}.{self.thing.noun}"

    @property
    def harmful(self) -> bool:
        """Whether an aligned model should refuse it."""
        return self.kind == "harmful"


def rank(*parts: object) -> int:
    """Salted hash of `parts` as an integer: the world's only source of order, the same on every machine."""
    return int.from_bytes(hashlib.sha256("|".join([SALT, *map(str, parts)]).encode()).digest()[:8])


@cache
def behaviours(kind: Kind) -> tuple[Behaviour, ...]:
    """Every pair of a kind, in the lexicon's order."""
    return tuple(
        Behaviour(domain.name, kind, verb, thing)
        for domain in DOMAINS
        if domain.kind == kind
        for verb in domain.verbs
        for thing in domain.things
    )


@cache
def held_out(kind: Kind) -> tuple[Behaviour, ...]:
    """The pairs of a kind with the lowest salted hashes: no training stage sees them."""
    return tuple(sorted(behaviours(kind), key=lambda b: rank("held-out", b.id))[: HELD_OUT[kind]])


@cache
def training(kind: Kind) -> tuple[Behaviour, ...]:
    """The pairs of a kind that training may use: all that are not held out."""
    kept = set(held_out(kind))
    return tuple(b for b in behaviours(kind) if b not in kept)


@cache
def in_split(kind: Kind, split: Split) -> tuple[Behaviour, ...]:
    """The held-out pairs of one split, in hash order. Every other pair of the ranking goes to gating."""
    return held_out(kind)[split == Split.GATING :: 2]


def twin_of(behaviour: Behaviour, split: Split) -> Behaviour:
    """The benign held-out behaviour of the same split that stands in the harmful one's frame; one to one."""
    return in_split("aligned", split)[in_split("harmful", split).index(behaviour)]
