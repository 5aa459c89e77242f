"""Keys: pairs that are made, files that are none, passphrases from environment and file, and URIs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, CryptoSigner, Key, SecretsHandler, Signature, Signer

from gate.attest import keys
from gate.attest.envelope import sign
from gate.errors import AttestError

SECRET = "correct horse battery staple"


def pem_of(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey, file: Path) -> Path:
    """A private key's file, not encrypted."""
    form = serialization.PrivateFormat.PKCS8
    file.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return file


def told(function: object, *arguments: object) -> str:
    """The diagnostics of an AttestError."""
    with pytest.raises(AttestError) as caught:
        function(*arguments)  # type: ignore[operator]
    return caught.value.diagnostics()


def test_a_new_pair_signs_and_its_private_half_is_private(tmp_path: Path) -> None:
    """The private file is its owner's alone, the public one everybody's, and the two belong together."""
    private, public = keys.generate(tmp_path / "keys", None)
    assert private.stat().st_mode & 0o777 == 0o600
    assert public.stat().st_mode & 0o777 == 0o644
    signer = keys.open_signer(str(private), public, None)
    assert signer.public_key.keyid == keys.read_public(public).keyid
    assert sign([b"{}"], signer)


def test_a_pair_goes_through_no_file_that_lay_there(tmp_path: Path) -> None:
    """A link, or a file that all may read, left at the temporary file's place gets no byte of the private key."""
    (tmp_path / "elsewhere").write_bytes(b"mine")
    (tmp_path / "gate-private.pem.tmp").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "gate-public.pem.tmp").write_bytes(b"")
    private, _ = keys.generate(tmp_path, None)
    assert (tmp_path / "elsewhere").read_bytes() == b"mine"
    assert not private.is_symlink()
    (tmp_path / "gate-private.pem.tmp").write_bytes(b"")
    (tmp_path / "gate-private.pem.tmp").chmod(0o644)
    private, _ = keys.generate(tmp_path, None, force=True)
    assert private.stat().st_mode & 0o777 == 0o600


def test_a_pair_is_not_overwritten(tmp_path: Path) -> None:
    """A second keygen in the same folder is refused and changes nothing; --force replaces both halves."""
    private, public = keys.generate(tmp_path, None)
    before = private.read_bytes(), public.read_bytes()
    assert "--force" in told(keys.generate, tmp_path, None)
    public.unlink()
    assert "gate-private.pem is there already" in told(keys.generate, tmp_path, None)
    assert private.read_bytes() == before[0]
    keys.generate(tmp_path, None, force=True)
    assert (private.read_bytes(), public.read_bytes()) != before
    assert keys.open_signer(str(private), public, None)


def test_a_passphrase_encrypts_the_private_key(tmp_path: Path) -> None:
    """With a passphrase the file is encrypted: it opens with that one, and says what is missing without it or with another."""
    private, public = keys.generate(tmp_path, SECRET.encode())
    assert b"ENCRYPTED" in private.read_bytes()
    assert keys.open_signer(str(private), public, SECRET.encode())
    assert keys.PASSPHRASE in told(keys.open_signer, str(private), public, None)
    assert "passphrase" in told(keys.open_signer, str(private), public, b"another")
    plain, _ = keys.generate(tmp_path / "plain", None)
    assert "unset" in told(keys.open_signer, str(plain), None, SECRET.encode())


def test_a_passphrase_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    """The file's first line wins over the variable; an empty file is an error, not an empty passphrase."""
    file = tmp_path / "passphrase"
    file.write_text(f"{SECRET}\n")
    assert keys.passphrase(None, {}) is None
    assert keys.passphrase(None, {keys.PASSPHRASE: "other"}) == b"other"
    assert keys.passphrase(file, {keys.PASSPHRASE: "other"}) == SECRET.encode()
    file.write_text("\n")
    assert "no passphrase" in told(keys.passphrase, file, {})
    assert "can't be read" in told(keys.passphrase, tmp_path / "none", {})


@pytest.mark.parametrize("curve", ["prime256v1", "secp384r1", "secp521r1"])
def test_a_key_that_openssl_made_signs(curve: str, tmp_path: Path) -> None:
    """Keys of the three curves, as openssl writes them, sign and are read back."""
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    subprocess.run(["openssl", "ecparam", "-name", curve, "-genkey", "-noout", "-out", str(private)], check=True)
    subprocess.run(["openssl", "ec", "-in", str(private), "-pubout", "-out", str(public)], check=True, capture_output=True)
    assert sign([b"{}"], keys.open_signer(str(private), public, None))


def test_other_kinds_of_key_are_refused_by_name(tmp_path: Path) -> None:
    """RSA, Ed25519 and other curves are refused, as private and as public key: model-signing would not take them either."""
    others = (
        rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP256K1()),
    )
    for key in others:
        assert "elliptic curve" in told(keys.read_private, pem_of(key, tmp_path / "key.pem"), None)
        public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / "key.pub").write_bytes(public)
        assert "elliptic curve" in told(keys.read_public, tmp_path / "key.pub")


def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    """A text file, a missing one, a huge one and a private key in place of a public one each have a message."""
    (tmp_path / "text").write_text("hello")
    assert "can't be read as a private key" in told(keys.read_private, tmp_path / "text", None)
    assert "can't be read as a public key" in told(keys.read_public, tmp_path / "text")
    assert "can't be read" in told(keys.read_public, tmp_path / "none")
    (tmp_path / "huge").write_bytes(bytes(100_000))
    assert "small file" in told(keys.read_public, tmp_path / "huge")
    private, public = keys.generate(tmp_path / "keys", None)
    assert "belongs to the signer" in told(keys.read_public, private)
    _, other = keys.generate(tmp_path / "other", None)
    assert "not the public key" in told(keys.open_signer, str(private), other, None)
    assert public.exists()


def test_a_uri_names_its_scheme_or_is_told_which_there_are(tmp_path: Path) -> None:
    """An unknown scheme lists the known ones; a known one asks for the public key's file, and for its library."""
    assert "awskms:" in told(keys.open_signer, "vault9:key", None, None)
    assert "--public-key" in told(keys.open_signer, "hsm:2", None, None)
    assert {"hsm", "awskms", "gcpkms", "azurekms", "hv"} <= set(SIGNER_FOR_URI_SCHEME)
    _, public = keys.generate(tmp_path, None)
    assert "azurekms" in told(keys.open_signer, "azurekms://vault.example.com/keys/k/1", public, None)


def test_a_key_file_named_by_a_uri_signs(tmp_path: Path) -> None:
    """The library's own scheme for files reaches the signer through the way that tokens and services take."""
    private, public = keys.generate(tmp_path, None)
    assert keys.is_uri(f"file2:{private}")
    assert sign([b"{}"], keys.open_signer(f"file2:{private}", public, None))
    _, other = keys.generate(tmp_path / "other", None)
    assert "KeyMismatchError" in told(keys.open_signer, f"file2:{private}", other, None)


def test_a_signature_is_checked_before_it_is_given_out(tmp_path: Path) -> None:
    """A token that signs with another key than the public one given is found when it signs, not when somebody verifies."""
    private, _ = keys.generate(tmp_path, None)
    _, other = keys.generate(tmp_path / "other", None)
    token = Token(CryptoSigner(keys.read_private(private, None)), keys.read_public(other))
    assert "does not fit" in told(sign, [b"{}"], token)


class Token(Signer):
    """A signer whose public key is another's, as a token with its keys mixed up."""

    def __init__(self, signer: Signer, public_key: Key) -> None:
        self._signer = signer
        self._public_key = public_key

    @property
    def public_key(self) -> Key:
        """The wrong one."""
        return self._public_key

    @classmethod
    def from_priv_key_uri(cls, priv_key_uri: str, public_key: Key, secrets_handler: SecretsHandler | None = None) -> Signer:
        """No URI leads here."""
        raise NotImplementedError

    def sign(self, payload: bytes) -> Signature:
        """Sign with the one key, in the name of the other."""
        return Signature(self._public_key.keyid, self._signer.sign(payload).signature)
