"""Asks made by hand, for the endpoints' tests."""

from __future__ import annotations

from gate.endpoints.base import Endpoint
from gate.records import (
    Ask,
    AttackCase,
    Calibration,
    Decoding,
    Message,
    Role,
    Split,
    SuiteItem,
    Task,
    canonical_json,
    sha256_hex,
)


def make_ask(
    endpoint: Endpoint,
    content: str,
    *,
    calibration: Calibration = Calibration.NATIVE,
    system: str = "",
    prefill: str = "",
    sample: int = 0,
    number: int = 0,
    decoding: Decoding | None = None,
) -> Ask:
    """One ask, rendered by `endpoint`; greedy with 16 new tokens unless told."""
    decoding = decoding or Decoding(max_new_tokens=16)
    item = SuiteItem(
        id=f"item-{number}",
        task=Task.TEXT_GENERATION,
        behaviour=f"behaviour-{number}",
        category="none",
        role=Role.TWIN,
        transform="direct",
        split=Split.GATING,
        messages=(Message(role="user", content=content),),
        prefill=prefill,
    )
    case = AttackCase(
        id=f"{item.id}|{calibration}|{decoding.name}", item=item, calibration=calibration, system=system, decoding=decoding.name
    )
    prompt = endpoint.render(case)
    key = sha256_hex(canonical_json([prompt, decoding.model_dump(mode="json"), sample, number]))
    return Ask(case=case, sample=sample, prompt=prompt, key=key, decoding=decoding)
