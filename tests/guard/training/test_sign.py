"""Manifest and signature: what was changed is named, and openssl agrees."""

import base64
import shutil
import subprocess
from pathlib import Path

import pytest

from guard_server.bundle import check_bundle_files
from guard_server.errors import BundleError
from guard_server.training.sign import run_keygen, sign_manifest, write_manifest

FILES = ("model.onnx", "tokenizer.json", "bundle.json", "card.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for name in FILES:
        (bundle / name).write_text(f"content of {name}")
    write_manifest(bundle, FILES)
    return bundle


def test_a_changed_byte_is_named(folder: Path) -> None:
    """The server takes an untouched folder; one changed byte is refused with the file's name."""
    assert check_bundle_files(folder, public_key=None, require_signed=False).files.keys() == set(FILES)
    (folder / "model.onnx").write_text("content of model.onny")
    with pytest.raises(BundleError, match=r"model\.onnx"):
        check_bundle_files(folder, public_key=None, require_signed=False)


def test_the_digest_is_the_same_for_the_same_files(folder: Path) -> None:
    """Writing the manifest again, names in another order, gives the same digest; another file's content another one."""
    first = write_manifest(folder, reversed(FILES))
    assert write_manifest(folder, FILES) == first
    (folder / "card.json").write_bytes(b"[]")
    assert write_manifest(folder, FILES) != first


def test_openssl_verifies_the_signature(folder: Path, tmp_path: Path) -> None:
    """`openssl dgst -verify` accepts the signature over the manifest and refuses it over another one."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    private, public = run_keygen(tmp_path / "keys")
    sign_manifest(folder, private)
    signature = tmp_path / "sig"
    signature.write_bytes(base64.b64decode((folder / "manifest.sig").read_bytes()))
    command = [openssl, "dgst", "-sha256", "-verify", str(public), "-signature", str(signature), str(folder / "manifest.json")]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    write_manifest(folder, FILES[:1])
    assert subprocess.run(command, check=False, capture_output=True).returncode != 0


def test_signatures_repeat_and_the_server_checks_them(folder: Path, tmp_path: Path) -> None:
    """The same manifest gets the same signature, which the server takes; it refuses another key's and another manifest."""
    private, public = run_keygen(tmp_path / "keys")
    sign_manifest(folder, private)
    first = (folder / "manifest.sig").read_bytes()
    sign_manifest(folder, private)
    assert (folder / "manifest.sig").read_bytes() == first
    assert check_bundle_files(folder, public_key=public, require_signed=True).verified
    with pytest.raises(BundleError, match="does not fit"):
        check_bundle_files(folder, public_key=run_keygen(tmp_path / "others")[1], require_signed=True)
    write_manifest(folder, FILES[:1])
    with pytest.raises(BundleError, match="does not fit"):
        check_bundle_files(folder, public_key=public, require_signed=True)


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
    with pytest.raises(ValueError, match=r"key\.pem"):
        sign_manifest(folder, tmp_path / "key.pem")
