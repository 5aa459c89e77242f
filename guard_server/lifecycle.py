"""Changing what a running server serves: load, reload, roll back, shadow; each outcome is logged and counted.

A reload reads the policies again too, and checks them against the new bundle before anything is swapped, so that a policy never
meets a bundle that has no threshold for it.
"""

from pathlib import Path

from guard_server.errors import GuardError
from guard_server.metrics import Metrics
from guard_server.models import ModelSet
from guard_server.policy import check_against, load_policies
from guard_server.service import Guard


async def reload(guard: Guard, folder: Path | None) -> None:
    """Serve the bundle in `folder` (none: the configured one) and the policies as they are on disk; on any error nothing changes."""
    target = folder or guard.settings.bundle
    try:
        policies = load_policies(guard.settings.policies)
        await guard.models.load(target, accept=lambda spec: check_against(policies, spec))
    except GuardError as error:
        guard.metrics.reloads.labels("failed").inc()
        guard.logger.error("reload failed, nothing changed", bundle=str(target), kind=error.kind, reason=error.message)
        raise
    guard.policies = policies
    guard.metrics.reloads.labels("ok").inc()
    announce(guard, "reloaded")


async def roll_back(guard: Guard) -> None:
    """Serve the previous bundle again, with the policies in force."""
    try:
        await guard.models.rollback(accept=lambda spec: check_against(guard.policies, spec))
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
        await guard.models.load_shadow(folder, accept=lambda spec: check_against(guard.policies, spec))
    announce(guard, "shadow set" if folder else "shadow off")


def announce(guard: Guard, event: str) -> None:
    """Say in log and metrics which bundles are loaded."""
    show(guard.metrics, guard.models)
    current = guard.models.current
    if current is not None:
        guard.logger.info(event, bundle=current.spec.name, version=current.spec.version, digest=current.digest, signed=current.verified)


def show(metrics: Metrics, models: ModelSet) -> None:
    """Set `guard_model_info` to the bundles that are loaded now."""
    metrics.model_info.clear()
    for slot, active in (("current", models.current), ("previous", models.previous), ("shadow", models.shadow)):
        if active is not None:
            verified = "true" if active.verified else "false"
            metrics.model_info.labels(slot, active.spec.name, active.spec.version, active.digest, verified).set(1)
