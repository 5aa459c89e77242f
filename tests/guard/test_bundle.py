"""A bundle that is damaged, incomplete, unsigned or signed by another is refused before it is parsed."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from guard_server.bundle import check_bundle_files, load_bundle
from guard_server.cli import app
from guard_server.errors import BundleError
from tests.guard.tiny_bundle import write_manifest, write_tiny_bundle

KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_KEY = ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def folder(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy that the test may damage."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "copy"))


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed bundle."""
    return write_tiny_bundle(tmp_path_factory.mktemp("signed") / "b", key=KEY)


def _pem(folder: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> Path:
    path = folder / "public.pem"
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


def _load(folder: Path) -> None:
    load_bundle(folder, public_key=None, require_signed=False)


def test_a_whole_bundle_loads_with_the_digest_of_its_manifest(tiny_bundle: Path) -> None:
    """The digest is the SHA-256 of manifest.json, and an unsigned bundle says that it is."""
    bundle = load_bundle(tiny_bundle, public_key=None, require_signed=False)
    assert bundle.digest == hashlib.sha256((tiny_bundle / "manifest.json").read_bytes()).hexdigest()
    assert (bundle.files.signed, bundle.files.verified, bundle.spec.name) == (False, False, "tiny")
    assert bundle.card["bundle"] == "tiny"


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_changed_byte_is_found(data: st.DataObject, signed: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No byte of the manifest, or of a file that it lists, can change without a refusal."""
    copy = Path(shutil.copytree(signed, tmp_path_factory.mktemp("flip") / "b"))
    path = copy / data.draw(st.sampled_from(sorted({p.name for p in signed.iterdir()} - {"manifest.sig"})))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with pytest.raises(BundleError):
        load_bundle(copy, public_key=_pem(copy.parent, KEY), require_signed=True)


def _add_file(folder: Path) -> None:
    (folder / "more.txt").write_text("x")


def _add_folder(folder: Path) -> None:
    (folder / "sub").mkdir()


def _remove(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def _empty(folder: Path) -> None:
    (folder / "card.json").write_bytes(b"")
    write_manifest(folder)


def _huge(folder: Path) -> None:
    os.truncate(folder / "card.json", 9 << 20)
    write_manifest(folder)


def _link(folder: Path) -> None:
    outside = folder.parent / "card.json"
    (folder / "card.json").rename(outside)
    (folder / "card.json").symlink_to(outside)


def _no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def _unlisted_model(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    write_manifest(folder)


def _outside(folder: Path) -> None:
    outside = folder.parent / "secret.txt"
    outside.write_text("secret")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../secret.txt"] = hashlib.sha256(b"secret").hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _unknown_field(folder: Path) -> None:
    spec = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps(spec | {"surprise": 1}))
    write_manifest(folder)


def _card_is_a_list(folder: Path) -> None:
    (folder / "card.json").write_text("[]")
    write_manifest(folder)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_add_file, "'more.txt' is not listed"),
        (_add_folder, "'sub' is not listed"),
        (_remove, "'tokenizer.json' is listed in manifest.json and not in the folder"),
        (_empty, "card.json has 0 bytes"),
        (_huge, "card.json has 9437184 bytes"),
        (_link, "card.json is no plain file"),
        (_no_manifest, "manifest.json cannot be read"),
        (_unlisted_model, "does not list model.onnx"),
        (_outside, "'../secret.txt' is listed in manifest.json and not in the folder"),
        (_unknown_field, "bundle.json: surprise: Extra inputs"),
        (_card_is_a_list, "card.json must hold an object"),
    ],
)
def test_each_damage_has_its_reason(damage: Callable[[Path], None], reason: str, folder: Path) -> None:
    """The refusal names the file and the one thing that is wrong with it."""
    damage(folder)
    with pytest.raises(BundleError, match=reason.replace(".", r"\.")):
        _load(folder)


def test_nothing_is_parsed_before_its_digest_is_checked(folder: Path) -> None:
    """A bundle.json that is neither JSON nor listed as it is gets refused for its digest."""
    (folder / "bundle.json").write_text("{not json")
    with pytest.raises(BundleError, match=r"is not what manifest\.json states"):
        _load(folder)


def test_a_file_changed_after_the_check_is_not_used(folder: Path) -> None:
    """Reading checks again: the bytes that are loaded are the bytes that were verified."""
    files = check_bundle_files(folder, public_key=None, require_signed=False)
    (folder / "model.onnx").write_bytes(b"another model")
    with pytest.raises(BundleError, match=r"model.onnx is not what"):
        files.read("model.onnx")


def test_a_signature_by_the_right_key_is_verified(signed: Path, tmp_path: Path) -> None:
    """With the key: verified. Without: signed, not verified."""
    with_key = load_bundle(signed, public_key=_pem(tmp_path, KEY), require_signed=True).files
    without = load_bundle(signed, public_key=None, require_signed=False).files
    assert (with_key.signed, with_key.verified) == (True, True)
    assert (without.signed, without.verified) == (True, False)


@pytest.mark.parametrize("require_signed", [True, False])
def test_a_signature_by_another_key_is_refused_even_where_none_is_required(
    signed: Path, tmp_path: Path, require_signed: bool
) -> None:
    """A wrong signature is worse than none."""
    with pytest.raises(BundleError, match="does not fit"):
        load_bundle(signed, public_key=_pem(tmp_path, OTHER_KEY), require_signed=require_signed)


def test_an_unsigned_bundle_is_refused_where_a_signature_is_required(tiny_bundle: Path, tmp_path: Path) -> None:
    """The refusal says how to sign."""
    with pytest.raises(BundleError, match="not signed"):
        load_bundle(tiny_bundle, public_key=_pem(tmp_path, KEY), require_signed=True)


def test_verifying_with_a_key_asks_for_the_signature(signed: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    """`guard verify --public-key` ends with 0 for a bundle signed by that key alone: an unsigned one is refused."""
    given = ["--public-key", str(_pem(tmp_path, KEY)), "--bundle"]
    assert "signature verified" in CliRunner().invoke(app, ["verify", *given, str(signed)]).output
    refused = CliRunner().invoke(app, ["verify", *given, str(tiny_bundle)])
    assert isinstance(refused.exception, BundleError)


def test_a_required_signature_without_a_key_is_refused(signed: Path) -> None:
    """Nothing passes unchecked because the key was forgotten."""
    with pytest.raises(BundleError, match="no public key is given"):
        load_bundle(signed, public_key=None, require_signed=True)


def test_a_manifest_made_anew_does_not_fit_the_old_signature(signed: Path, tmp_path: Path) -> None:
    """Who can write files but not sign cannot swap the model, even with right digests."""
    copy = Path(shutil.copytree(signed, tmp_path / "b"))
    signature = (copy / "manifest.sig").read_bytes()
    (copy / "card.json").write_text("{}")
    write_manifest(copy)
    (copy / "manifest.sig").write_bytes(signature)
    with pytest.raises(BundleError, match="does not fit"):
        load_bundle(copy, public_key=_pem(tmp_path, KEY), require_signed=True)


@pytest.mark.parametrize("key", [rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())])
def test_a_key_of_another_kind_is_refused(
    signed: Path, tmp_path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
) -> None:
    """RSA and other curves are named as the wrong kind, not tried."""
    with pytest.raises(BundleError, match="no ECDSA P-256 public key"):
        load_bundle(signed, public_key=_pem(tmp_path, key), require_signed=True)


def test_a_file_that_is_no_key_is_refused(signed: Path, tmp_path: Path) -> None:
    """So is one that is not there."""
    (tmp_path / "no.pem").write_text("no key")
    for name in ("no.pem", "absent.pem"):
        with pytest.raises(BundleError, match="cannot be read as a public key"):
            load_bundle(signed, public_key=tmp_path / name, require_signed=True)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    """The message says what to name instead."""
    with pytest.raises(BundleError, match="name the folder"):
        _load(tmp_path / "absent")
