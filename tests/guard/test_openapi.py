"""The OpenAPI document as a contract: generated requests, fitting and not, get no server error and what the document promises."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.openapi import from_dict
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance
from starlette.testclient import TestClient

from tests.guard.app_client import client, make_app

# Not shrunk: a failing request is readable as it is, and shrinking takes minutes.
SETTINGS = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
TAKEN = {"method", "url", "params", "headers", "json", "files"}


@schemathesis.serializer("application/x-ndjson")
def _ndjson(context: schemathesis.SerializationContext, value: object) -> bytes:
    return str(value).encode("utf-8", "surrogatepass")


DOCUMENT = make_app(Path("none")).openapi()
OPERATIONS = [(method.upper(), path) for path, item in DOCUMENT["paths"].items() for method in item]
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def app(tiny_bundle: Path) -> Iterator[TestClient]:
    """A running app; its key may screen and administer."""
    entries = [f"both:{role}:{hashlib.sha256(b'key').hexdigest()}" for role in ("screen", "admin")]
    with client(tiny_bundle, log_level="error", api_keys=",".join(entries), bundle_root=tiny_bundle.parent) as found:
        found.headers["x-api-key"] = "key"
        yield found


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_the_document_holds(app: TestClient, method: str, path: str, mode: GenerationMode) -> None:
    """No request makes a server error, and status, content type and body are as the document says."""
    operation = from_dict(DOCUMENT)[path][method]
    if mode is GenerationMode.NEGATIVE and not operation.body and not operation.query:
        return  # nothing that could be sent wrong

    @settings(SETTINGS)
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case[Any]) -> None:
        asked = case.as_transport_kwargs(base_url="http://testserver")
        content = {"content" if isinstance(asked["data"], str | bytes) else "data": asked["data"]} if "data" in asked else {}
        answer = app.request(**{k: v for k, v in asked.items() if k in TAKEN}, **content)
        case.validate_response(answer, checks=CHECKS)

    ask()
