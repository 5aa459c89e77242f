"""A bundle's folder, verified before anything in it is parsed.

In: a folder, a public key or none, whether a signature is required. Out: a `Bundle`. Every refusal is a `BundleError` with one
reason and what to do about it. The manifest must list every file and no other, each a plain file of a sane size with the digest
that it states; the signature is over the manifest's bytes, so it covers all of them.
"""

import base64
import binascii
import hashlib
import json
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pydantic import BaseModel, JsonValue, ValidationError

from guard_server.bundle_spec import BundleSpec, Manifest
from guard_server.errors import BundleError

MODEL: Final = "model.onnx"
TOKENIZER: Final = "tokenizer.json"
SPEC: Final = "bundle.json"
CARD: Final = "card.json"
MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "manifest.sig"
REQUIRED: Final = (MODEL, TOKENIZER, SPEC, CARD)
_MIB = 1 << 20
_LARGEST: Final = {MODEL: 2048 * _MIB, TOKENIZER: 64 * _MIB, SIGNATURE: 4096}
_LARGEST_OTHER = 8 * _MIB
_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class VerifiedFiles:
    """A folder whose files are those of its manifest."""

    folder: Path
    """Resolved: a link to the folder that is moved later changes nothing here."""
    digest: str
    """SHA-256 of manifest.json, hexadecimal: the bundle's digest."""
    files: dict[str, str]
    """File name to SHA-256."""
    signed: bool
    """Whether there is a signature."""
    verified: bool
    """Whether it was checked against a public key."""

    def read(self, name: str) -> bytes:
        """A listed file's bytes, checked against its digest again (it may have changed since); raises `BundleError`."""
        data = _plain_bytes(self.folder, name)
        if hashlib.sha256(data).hexdigest() != self.files[name]:
            msg = f"{self.folder}: {name} is not what manifest.json states; copy or build the bundle again"
            raise BundleError(msg)
        return data


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle, its model not yet loaded."""

    files: VerifiedFiles
    spec: BundleSpec
    card: dict[str, JsonValue]

    @property
    def digest(self) -> str:
        """SHA-256 of manifest.json, hexadecimal."""
        return self.files.digest


def load_bundle(folder: Path, *, public_key: Path | None, require_signed: bool) -> Bundle:
    """The bundle in `folder`, verified, then parsed; raises `BundleError`."""
    files = check_bundle_files(folder, public_key=public_key, require_signed=require_signed)
    spec = _parsed(BundleSpec, files.read(SPEC), f"{files.folder}: {SPEC}")
    try:
        card = json.loads(files.read(CARD))
    except ValueError as error:
        msg = f"{files.folder}: {CARD} is not JSON ({error}); build the bundle again"
        raise BundleError(msg) from error
    if not isinstance(card, dict):
        msg = f"{files.folder}: {CARD} must hold an object; build the bundle again"
        raise BundleError(msg)
    return Bundle(files, spec, card)


def check_bundle_files(folder: Path, *, public_key: Path | None, require_signed: bool) -> VerifiedFiles:
    """Check signature, list of files, sizes and digests, parsing no file but the manifest; raises `BundleError`."""
    if not folder.is_dir():
        msg = f"{folder} is no folder; name the folder that holds manifest.json"
        raise BundleError(msg)
    folder = folder.resolve()
    data = _plain_bytes(folder, MANIFEST)
    present = {entry.name for entry in folder.iterdir()}
    signature = _plain_bytes(folder, SIGNATURE) if SIGNATURE in present else None
    verified = _check_signature(folder, data, signature, public_key, require_signed=require_signed)
    manifest = _parsed(Manifest, data, f"{folder}: {MANIFEST}")
    _check_names(folder, present - {MANIFEST, SIGNATURE}, set(manifest.files))
    checked = VerifiedFiles(folder, hashlib.sha256(data).hexdigest(), dict(manifest.files), signature is not None, verified)
    for name in sorted(manifest.files):
        checked.read(name)
    return checked


def _check_signature(
    folder: Path, data: bytes, signature: bytes | None, public_key: Path | None, *, require_signed: bool
) -> bool:
    """Whether the signature was checked; a wrong one is refused even where none is required."""
    if require_signed and public_key is None:
        msg = "a signature is required and no public key is given; name its file (GUARD_PUBLIC_KEY, or --public-key)"
        raise BundleError(msg)
    if signature is None:
        if require_signed:
            msg = f"{folder} is not signed and a signature is required; sign it with `guard bundle --key`"
            raise BundleError(msg)
        return False
    if public_key is None:
        return False
    key = _public_key(public_key)
    try:
        key.verify(base64.b64decode(signature.strip(), validate=True), data, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, binascii.Error) as error:
        msg = f"{folder}: {SIGNATURE} does not fit {MANIFEST} and the key {public_key}; get the bundle again, or the right key"
        raise BundleError(msg) from error
    return True


def _public_key(path: Path) -> ec.EllipticCurvePublicKey:
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        msg = f"{path} cannot be read as a public key in PEM form; check the file"
        raise BundleError(msg) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        msg = f"{path} is no ECDSA P-256 public key; signatures of bundles are of that kind"
        raise BundleError(msg)
    return key


def _check_names(folder: Path, present: set[str], listed: set[str]) -> None:
    if missing := [name for name in REQUIRED if name not in listed]:
        msg = f"{folder}: {MANIFEST} does not list {', '.join(missing)}; build the bundle again"
        raise BundleError(msg)
    if absent := sorted(listed - present):
        # A name with a separator is never among the folder's entries, so nothing outside it is read.
        msg = f"{folder}: {absent[0]!r} is listed in {MANIFEST} and not in the folder; copy the whole bundle"
        raise BundleError(msg)
    if extra := sorted(present - listed):
        msg = f"{folder}: {extra[0]!r} is not listed in {MANIFEST}; remove it or build the bundle again"
        raise BundleError(msg)


def _plain_bytes(folder: Path, name: str) -> bytes:
    """The bytes of a file of the folder that is a plain one (no link, no folder), not empty and not too large."""
    path = folder / name
    try:
        info = path.lstat()
        if not stat.S_ISREG(info.st_mode):
            msg = f"{folder}: {name} is no plain file (a link or a folder); copy the file itself"
            raise BundleError(msg)
        if not 0 < info.st_size <= _LARGEST.get(name, _LARGEST_OTHER):
            msg = f"{folder}: {name} has {info.st_size} bytes, allowed are 1 to {_LARGEST.get(name, _LARGEST_OTHER)}"
            raise BundleError(msg)
        return path.read_bytes()
    except OSError as error:
        msg = f"{folder}: {name} cannot be read ({error.strerror}); copy the whole bundle, readable by this user"
        raise BundleError(msg) from error


def _parsed(kind: type[_Model], data: bytes, where: str) -> _Model:
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(str(part) for part in first["loc"])
        msg = f"{where}: {at + ': ' if at else ''}{first['msg']}; build the bundle with this version"
        raise BundleError(msg) from error
