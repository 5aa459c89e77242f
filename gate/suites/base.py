"""What a suite is: a named, digested, ordered set of items. Imports records only."""

from __future__ import annotations

from functools import cached_property

from pydantic import Field

from gate.records import Record, SuiteItem, canonical_json, sha256_hex


class Suite(Record):
    """A suite's items with the system prompt that its calibrations use."""

    name: str
    version: str
    languages: tuple[str, ...]
    system_prompt: str = Field(min_length=1)
    """What `native+system` puts in front."""
    items: tuple[SuiteItem, ...]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over name, version, system prompt and every item."""
        return sha256_hex(canonical_json(self.model_dump(mode="json")))
