"""The guard's errors and the one table from kind to HTTP status.

    GuardError
    ├── BadRequestError         422  a field that cannot be used as given
    ├── NotAuthenticatedError   401  no key, or an unknown one
    ├── NotAllowedError         403  a key without the right to this route; a policy or task that a request may not choose
    ├── NotFoundError           404  an unknown policy, route or bundle
    ├── TooLargeError           413  a body or text over the limit
    ├── RateLimitedError        429  this key asks too often
    ├── OverloadedError         503  no permit or the queue is full: retry after a while
    ├── NotReadyError           503  no bundle has passed its self-test yet, or the server is stopping
    ├── DeadlineExceededError   504  not done in time
    ├── InferenceFailedError    500  the model failed or gave what is not a number
    ├── BundleError             409  a bundle that is damaged, unsigned where a signature is required, or fails its self-test
    ├── PolicyError             422  a policy file that cannot be used
    └── KeysError               422  a file of keys that cannot be used

The answer has one shape: `{"error": {"type", "message", "param", "request_id", "fields"?: [{"field", "message"}]}}`: `type` is
the error's `kind`, `param` its `field` (null where it is about none), `fields` stands where a body does not fit its schema.
"""

from typing import ClassVar, Final

VALUE_ERROR: Final = "Value error, "
"""What pydantic puts before the message of a validator of ours; nobody is helped by reading it."""
LESS_OR_MORE: Final = "send less text at a time, or give the server more cores or time (GUARD_DEADLINE_SECONDS)"
"""What to do where the deadline passes."""


class GuardError(Exception):
    """Base of every error the guard raises on purpose."""

    kind: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    wait: ClassVar[float | None] = None
    """Seconds to retry after, where an error of this kind says none itself."""

    def __init__(self, message: str, *, field: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after = self.wait if retry_after is None else retry_after
        """Seconds, for `Retry-After`."""


class BadRequestError(GuardError):
    """A field that cannot be used as given."""

    kind, status = "bad_request", 422


class NotAuthenticatedError(GuardError):
    """No key, or an unknown one."""

    kind, status = "not_authenticated", 401


class NotAllowedError(GuardError):
    """A key without the right to this route, or a policy or task that a request may not choose there."""

    kind, status = "not_allowed", 403


class NotFoundError(GuardError):
    """An unknown policy, route or bundle."""

    kind, status = "not_found", 404


class TooLargeError(GuardError):
    """A body or text over the limit."""

    kind, status = "too_large", 413


class RateLimitedError(GuardError):
    """A key that asks too often."""

    kind, status = "rate_limited", 429


class OverloadedError(GuardError):
    """No permit, or the queue is full."""

    kind, status, wait = "overloaded", 503, 1.0


class NotReadyError(GuardError):
    """Nothing has passed its self-test yet, or the server is stopping."""

    kind, status, wait = "not_ready", 503, 1.0


class DeadlineExceededError(GuardError):
    """Not done in time."""

    kind, status = "deadline_exceeded", 504


class InferenceFailedError(GuardError):
    """The model failed, or gave what is not a number."""

    kind, status = "inference_failed", 500


class BundleError(GuardError):
    """A bundle that must not be served."""

    kind, status = "bundle", 409


class PolicyError(GuardError):
    """A policy file that cannot be used."""

    kind, status = "policy", 422


class KeysError(GuardError):
    """A file of keys that cannot be used."""

    kind, status = "keys", 422
