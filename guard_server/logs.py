"""Structured logs: one JSON object a line (or readable text) on standard error. Digests, never text, unless `log_text` is on."""

import hashlib
import logging
import sys
import traceback
from pathlib import Path
from random import Random

import structlog
from structlog.typing import FilteringBoundLogger

from guard_server.settings import Settings

Logger = FilteringBoundLogger


def make_logger(settings: Settings) -> Logger:
    """A logger of its own, so that two apps in one process don't share settings."""
    renderer = (
        structlog.processors.JSONRenderer() if settings.log_json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    logger: Logger = structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.log_level.upper()]),
    )
    return logger


def describe(error: BaseException) -> str:
    """An exception's type and where it arose, innermost last; not its message, which may hold text of the request."""
    frames = traceback.extract_tb(error.__traceback__)[-12:]
    cause = error.__cause__ or error.__context__
    places = " > ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames)
    return f"{type(error).__name__} at {places}" + (f"; from {describe(cause)}" if cause is not None else "")


class TextLog:
    """What a log line may say of a screened text: its digest and length; the text itself for a random share where that is on."""

    def __init__(self, settings: Settings) -> None:
        self._share = settings.log_text_share if settings.log_text else 0.0
        # Which requests are sampled must not be foreseen by a caller, and nothing is replayed from it: seeded by the system.
        self._random = Random()

    def fields(self, text: str) -> dict[str, str | int]:
        """Fields for the log line of one text."""
        found: dict[str, str | int] = {
            "text_sha256": hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
            "characters": len(text),
        }
        if self._share and self._random.random() < self._share:
            found["text"] = text
        return found
