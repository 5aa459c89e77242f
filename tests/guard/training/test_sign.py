"""Manifest and signature: what was changed is named, and openssl agrees."""

import base64
import shutil
import subprocess
from pathlib import Path

import pytest

from guard_server.training.sign import changed_files, run_keygen, sign_manifest, signed_by, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "model.onnx").write_bytes(b"weights")
    (bundle / "card.json").write_bytes(b"{}")
    write_manifest(bundle, ["model.onnx", "card.json"])
    return bundle


def test_a_changed_byte_is_named(folder: Path) -> None:
    """An untouched folder shows nothing; one changed byte and one missing file are named."""
    assert changed_files(folder) == []
    (folder / "model.onnx").write_bytes(b"weightz")
    assert changed_files(folder) == ["model.onnx"]
    (folder / "card.json").unlink()
    assert changed_files(folder) == ["card.json", "model.onnx"]


def test_the_digest_is_the_same_for_the_same_files(folder: Path) -> None:
    """Writing the manifest again, names in another order, gives the same digest; another file's content another one."""
    first = write_manifest(folder, ["card.json", "model.onnx"])
    assert write_manifest(folder, ["model.onnx", "card.json"]) == first
    (folder / "card.json").write_bytes(b"[]")
    assert write_manifest(folder, ["model.onnx", "card.json"]) != first


def test_openssl_verifies_the_signature(folder: Path, tmp_path: Path) -> None:
    """`openssl dgst -verify` accepts the signature over the manifest and refuses it over another one."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    private, public = run_keygen(tmp_path / "keys")
    sign_manifest(folder, private)
    signature = tmp_path / "sig"
    signature.write_bytes(base64.b64decode((folder / "manifest.sig").read_bytes()))
    command = [openssl, "dgst", "-sha256", "-verify", public, "-signature", signature, folder / "manifest.json"]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    write_manifest(folder, ["card.json"])
    assert subprocess.run(command, check=False, capture_output=True).returncode != 0


def test_signatures_repeat_and_follow_the_manifest(folder: Path, tmp_path: Path) -> None:
    """The same manifest gets the same signature; another manifest, another key or no signature is refused."""
    private, public = run_keygen(tmp_path / "keys")
    assert not signed_by(folder, public)
    sign_manifest(folder, private)
    first = (folder / "manifest.sig").read_bytes()
    sign_manifest(folder, private)
    assert (folder / "manifest.sig").read_bytes() == first
    assert signed_by(folder, public)
    assert not signed_by(folder, run_keygen(tmp_path / "others")[1])
    write_manifest(folder, ["card.json"])
    assert not signed_by(folder, public)


def test_a_private_key_is_kept_and_private(tmp_path: Path) -> None:
    """Only the owner may read the private key, and a second call replaces it only when forced."""
    private, _ = run_keygen(tmp_path)
    assert private.stat().st_mode & 0o077 == 0
    before = private.read_bytes()
    with pytest.raises(FileExistsError, match="--force"):
        run_keygen(tmp_path)
    assert private.read_bytes() == before
    run_keygen(tmp_path, force=True)
    assert private.read_bytes() != before


def test_a_file_that_is_no_key_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    """A text file given as the key is an error that names it."""
    (tmp_path / "key.pem").write_text("not a key")
    with pytest.raises(ValueError, match="key.pem"):
        sign_manifest(folder, tmp_path / "key.pem")
