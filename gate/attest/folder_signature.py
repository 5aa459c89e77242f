"""The folder's own signature, in the OpenSSF Model Signing format: made and checked by model-signing.

It says who signed these files, and nothing about how they were evaluated; the attestation says that. Both name the same root
digest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gate.errors import AttestError, RefusedAttestation
from gate.json_lines import disk_failed
from gate.manifest import SIGNATURE


def sign_folder(folder: Path, signature: Path, key: Path, secret: bytes | None) -> None:
    """Write model-signing's signature of the folder, with the private key of a file."""
    from model_signing import signing

    place = signature.resolve()
    if place.is_relative_to(folder.resolve()) and place != folder.resolve() / SIGNATURE:
        raise AttestError(
            "the signature would become a part of the model that it signs",
            expected=f"a place outside {folder}, or {SIGNATURE} at its top",
            found=str(signature),
            mend="write it beside the folder",
        )
    # Bytes: 1.1.1 hands the password as it is to cryptography, which takes no text.
    config = signing.Config().use_elliptic_key_signer(private_key=key, password=secret)
    try:
        config.set_hashing_config(_hashing(folder, signature)).sign(folder, signature)
    except OSError as error:
        raise disk_failed(signature, error) from error
    except ValueError as error:
        raise AttestError(f"model-signing did not sign {folder}", found=str(error)) from error


def verify_folder(folder: Path, signature: Path, public_key: Path) -> None:
    """Refuse a folder that the signature is not of, or a signature by another key."""
    from model_signing import verifying

    if not signature.is_file():
        raise RefusedAttestation(
            "folder signature", "there is no signature of the folder", expected=str(signature), found="nothing"
        )
    config = verifying.Config().use_elliptic_key_verifier(public_key=public_key).set_hashing_config(_hashing(folder, signature))
    try:
        config.verify(folder, signature)
    except Exception as error:
        # model-signing raises whatever its parsers do on a damaged file; whichever it is, nothing was verified.
        raise RefusedAttestation(
            "folder signature",
            "the folder's own signature does not verify",
            expected=f"a signature by {public_key}",
            found=f"{type(error).__name__}: {error}",
        ) from error


def _hashing(folder: Path, signature: Path) -> Any:  # noqa: ANN401 - the library ships no types
    """What is hashed: all but git's own paths, and the signature where it lies in the folder; as `gate.manifest` does."""
    from model_signing import hashing

    inside = signature.resolve().is_relative_to(folder.resolve())
    ignored = [signature.resolve().relative_to(folder.resolve())] if inside else []
    return hashing.Config().set_ignored_paths(paths=ignored, ignore_git_paths=True)
