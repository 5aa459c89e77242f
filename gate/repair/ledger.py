"""What repairs of one run have spent of the policy's error on the held-out half: `repairs.json` in the blocked run's folder.

Choosing a setting on the tuning half costs nothing here. Each further candidate that is put to the held-out half is a look, and
look k may pass wrongly with probability at most α ÷ (k (k + 1)) alone. These sum to α over all looks there will ever be, so some
repair of a run that is over a limit passes with probability at most α, however the repairs were chosen (`docs/statistics.md`).
A look is written down before the first answer is asked, and one candidate's looks are one look: a repeated command spends
nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from gate.json_lines import write_whole
from gate.policy import Policy
from gate.records import Record, sha256_hex
from gate.run_store import locked, pretty, read_record

LEDGER: Final = "repairs.json"


class Look(Record):
    """One repaired candidate that was put to the held-out half."""

    number: int
    """From 1."""
    alpha_pass: float
    order_seed: int
    candidate_digest: str
    """Of all that answers: folder, base, template and tokenizer."""


class Ledger(Record):
    """`repairs.json`: every look at the held-out half that repairs of the run have had."""

    schema_version: Literal["taskgate/repair-ledger/v1"] = "taskgate/repair-ledger/v1"
    looks: tuple[Look, ...] = ()


def share_of(look: int) -> float:
    """The part of the error that look number `look` may spend; the parts of all looks sum to 1."""
    return 1 / (look * (look + 1))


def order_seed_of(policy: Policy, look: int) -> int:
    """The seed of a look's own order, from the policy's: a look's order tells nothing about the next one's."""
    return int(sha256_hex(f"{policy.decision.order_seed}|repair|{look}".encode())[:8], 16)


def read_ledger(run: Path) -> Ledger:
    """The looks so far; none where no repair of the run came so far."""
    path = run / LEDGER
    return read_record(path, Ledger) if path.exists() else Ledger()


def take_look(run: Path, policy: Policy, candidate_digest: str) -> Look:
    """The candidate's look: the one it has had before, else the next, which is written down at once."""
    with locked(run):
        ledger = read_ledger(run)
        for look in ledger.looks:
            if look.candidate_digest == candidate_digest:
                return look
        number = len(ledger.looks) + 1
        look = Look(
            number=number,
            alpha_pass=policy.decision.alpha_pass * share_of(number),
            order_seed=order_seed_of(policy, number),
            candidate_digest=candidate_digest,
        )
        write_whole(run / LEDGER, pretty(ledger.model_copy(update={"looks": (*ledger.looks, look)})))
    return look
