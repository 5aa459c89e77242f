"""Changing what a running server serves: load, reload, roll back, shadow; each outcome is logged and counted.

A reload reads the keys again first, and they are in force from then on: one that was taken out must not stay valid because a
bundle is damaged. Then it reads the policies and checks them against the new bundle; these two are swapped in one step, so that a
policy never meets a bundle that has no threshold for it, and where either cannot be used, both stay.
"""

from pathlib import Path

from guard_server.auth import Credentials, read_credentials
from guard_server.errors import GuardError, KeysError
from guard_server.models import series_of
from guard_server.policy import check_against, load_policies
from guard_server.service import Guard


async def load_configured(guard: Guard) -> None:
    """Load the bundles that the settings name; raises `BundleError` or `PolicyError`."""
    await guard.models.load(guard.settings.bundle)
    if guard.settings.shadow_bundle is not None:
        await guard.models.set_shadow(guard.settings.shadow_bundle)


async def reload(guard: Guard, folder: Path | None) -> None:
    """Serve the bundle in `folder` (none: the configured one), the policies and keys on disk.

    Keys that cannot be used change nothing. On any other error the new keys hold, as its message says, and the rest stays.
    """
    target = folder or guard.settings.bundle
    renewed = False
    try:
        guard.gatekeeper.renew(_keys(guard))
        renewed = True
        policies = load_policies(guard.settings.policies)

        def swapped() -> None:
            # Also where the caller has gone meanwhile: the load goes on without it.
            guard.policies = policies
            guard.metrics.reloads.labels("ok").inc()
            announce(guard, "reloaded")

        await guard.models.load(target, lambda spec: check_against(policies, spec), swapped)
    except GuardError as error:
        guard.metrics.reloads.labels("failed").inc()
        event = "reload failed, bundle and policies stay" if renewed else "reload failed, nothing changed"
        guard.logger.error(event, bundle=str(target), kind=error.kind, reason=error.message)
        if not renewed:
            raise
        message = f"{error.message}; bundle and policies stay, the keys on disk are in force"
        raise type(error)(message, field=error.field, retry_after=error.retry_after) from error


def _keys(guard: Guard) -> Credentials:
    try:
        return read_credentials(guard.settings)
    except ValueError as error:
        raise KeysError(str(error)) from error


async def roll_back(guard: Guard) -> None:
    """Serve the previous bundle again, with the policies in force."""
    try:
        await guard.models.rollback()
    except GuardError:
        guard.metrics.reloads.labels("failed").inc()
        raise
    guard.metrics.reloads.labels("rolled_back").inc()
    announce(guard, "rolled back")


async def shadow(guard: Guard, folder: Path | None) -> None:
    """Compare with a second bundle, or stop comparing."""
    if folder is None:
        await guard.models.clear_shadow()
    else:
        await guard.models.set_shadow(folder)
    announce(guard, "shadow set" if folder else "shadow off")


def announce(guard: Guard, event: str) -> None:
    """Say in log and metrics which bundles are loaded."""
    loaded = guard.models.status()
    bundles = (loaded.current, loaded.previous, loaded.shadow)
    guard.metrics.keep_models({series_of(bundle) for bundle in bundles if bundle is not None})
    guard.metrics.model_info.clear()
    for slot, bundle in (("current", loaded.current), ("previous", loaded.previous), ("shadow", loaded.shadow)):
        if bundle is not None:
            verified = "true" if bundle.files.verified else "false"
            guard.metrics.model_info.labels(slot, bundle.spec.name, bundle.spec.version, bundle.digest, verified).set(1)
    if loaded.current is not None:
        spec = loaded.current.spec
        guard.logger.info(event, bundle=spec.name, version=spec.version, digest=loaded.current.digest)
