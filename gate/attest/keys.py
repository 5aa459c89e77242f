"""Keys: a PEM file or a URI comes in, securesystemslib's signer or public key goes out; and a new pair for `gate keygen`.

Keys in files are elliptic curves (P-256, P-384, P-521), what model-signing takes too. Where a URI leads (a PKCS#11 token, a
cloud's key management, Vault), the library does the rest; the public key always comes from a file, and nothing else decides
it. A passphrase comes from the environment or a file, never from an argument.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gate.errors import AttestError
from gate.json_lines import disk_failed, write_whole

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from securesystemslib.signer import Signer, SSlibKey

PRIVATE_KEY: Final = "gate-private.pem"
PUBLIC_KEY: Final = "gate-public.pem"
PASSPHRASE: Final = "TASKGATE_KEY_PASSPHRASE"
"""The environment's passphrase, where no file names one."""
CURVES: Final = ("secp256r1", "secp384r1", "secp521r1")
_URI: Final = re.compile(r"[a-z][a-z0-9]+:")
_SIZE_LIMIT: Final = 64 * 1024


def is_uri(key: str) -> bool:
    """Whether a key is named by a URI (`hsm:…`, `awskms:…`) and not by a path."""
    return bool(_URI.match(key)) and not Path(key).exists()


def passphrase(file: Path | None, environment: Mapping[str, str]) -> bytes | None:
    """The passphrase: the file's first line, else the environment's variable; null without either."""
    if file is None:
        found = environment.get(PASSPHRASE)
        return found.encode() if found else None
    lines = _read(file, "passphrase file").splitlines()
    if not lines or not lines[0]:
        raise AttestError(f"{file} holds no passphrase", expected="one line of text", found="an empty first line")
    return lines[0]


def generate(folder: Path, secret: bytes | None, *, force: bool = False) -> tuple[Path, Path]:
    """Write a new P-256 pair into the folder: (private, public); `secret` encrypts the private one.

    A pair that is there is kept unless `force` is set: a private key that was overwritten is gone.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private, public = folder / PRIVATE_KEY, folder / PUBLIC_KEY
    if not force and (there := [path for path in (private, public) if path.exists()]):
        raise AttestError(
            f"{there[0]} is there already",
            expected=f"a folder without {PRIVATE_KEY} and {PUBLIC_KEY}",
            mend="choose another --out, or replace the pair with --force; what the old key signed still needs its public one",
        )
    key = ec.generate_private_key(ec.SECP256R1())
    encryption = serialization.BestAvailableEncryption(secret) if secret else serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    write_whole(private, pem)
    write_whole(
        public, key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    try:
        public.chmod(0o644)
    except OSError as error:
        raise disk_failed(public, error) from error
    return private, public


def read_private(file: Path, secret: bytes | None) -> EllipticCurvePrivateKey:
    """The private key of a PEM file."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    data = _read(file, "private key")
    try:
        key = serialization.load_pem_private_key(data, password=secret)
    except TypeError as error:  # the library's word for a passphrase that is missing, or one too many
        if secret is None:
            raise AttestError(
                f"{file} is encrypted",
                expected=f"its passphrase in {PASSPHRASE}, or in the file that --passphrase-file names",
                found="neither",
                mend="set one of them; a passphrase is never an argument",
            ) from error
        raise AttestError(
            f"{file} is not encrypted", expected="no passphrase", found="one", mend=f"unset {PASSPHRASE}"
        ) from error
    except ValueError as error:
        wrong = secret is not None and b"ENCRYPTED" in data
        raise AttestError(
            f"{file} can't be read as a private key",
            expected="a PEM file with an elliptic-curve private key" + (", and its passphrase" if wrong else ""),
            found="another passphrase's key, or a damaged file" if wrong else "something else",
            mend="make a pair with gate keygen",
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in CURVES:
        raise _not_a_curve(file)
    return key


def read_public(file: Path) -> SSlibKey:
    """The public key of a PEM file."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from securesystemslib.signer import SSlibKey

    data = _read(file, "public key")
    try:
        key = serialization.load_pem_public_key(data)
    except ValueError as error:
        private = b"PRIVATE KEY" in data
        raise AttestError(
            f"{file} can't be read as a public key",
            expected="a PEM file with an elliptic-curve public key",
            found="a private key" if private else "something else",
            mend="give the public one; a private key belongs to the signer alone"
            if private
            else "give gate-public.pem of the signer",
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in CURVES:
        raise _not_a_curve(file)
    return SSlibKey.from_crypto(key)


def open_signer(key: str, public_key: Path | None, secret: bytes | None) -> Signer:
    """The signer of a private key's file or URI. With a public key's file, the pair is held to belong together."""
    from securesystemslib.signer import CryptoSigner

    if is_uri(key):
        return _signer_of_uri(key, public_key, secret)
    private = read_private(Path(key), secret)
    signer = CryptoSigner(private)
    if public_key is not None and read_public(public_key).keyid != signer.public_key.keyid:
        raise AttestError(
            f"{public_key} is not the public key of {key}", mend="give the public key of the same pair, or leave it out"
        )
    return signer


def _signer_of_uri(uri: str, public_key: Path | None, secret: bytes | None) -> Signer:
    from securesystemslib.exceptions import UnsupportedLibraryError
    from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, Signer

    scheme = uri.partition(":")[0]
    if scheme not in SIGNER_FOR_URI_SCHEME:
        raise AttestError(
            f"no key is reached by {scheme}:",
            expected=f"a PEM file, or one of {', '.join(f'{name}:' for name in sorted(SIGNER_FOR_URI_SCHEME))}",
            found=f"neither a file nor a known scheme: {uri}",
        )
    if public_key is None:
        raise AttestError("a key named by a URI needs its public key beside it", mend="give --public-key FILE (PEM)")
    pin = (secret or b"").decode()
    try:
        return Signer.from_priv_key_uri(uri, read_public(public_key), lambda _: pin)
    except UnsupportedLibraryError as error:
        raise AttestError(
            f"{scheme}: needs a library that is not installed",
            found=str(error),
            mend=f"pip install 'securesystemslib[{'vault' if scheme == 'hv' else scheme}]'",
        ) from error
    except (ValueError, OSError, LookupError) as error:
        raise AttestError(f"the key at {uri} can't be used", found=f"{type(error).__name__}: {error}") from error


def _read(file: Path, what: str) -> bytes:
    try:
        with file.open("rb") as stream:
            data = stream.read(_SIZE_LIMIT + 1)
    except OSError as error:
        raise AttestError(
            f"the {what} {file} can't be read",
            expected="a file",
            found=error.strerror or type(error).__name__,
            mend="check the path, and that this user may read it",
        ) from error
    if len(data) > _SIZE_LIMIT:
        raise AttestError(f"the {what} {file} can't be read", expected="a small file", found=f"over {_SIZE_LIMIT} bytes")
    return data


def _not_a_curve(file: Path) -> AttestError:
    return AttestError(
        f"{file} is a key of another kind",
        expected="an elliptic curve: P-256, P-384 or P-521",
        mend="make a pair with gate keygen, or with openssl ecparam -name prime256v1 -genkey -noout",
    )
