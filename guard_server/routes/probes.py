"""Probes and metrics for the platform, and the playground page for people."""

import base64
import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import HTMLResponse, JSONResponse, Response

from guard_server.errors import NotFoundError
from guard_server.service import Guard, guard_of

router = APIRouter(tags=["operations"])
PAGE = Path(__file__).parents[1] / "static" / "playground.html"


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process lives."""
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"description": "no bundle has passed its self-test, or the server is draining"}})
async def readyz(guard: Annotated[Guard, Depends(guard_of)]) -> JSONResponse:
    """A bundle has answered its self-test and the server is not draining."""
    ready = guard.models.status().ready and not guard.draining
    status = "ready" if ready else "draining" if guard.draining else "no bundle has passed its self-test"
    return JSONResponse({"status": status}, status_code=200 if ready else 503)


@router.get("/metrics", response_class=Response)
async def metrics(guard: Annotated[Guard, Depends(guard_of)]) -> Response:
    """Prometheus text format."""
    return Response(guard.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


@router.get("/", include_in_schema=False)
async def playground(guard: Annotated[Guard, Depends(guard_of)]) -> HTMLResponse:
    """The playground page, where it is on."""
    if not guard.settings.playground:
        raise NotFoundError("the playground is off (GUARD_PLAYGROUND)")
    page, policy = _page()
    return HTMLResponse(page, headers={"content-security-policy": policy, "x-content-type-options": "nosniff"})


@cache
def _page() -> tuple[str, str]:
    """The page and a content security policy that lets its own script and style run and nothing else."""
    page = PAGE.read_text(encoding="utf-8")
    sources = {
        tag: " ".join(_digest(body) for body in re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL))
        for tag in ("script", "style")
    }
    policy = (
        f"default-src 'none'; connect-src 'self'; script-src {sources['script']}; style-src {sources['style']}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page, policy


def _digest(body: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}'"
