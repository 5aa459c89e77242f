"""What every request passes before its route, as plain ASGI.

The order in `app.create_app` is: `RequestLog` (request id, clock, access log) outermost, then `Admission` (who asks, how often:
before any body is read), then `OpenLimit` and `BodyLimit`, then routing.
"""

import asyncio
import re
import time
import uuid
from collections.abc import Set as AbstractSet

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from guard_server.answers import error_answer, internal_answer
from guard_server.auth import Gatekeeper, credential_of
from guard_server.errors import GuardError, OverloadedError
from guard_server.logs import Logger, describe
from guard_server.metrics import Metrics
from guard_server.settings import Settings

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
QUIET = {"/healthz", "/readyz", "/metrics"}
"""Asked every few seconds by machines: logged at debug only."""
PUBLIC = QUIET | {"/", "/docs", "/docs/oauth2-redirect", "/openapi.json"}
"""Needs no key: probes, metrics, and pages that hold no secret."""


class RequestLog:
    """Gives each request an id (the caller's `x-request-id` where it is well-formed), times it, counts it and logs one line."""

    def __init__(self, app: ASGIApp, metrics: Metrics, logger: Logger) -> None:
        self.app, self.metrics, self.logger = app, metrics, logger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status, began, started = 500, time.perf_counter(), False

        async def send_with_id(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                started = True
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        # The caller is set once it is known; bound here, so that it does not outlive the request.
        with structlog.contextvars.bound_contextvars(request_id=request_id, caller=None):
            try:
                await self.app(scope, receive, send_with_id)
            except Exception as error:  # noqa: BLE001 (this is the last place that knows the request's id)
                self.logger.error("internal error", exception=describe(error))
                if started:
                    # Half an answer must not look like a whole one: the server closes the connection on an exception.
                    raise RuntimeError("the answer was broken off; the log says why") from None
                await internal_answer(error, request_id)(scope, receive, send_with_id)
            finally:
                self._record(scope, status, time.perf_counter() - began)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        # The route's pattern, not the path that was asked: an unknown path must not make a new series.
        route = getattr(scope.get("route"), "path", "unknown")
        self.metrics.requests.labels(route, str(status)).inc()
        self.metrics.request_seconds.labels(route).observe(seconds)
        log = self.logger.debug if route in QUIET else self.logger.info
        log("request", method=scope["method"], route=route, status=status, seconds=round(seconds, 6))


class Admission:
    """Lets a request through when its key may ask for it; what isn't listed as public needs a key, known path or not."""

    def __init__(self, app: ASGIApp, gatekeeper: Gatekeeper) -> None:
        self.app, self.gatekeeper = app, gatekeeper

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http" or scope["path"] in PUBLIC:
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            caller = self.gatekeeper.identify(credential_of(headers.get("authorization"), headers.get("x-api-key")))
            self.gatekeeper.admit(caller, "admin" if scope["path"].startswith("/admin") else "screen")
        except GuardError as error:
            await error_answer(error, scope["state"]["request_id"])(scope, receive, send)
            return
        scope["state"]["caller"] = caller.name
        structlog.contextvars.bind_contextvars(caller=caller.name)
        await self.app(scope, receive, send)


class OpenLimit:
    """Answers 503 to a request beyond so many open ones, but for probes: they must tell a full server from a dead one."""

    def __init__(self, app: ASGIApp, most: int, metrics: Metrics) -> None:
        self.app, self.most, self.metrics = app, most, metrics
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http" or scope["path"] in QUIET:
            await self.app(scope, receive, send)
            return
        if self._open >= self.most:
            self.metrics.shed.inc()
            error = OverloadedError(f"{self._open} requests are open already")
            await error_answer(error, scope["state"]["request_id"])(scope, receive, send)
            return
        self._open += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._open -= 1


class BodyLimit:
    """Refuses a body over the limit with 413: by its declared length at once, else as soon as it has grown over it.

    One that does not come in time is answered 408; where the path is one of `streams`, whose bodies come as they are written,
    each part has its own time.
    """

    def __init__(self, app: ASGIApp, settings: Settings, streams: AbstractSet[str]) -> None:
        self.app, self.settings, self.streams = app, settings, streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        scope.setdefault("state", {})["body_too_large"] = _over(declared, self.settings.max_body_bytes)
        in_time = self._in_time(receive, is_stream=scope["path"] in self.streams)
        read = 0

        async def limited() -> Message:
            nonlocal read
            if scope["state"]["body_too_large"]:
                raise self._too_large(declared)
            message = await in_time()
            read += len(message.get("body", b""))
            if read > self.settings.max_body_bytes:
                raise self._too_large("more")
            return message

        await self.app(scope, limited, send)

    def _in_time(self, receive: Receive, *, is_stream: bool) -> Receive:
        """`receive` with the time limit of the body; what comes after the body, a disconnect, may take as long as it will."""
        seconds = self.settings.stream_idle_seconds if is_stream else self.settings.body_seconds
        end = asyncio.get_running_loop().time() + seconds
        complete = False

        async def limited() -> Message:
            nonlocal complete
            if complete:
                return await receive()
            try:
                async with asyncio.timeout(seconds) if is_stream else asyncio.timeout_at(end):
                    message = await receive()
            except TimeoutError:
                detail = f"the body took more than {seconds:g} s" + (" for its next part" if is_stream else "")
                # The rest of the body would be read as the next request's head.
                raise HTTPException(408, detail, headers={"connection": "close"}) from None
            complete = not message.get("more_body", False)
            return message

        return limited

    def _too_large(self, found: str) -> HTTPException:
        return HTTPException(413, f"the body may have {self.settings.max_body_bytes} bytes, found {found[:20]}")


def _over(declared: str, limit: int) -> bool:
    """Whether a declared length is over the limit; compared by its digits first, because a long number is dear to read."""
    digits = declared.lstrip("0")
    return declared.isdecimal() and (len(digits) > len(str(limit)) or int(digits or "0") > limit)
