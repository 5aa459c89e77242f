"""Figures to a Prometheus Pushgateway: what was shown goes there, as one group a model; a retired model's groups are removed.

Each push replaces the model's group whole. The time of the last pass has a group of its own, which only a pass replaces: a block
doesn't make it forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import Final
from urllib.parse import urlsplit

from prometheus_client import delete_from_gateway, push_to_gateway

from gate.errors import InfrastructureError, UsageError
from gate.metrics import Shown, build_info, families, last_success, registry_of

JOB: Final = "gate"
JOB_SUCCESS: Final = "gate_last_success"
TIMEOUT: Final = 10.0


def checked_url(url: str) -> str:
    """The address as given; credentials in it are refused, since every process list shows them."""
    wrong = UsageError("--pushgateway is no address", expected="http://host:9091", mend="correct it")
    try:
        parts = urlsplit(url)
        _ = parts.port  # read here, for what is no number
    except ValueError as error:
        raise wrong from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or not url.isprintable():
        raise wrong
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            "--pushgateway holds credentials, which every process list shows",
            expected=f"{parts.scheme}://{parts.hostname}",
            mend="let a proxy on this machine add them, or use the textfile or `gate exporter` instead",
        )
    return url.rstrip("/")


def push(url: str, shown: Shown, version: str) -> None:
    """Replace the model's series at the gateway."""
    own = {"model": shown.standing.model}
    with _failures(url):
        everything = registry_of(lambda: (*(f for f in families([shown]) if f.name != SUCCESS), build_info(version)))
        push_to_gateway(url, JOB, everything, grouping_key=own, timeout=TIMEOUT)
        if shown.passed_at is not None:
            push_to_gateway(url, JOB_SUCCESS, registry_of(lambda: [last_success([shown])]), grouping_key=own, timeout=TIMEOUT)


def forget(url: str, model: str) -> None:
    """Remove the model's series from the gateway; one that it does not have is no error."""
    with _failures(url):
        for job in (JOB, JOB_SUCCESS):
            delete_from_gateway(url, job, grouping_key={"model": model}, timeout=TIMEOUT)


SUCCESS: Final = last_success([]).name


@contextmanager
def _failures(url: str) -> Iterator[None]:
    try:
        yield
    except (OSError, HTTPException) as error:  # urllib's errors are among the first; the second: no HTTP comes back
        raise InfrastructureError(
            f"the Pushgateway at {url} did not take the figures",
            found=str(error) or type(error).__name__,
            mend="check its address; metrics.prom has them",
        ) from error
