"""Ingest of a served candidate: a URL and a model's name come in, a `Candidate` of kind `endpoint` goes out.

There is no folder to scan or to hash. What stands in place of its digest is the server's own statement of what it serves, and the
record says so: a verdict on a URL vouches for the server as it stood, not for files.
"""

from __future__ import annotations

from gate.endpoints.http_request import Patience
from gate.endpoints.http_server import ask_identity, parse_address
from gate.errors import UsageError
from gate.records import Candidate, sha256_hex


def load_served(url: str, model: str, *, patience: Patience | None = None) -> Candidate:
    """Ask the server at `url` whether it serves `model`, and make its record. An API key is read from the environment.

    Raises UsageError (no URL, or credentials in it; no model named), CandidateError (the server does not serve it; the names that
    it serves are given), InfrastructureError (it can't be reached).
    """
    address = parse_address(url)
    if not model.strip():
        raise UsageError(
            f"{address.url} is a server: which of its models is on trial is not said",
            expected="--model with the name of a served model (an adapter's name is one)",
            mend="give --model NAME",
        )
    identity = ask_identity(address, model, patience=patience)
    return Candidate(
        source=address.url,
        kind="endpoint",
        path=model,
        digest=identity.digest,
        files=(),
        architecture="served",
        chat_template="",
        chat_template_digest=sha256_hex(b""),
        tokenizer_digest="",
        warnings=(
            f"served candidate: no file was scanned or hashed; the digest is over what the server states: {identity.sentence()}",
        ),
    )
