"""Which extra brings which module: a failed import comes in, a `UsageError` that says what to install goes out.

The base installation holds what `gate verify` and `gate attest` need; everything else of the gate is an extra.
"""

from __future__ import annotations

from typing import Final

from gate.errors import UsageError

EXTRA_OF: Final = {
    **dict.fromkeys(("numpy", "scipy", "yaml", "jinja2", "junitparser", "filelock", "prometheus_client"), "gate"),
    **dict.fromkeys(("torch", "transformers", "peft", "accelerate", "safetensors", "huggingface_hub", "tokenizers"), "model"),
    **dict.fromkeys(("httpx", "stamina"), "endpoint"),
    **dict.fromkeys(("model_signing", "OpenSSL", "cyclonedx"), "attest"),
    **dict.fromkeys(("sacrebleu", "rouge_score"), "utility"),
    **dict.fromkeys(("sqlalchemy", "alembic"), "history"),
    "psycopg": "history-postgres",
    "pyarrow": "data",
    "ray": "ray",
}
"""Module → the smallest extra of taskgate that brings it."""


def missing_extra(error: ModuleNotFoundError) -> UsageError | None:
    """What to tell the user about a module that is not installed; null where it belongs to no extra."""
    name = (error.name or "").partition(".")[0]
    extra = EXTRA_OF.get(name)
    if extra is None:
        return None
    return UsageError(
        f"this command needs {name}",
        expected=f"taskgate with its extra {extra!r}",
        found=f"{name} is not installed",
        mend=f"pip install 'taskgate[{extra}]' (for a model in process: 'taskgate[model]')",
    )
