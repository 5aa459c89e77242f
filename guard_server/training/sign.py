"""Manifest and signature of a bundle: a folder in, `manifest.json` and `manifest.sig` out; and the key pair for it.

The signature is ECDSA (P-256, SHA-256, deterministic nonce) over manifest.json's bytes, DER in base64, so that

    base64 -d manifest.sig > sig && openssl dgst -sha256 -verify guard-public.pem -signature sig manifest.json

checks it without this program.
"""

import base64
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from guard_server.bundle import MANIFEST, SIGNATURE
from guard_server.bundle_spec import Manifest

PRIVATE_KEY: Final = "guard-private.pem"
PUBLIC_KEY: Final = "guard-public.pem"


def run_keygen(folder: Path, *, force: bool = False) -> tuple[Path, Path]:
    """Write a new key pair into the folder: (private, readable by the owner alone; public).

    Raises `FileExistsError` where one is there and `force` is not set: overwriting a private key is not to be undone.
    """
    private, public = folder / PRIVATE_KEY, folder / PUBLIC_KEY
    for path in (private, public):
        if path.exists() and not force:
            msg = f"{path} is there already; --force replaces it"
            raise FileExistsError(msg)
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    private.unlink(missing_ok=True)
    descriptor = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def write_manifest(folder: Path, names: Iterable[str]) -> str:
    """Write the manifest of the named files; returns the bundle's digest, hexadecimal."""
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in sorted(names)}
    content = (json.dumps(Manifest(files=files).model_dump(), indent=1, sort_keys=True) + "\n").encode()
    (folder / MANIFEST).write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def read_key(key: Path) -> ec.EllipticCurvePrivateKey:
    """The private key in a file; raises `ValueError` where it holds no P-256 private key."""
    try:
        private = serialization.load_pem_private_key(key.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        msg = f"{key}: no private key in PEM form without a password ({error})"
        raise ValueError(msg) from error
    if not isinstance(private, ec.EllipticCurvePrivateKey) or not isinstance(private.curve, ec.SECP256R1):
        msg = f"{key}: not a P-256 key; `guard keygen` makes one"
        raise ValueError(msg)
    return private


def sign_manifest(folder: Path, key: Path) -> None:
    """Write `manifest.sig`; raises as `read_key` does."""
    # A deterministic nonce: the same manifest and key give the same bytes.
    signature = read_key(key).sign((folder / MANIFEST).read_bytes(), ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    # No line end: the server's reader is strict.
    (folder / SIGNATURE).write_bytes(base64.b64encode(signature))
