"""The application from values: settings and policies in, a FastAPI app out; tests may pass classifiers of their own."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import fields
from typing import Any, Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from guard_server import __version__
from guard_server.answers import on_guard_error, on_http, on_invalid
from guard_server.auth import Gatekeeper
from guard_server.bundle import Bundle
from guard_server.errors import GuardError
from guard_server.lifecycle import announce, load_configured
from guard_server.logs import make_logger
from guard_server.metrics import Metrics
from guard_server.middleware import QUIET, Admission, BodyLimit, OpenLimit, RequestLog
from guard_server.models import Classifier, EngineOptions, ModelSet, build_classifier
from guard_server.policy import Policies, check_against
from guard_server.routes import ROUTERS, stream
from guard_server.schemas import ErrorResponse
from guard_server.service import FAILURES, Guard
from guard_server.settings import Settings
from guard_server.tracing import instrument

DESCRIPTION = (
    "Screens prompts and answers of language models, task by task. Errors have one shape: `{error: {type, message, param}}`."
)


ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": ErrorResponse, "description": what}
    for status, what in {
        400: "Not JSON.",
        401: "No key, or an unknown one.",
        403: "The key may not do this.",
        404: "Unknown policy or route.",
        408: "The body took too long to come.",
        409: "The bundle must not be served.",
        413: "Body or text over the limit.",
        422: "A field that cannot be used as given.",
        429: "This key asks too often; see Retry-After.",
        500: "The model failed.",
        503: "Overloaded or not ready; see Retry-After.",
        504: "Not done in time.",
    }.items()
}
"""What any route may answer, for the OpenAPI document."""
OPEN_PER_PERMIT: Final = 8
"""Far over the permits, which say at once what is too much; this bounds the memory of bodies that are still coming."""
Build = Callable[[Bundle], Classifier]


def create_app(settings: Settings, policies: Policies, build: Build | None = None) -> FastAPI:
    """The app; its lifespan loads `settings.bundle` and closes it at the end. `build` makes a classifier of a verified bundle."""
    logger, metrics, gatekeeper = make_logger(settings), Metrics(), Gatekeeper(settings)
    app = FastAPI(
        title="Taskgate guard",
        version=__version__,
        description=DESCRIPTION,
        lifespan=_lifespan,
        docs_url="/docs" if settings.docs else None,
        redoc_url=None,
        openapi_url="/openapi.json" if settings.docs else None,
        middleware=[
            Middleware(RequestLog, metrics=metrics, logger=logger),
            Middleware(Admission, gatekeeper=gatekeeper),
            Middleware(OpenLimit, most=settings.max_requests * OPEN_PER_PERMIT, metrics=metrics),
            Middleware(BodyLimit, settings=settings, streams={stream.ROUTE}),
        ],
    )
    options = EngineOptions(**settings.model_dump(include={f.name for f in fields(EngineOptions)}))
    models = ModelSet(
        build or (lambda bundle: build_classifier(bundle, options, metrics)),
        public_key=settings.public_key,
        require_signed=settings.require_signed,
        accept=lambda spec: check_against(guard.policies, spec),
    )
    guard = app.state.guard = Guard(settings, models, policies, metrics, logger, gatekeeper)
    for router in ROUTERS:
        app.include_router(router, responses=ERRORS)
    metrics.expect(_counted_routes(), [int(code) for code in ERRORS if int(code) >= 500], [error.kind for error in FAILURES])
    app.add_exception_handler(GuardError, on_guard_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(ClientDisconnect, _gone)
    if settings.otel:
        instrument(app)
    return app


def _counted_routes() -> set[str]:
    """The paths whose requests count against the error budget: all but what machines probe."""
    return {route.path for router in ROUTERS for route in router.routes if isinstance(route, Route)} - QUIET


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    guard: Guard = app.state.guard
    if not guard.models.status().ready:
        await load_configured(guard)
    announce(guard, "serving")
    try:
        yield
    finally:
        guard.draining = True
        await asyncio.shield(guard.models.close())
        guard.desk.close()
        if (provider := getattr(app.state, "tracer_provider", None)) is not None:
            await asyncio.to_thread(provider.shutdown)


async def _gone(request: Request, error: Exception) -> Response:  # noqa: ARG001
    """Nobody reads this answer; the status (nginx's "client closed request") is for the log and the metrics."""
    return Response(status_code=499)
