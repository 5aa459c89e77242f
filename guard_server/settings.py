"""The server's settings: from the environment (`GUARD_...`), overridden by `guard serve`'s options; frozen once read.

Secrets are files or environment variables, never flags. An unknown `GUARD_` variable is not an error (a container sets others),
an impossible value is, and `read_settings` names its variable.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from guard_server.errors import VALUE_ERROR

PACKAGE = Path(__file__).parent
DEFAULT_BUNDLE = PACKAGE / "bundles" / "default"
"""The bundle that the project ships."""


def shipped_policies() -> Path:
    """policies/guard.yaml: inside an installed package, else of the checkout."""
    packed = PACKAGE / "_policies" / "guard.yaml"
    return packed if packed.is_file() else PACKAGE.parent / "policies" / "guard.yaml"


class Settings(BaseSettings):
    """Everything that an operator may set. Sizes in bytes or characters as named, times in seconds."""

    # An error shows no values: `api_keys` may be among them.
    model_config = SettingsConfigDict(
        env_prefix="GUARD_", frozen=True, extra="ignore", hide_input_in_errors=True, use_attribute_docstrings=True
    )

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8700, ge=0, le=65535)
    """0: any free one, printed at start."""
    allow_anonymous: bool = False
    """Serve an address that others can reach with no key configured."""

    bundle: Path = DEFAULT_BUNDLE
    """Folder of the bundle to serve."""
    shadow_bundle: Path | None = None
    """Scored after each answer; only its differences are counted."""
    require_signed: bool = False
    """Refuse bundles without a signature by `GUARD_PUBLIC_KEY`."""
    public_key: Path | None = None
    """PEM of the key that bundles are signed with."""
    bundle_root: Path | None = None
    """`/admin/reload` and `/admin/shadow` may name bundles under this folder only; unset: reload takes the configured one."""
    policies: Path = Field(default_factory=shipped_policies)
    """The policy file."""

    device: Literal["cpu", "cuda"] = "cpu"
    """`cuda` needs onnxruntime-gpu in place of onnxruntime; int8 bundles run on the CPU in any case."""
    workers: int = Field(default=0, ge=0)
    """Single-thread inference sessions; 0: one per usable core."""
    batch_tokens: int = Field(default=16_384, ge=1)
    """Token budget of a batch, padding counted (GPU and fp32 only)."""
    batch_wait_seconds: float = Field(default=0.002, ge=0, allow_inf_nan=False)
    """How long a batch may wait to be filled (GPU only)."""
    max_queue_tokens: int = Field(default=262_144, ge=1)
    """Tokens that may wait for inference; more is answered 503."""
    max_requests: int = Field(default=256, ge=1)
    """Permits: requests being screened at one time; one more is answered 503 at once. Eight times as many may be open, counting
    those whose bodies still come; probes are not counted."""
    deadline_seconds: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    """For one request, from its acceptance; past it: 504."""
    max_body_bytes: int = Field(default=2_000_000, ge=1)
    """A larger body is answered 413."""
    body_seconds: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    """How long a request's body may take to come; past it: 408. A connection that sends no whole head for so long is closed."""
    stream_idle_seconds: float = Field(default=120.0, gt=0, allow_inf_nan=False)
    """How long `/v1/screen/stream` waits for the next part of a body, in place of `GUARD_BODY_SECONDS`; past it: 408."""
    max_texts: int = Field(default=64, ge=1, le=10_000)
    """Texts, messages or items in one request."""
    drain_seconds: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Between SIGTERM (readyz turns 503) and the end of accepting."""
    shutdown_seconds: float = Field(default=30.0, ge=0, allow_inf_nan=False)
    """How long what is in flight may take after that."""

    api_keys_file: Path | None = None
    """Entries `name:role:sha256[:rate]`, one a line (`guard key new` writes one)."""
    api_keys: str = Field(default="", repr=False)
    """The same entries as the file, separated by commas."""
    rate_limit: str | None = None
    """Of each key, e.g. `100/second`; a key's own entry wins."""
    jwt_key_file: Path | None = None
    """PEM public key (or a secret of 32 bytes or more for HS256) that tokens are checked with."""
    jwt_algorithm: Literal["ES256", "RS256", "EdDSA", "HS256"] = "ES256"
    """The only one that is accepted."""
    jwt_audience: str | None = None
    """Required with a JWT key."""
    jwt_issuer: str | None = None
    """Required with a JWT key."""

    log_json: bool = True
    """JSON lines; false: readable text."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Probes are logged at debug, requests and texts at info."""
    log_text: bool = False
    """Write screened text into the log, for the share below."""
    log_text_share: float = Field(default=0.01, ge=0, le=1)
    """Share of texts that `GUARD_LOG_TEXT` writes."""
    otel: bool = False
    """Send traces by OTLP (the extra `guard-otel`; the exporter reads the standard OTEL_ variables)."""
    playground: bool = True
    """Serve the page at `/`."""
    docs: bool = True
    """Serve `/docs` and `/openapi.json`."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.require_signed and self.public_key is None:
            msg = "GUARD_REQUIRE_SIGNED needs GUARD_PUBLIC_KEY: the PEM file of the key that bundles are signed with"
            raise ValueError(msg)
        if self.jwt_key_file is not None and (self.jwt_audience is None or self.jwt_issuer is None):
            msg = (
                "GUARD_JWT_KEY_FILE needs GUARD_JWT_AUDIENCE and GUARD_JWT_ISSUER: "
                "a token meant for another service must not be accepted"
            )
            raise ValueError(msg)
        if not self.loopback and not self.has_keys and not self.allow_anonymous:
            msg = (
                f"host {self.host} can be reached by others and no key is configured: "
                "set GUARD_API_KEYS_FILE (`guard key new` writes an entry), or GUARD_ALLOW_ANONYMOUS=true"
            )
            raise ValueError(msg)
        return self

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.host in {"127.0.0.1", "::1", "localhost"}

    @property
    def has_keys(self) -> bool:
        """Whether requests are authenticated at all."""
        return bool(self.api_keys_file or self.api_keys or self.jwt_key_file)


def read_settings(given: Mapping[str, Any]) -> Settings:
    """The settings from the environment and those `given`, which win; a `ValueError` names each variable that can't be used."""
    try:
        return Settings(**given)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        told = ((f"GUARD_{str(e['loc'][0]).upper()}: " if e["loc"] else "") + e["msg"].removeprefix(VALUE_ERROR) for e in faults)
        raise ValueError("; ".join(told)) from error
