"""`GET /v1/models`: which bundles are loaded, what they assess and what not, and which policies there are."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends

from guard_server.bundle import Bundle
from guard_server.labels import OPENAI_MEMBERS, OPENAI_NOT_ASSESSED
from guard_server.schemas import BundleEntry, ModelsResponse
from guard_server.service import Guard, guard_of

router = APIRouter(tags=["guard"])
BEYOND = (
    "images and audio",
    "personal data (names, card numbers)",
    "facts: whether a statement is true",
    "sexual content involving minors",
)
"""Nothing in a bundle looks at these."""
Slot = Literal["current", "previous", "shadow"]


@router.get("/v1/models")
async def models(guard: Annotated[Guard, Depends(guard_of)]) -> ModelsResponse:
    """The loaded bundles; `data` is what OpenAI's clients list."""
    loaded = guard.models.status()
    slots: list[tuple[Slot, Bundle | None]] = [
        ("current", loaded.current), ("previous", loaded.previous), ("shadow", loaded.shadow),
    ]  # fmt: skip
    bundles = [_entry(slot, bundle) for slot, bundle in slots if bundle is not None]
    data = [
        {"id": f"{b.name}-{b.version}", "object": "model", "created": 0, "owned_by": "taskgate"}
        for b in bundles
        if b.slot == "current"
    ]
    return ModelsResponse(data=data, bundles=bundles, policies=guard.policies.names, policies_digest=guard.policies.digest)


def _entry(slot: Slot, bundle: Bundle) -> BundleEntry:
    spec = bundle.spec
    return BundleEntry(
        slot=slot,
        name=spec.name,
        version=spec.version,
        digest=bundle.digest,
        verified=bundle.files.verified,
        encoder=spec.encoder,
        precision=spec.precision,
        tasks=list(spec.tasks),
        categories_assessed=list(spec.categories),
        openai_categories_assessed=list(OPENAI_MEMBERS),
        openai_categories_not_assessed=list(OPENAI_NOT_ASSESSED),
        not_assessed=list(BEYOND),
        target_fprs=sorted({t.target_fpr for t in spec.thresholds}),
        window=spec.window.model_dump(),
        card=bundle.card,
    )
