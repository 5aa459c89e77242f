"""DSSE envelopes, one a line: payloads and a signer come in, `attestation.intoto.jsonl` goes out; and back again.

The envelope, its encoding before signing and the signature are securesystemslib's. What is read is held to more than DSSE asks:
closed fields in canonical JSON, one signature, base64 in its one canonical form; so there is one way to write an attestation, and
a change to any character of it is found.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from pydantic import Field, ValidationError

from gate.attest.statement import PAYLOAD_TYPE, Wire
from gate.errors import AttestError, RefusedAttestation
from gate.records import canonical_json

if TYPE_CHECKING:
    from securesystemslib.signer import Key, Signer

SIZE_LIMIT: Final = 64 * 1024 * 1024
"""Bytes of an attestation that are read; a run's has some hundred thousand at most."""


class SignatureLine(Wire):
    """One signature."""

    keyid: str
    sig: str


class SignedLine(Wire):
    """One envelope as it is written."""

    payload: str
    payload_type: str
    signatures: tuple[SignatureLine, ...] = Field(min_length=1, max_length=1)


def sign(payloads: Sequence[bytes], signer: Signer) -> bytes:
    """The payloads' envelopes as JSON Lines; each signature is verified before it is given out."""
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import VerificationError

    lines: list[bytes] = []
    for payload in payloads:
        envelope = Envelope(payload, PAYLOAD_TYPE, {})
        try:
            envelope.sign(signer)
            envelope.verify([signer.public_key], 1)
        except VerificationError as error:
            raise AttestError(
                "the signature does not fit the public key", mend="give the public key of the key that signs, --public-key"
            ) from error
        except Exception as error:  # the library's signers raise what their devices and services do
            raise AttestError("the key did not sign", found=f"{type(error).__name__}: {error}") from error
        lines.append(canonical_json(envelope.to_dict()))
    return b"\n".join(lines) + b"\n"


def read_lines(data: bytes) -> tuple[SignedLine, ...]:
    """The envelopes of a file. Raises RefusedAttestation where it is none."""
    if not data.endswith(b"\n") or len(data) > SIZE_LIMIT:
        raise _unreadable("a last line that is not whole" if len(data) <= SIZE_LIMIT else "a file that is too large")
    try:
        return tuple(map(_read_line, data[:-1].split(b"\n")))
    except ValidationError as error:
        raise _unreadable(error.errors(include_url=False)[0]["msg"]) from error


def _read_line(data: bytes) -> SignedLine:
    """One envelope. Written otherwise it is refused: of a field that stands there twice, other readers may take the other one."""
    line = SignedLine.model_validate_json(data, by_alias=True, by_name=False)
    if canonical_json(line.model_dump(mode="json")) != data:
        raise _unreadable("an envelope that is not canonical JSON (sorted fields, each once, no spaces)")
    return line


def opened(line: SignedLine, keys: Sequence[Key]) -> bytes | None:
    """The payload, if one of the keys signed it; else null. Says nothing about what the payload is."""
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import VerificationError
    from securesystemslib.signer import Signature

    signature = line.signatures[0]
    payload, raw = _decoded(line.payload), _decoded(signature.sig)
    if payload is None or raw is None:
        return None
    envelope = Envelope(payload, line.payload_type, {signature.keyid: Signature(signature.keyid, raw.hex())})
    try:
        envelope.verify(list(keys), 1)
    except VerificationError:
        return None
    return payload


def _decoded(text: str) -> bytes | None:
    """Base64 in its canonical form; null otherwise."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if base64.b64encode(data).decode() == text else None


def _unreadable(found: str) -> RefusedAttestation:
    return RefusedAttestation(
        "attestation",
        "the file is no attestation",
        expected="attestation.intoto.jsonl as gate attest writes it: one DSSE envelope a line",
        found=found,
        mend="attest the run again: gate attest RUN --key K",
    )
