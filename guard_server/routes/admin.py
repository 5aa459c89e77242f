"""Operating a running server: reload, roll back, shadow. Needs a key with the role `admin`; where no key is set, refused."""

from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict

from guard_server.bundle import Bundle
from guard_server.errors import BadRequestError
from guard_server.lifecycle import reload, roll_back, shadow
from guard_server.schemas import ModelRef
from guard_server.service import Guard, guard_of

router = APIRouter(prefix="/admin", tags=["operations"])


class BundleChoice(BaseModel):
    """A bundle under the configured `bundle_root`; none: the configured bundle."""

    model_config = ConfigDict(extra="forbid")
    bundle: str | None = None


class Swap(BaseModel):
    """What is served now."""

    action: Literal["reload", "rollback", "shadow", "shadow_off"]
    current: ModelRef
    shadow: ModelRef | None = None


@router.post("/reload")
async def reload_bundle(guard: Annotated[Guard, Depends(guard_of)], choice: BundleChoice | None = None) -> Swap:
    """Read keys and policies again, verify, self-test and swap in a bundle; nothing in flight is dropped."""
    await reload(guard, _folder(guard, choice))
    return _swap(guard, "reload")


@router.post("/rollback")
async def rollback_bundle(guard: Annotated[Guard, Depends(guard_of)]) -> Swap:
    """Serve the bundle before the present one again."""
    await roll_back(guard)
    return _swap(guard, "rollback")


@router.post("/shadow")
async def shadow_bundle(choice: BundleChoice, guard: Annotated[Guard, Depends(guard_of)]) -> Swap:
    """Score with a second bundle beside the present one; its differences are counted, its decisions are not used."""
    folder = _folder(guard, choice)
    if folder is None:
        raise BadRequestError("name a bundle", field="bundle")
    await shadow(guard, folder)
    return _swap(guard, "shadow")


@router.delete("/shadow")
async def no_shadow(guard: Annotated[Guard, Depends(guard_of)]) -> Swap:
    """Stop comparing."""
    await shadow(guard, None)
    return _swap(guard, "shadow_off")


def _folder(guard: Guard, choice: BundleChoice | None) -> Path | None:
    if choice is None or choice.bundle is None:
        return None
    root = guard.settings.bundle_root
    if root is None:
        raise BadRequestError("bundles can be named only where GUARD_BUNDLE_ROOT is set", field="bundle")
    try:
        folder = (root / choice.bundle).resolve()
        inside = folder.is_relative_to(root.resolve()) and folder.is_dir()
    except (OSError, ValueError):  # a NUL byte, a name too long
        inside = False
    if not inside:
        raise BadRequestError(f"no bundle {choice.bundle!r} under the bundle root", field="bundle")
    return folder


def _swap(guard: Guard, action: Literal["reload", "rollback", "shadow", "shadow_off"]) -> Swap:
    loaded = guard.models.status()
    assert loaded.current is not None
    return Swap(action=action, current=_ref(loaded.current), shadow=None if loaded.shadow is None else _ref(loaded.shadow))


def _ref(bundle: Bundle) -> ModelRef:
    return ModelRef(name=bundle.spec.name, version=bundle.spec.version, digest=bundle.digest)
