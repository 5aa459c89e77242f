"""Errors as HTTP answers: one shape for every route, readable by OpenAI's clients too.

{"error": {"type", "message", "param", "request_id", "fields"?: [{"field", "message"}]}}
"""

import math
import re
from collections.abc import Sequence
from typing import Final

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from guard_server.errors import VALUE_ERROR, GuardError

MAX_FIELDS: Final = 20
"""Of a body that does not fit, so many faults are named: an answer must not grow with what was sent."""
MAX_FIELD_CHARACTERS: Final = 200
_UNION_MEMBERS: Final = re.compile(r"(literal|str-enum)\[")
_LONE_SURROGATES: Final = re.compile("[\ud800-\udfff]")
KINDS = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 408: "request_timeout", 413: "too_large"}


def error_body(kind: str, message: str, request_id: str, param: str | None = None) -> dict[str, dict[str, object]]:
    """The body of an error."""
    return {"error": {"type": kind, "message": message, "param": param, "request_id": request_id}}


def error_answer(error: GuardError, request_id: str) -> JSONResponse:
    """The answer to an error of ours, with `Retry-After` where waiting helps."""
    headers = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    body = error_body(error.kind, error.message, request_id, error.field)
    return JSONResponse(body, status_code=error.status, headers=headers)


async def on_guard_error(request: Request, error: Exception) -> Response:
    """Handler of our own errors."""
    assert isinstance(error, GuardError)
    return error_answer(error, request.state.request_id)


async def on_invalid(request: Request, error: Exception) -> Response:
    """Handler of bodies that don't fit their schema: 422 with the field names; 400 for what is not JSON."""
    assert isinstance(error, RequestValidationError)
    found = error.errors()[:MAX_FIELDS]
    not_json = any(e["type"] == "json_invalid" for e in found)
    # Where it is no JSON, the location is a position in the body, not a field.
    fields = [{"field": "body" if not_json else _field(e["loc"]), "message": _message(e["msg"])} for e in found]
    if fields[0]["field"] == "body" and "json" not in request.headers.get("content-type", ""):
        # As curl -d sends it: the framework hands such a body on unread.
        fields = [{"field": "body", "message": "expected JSON with the header content-type: application/json"}]
    message = "; ".join(f"{f['field']}: {f['message']}" for f in fields)
    body = error_body("bad_request", message, request.state.request_id, fields[0]["field"])
    body["error"]["fields"] = fields
    return JSONResponse(body, status_code=400 if not_json else 422)


async def on_http(request: Request, error: Exception) -> Response:
    """Handler of what the framework itself refuses (404, 405, 413, unreadable bodies)."""
    assert isinstance(error, HTTPException)
    message = str(error.detail)
    if error.status_code == 404:
        message = "there is no such route: docs/guard.md names them, and `guard openapi` prints them"
    elif error.status_code == 405:
        takes = (error.headers or {}).get("Allow", "another method")
        message = f"this route does not take {request.method[:20]}; it takes {takes}"
    body = error_body(KINDS.get(error.status_code, "http"), message, request.state.request_id)
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


def internal_answer(error: Exception, request_id: str) -> JSONResponse:
    """The answer to a defect of ours: says nothing of its inside; the log has it."""
    return JSONResponse(error_body("internal", f"an internal error ({type(error).__name__})", request_id), status_code=500)


def encodable(text: str) -> str:
    """The text with U+FFFD for lone surrogates, which JSON may hold and UTF-8 can't."""
    return _LONE_SURROGATES.sub("\ufffd", text)


def _message(text: str) -> str:
    return encodable(text.removeprefix(VALUE_ERROR))


def _field(location: Sequence[str | int]) -> str:
    """`('body', 'texts', 0)` as `texts.0`; pydantic's names for the members of a union are no fields."""
    parts = location[1:] if location and location[0] in {"body", "query", "path", "header"} else location
    parts = [part for part in parts if not _UNION_MEMBERS.match(str(part))]
    return encodable(".".join(str(part) for part in parts))[:MAX_FIELD_CHARACTERS] or "body"
