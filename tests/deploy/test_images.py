"""The images that run on a CPU: their Python sets, installed by the Dockerfile's own lines, and their entry points, run."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gate.attest.statement import Statement
from gate.history.location import Location
from gate.history.store import open_history
from tests.attest.conftest import model, passed, said  # noqa: F401 - fixtures, which pytest finds by their names here
from tests.attest.runs import key_number, signed
from tests.deploy.dockerfile import Replay, replay, stages
from tests.monitoring.programs import answers, until
from tests.ports import free_port

pytestmark = pytest.mark.full
LIMIT = 60_000_000
"""Bytes of site-packages that the image `verify` may have."""


def size(folder: Path) -> int:
    """Bytes of all files below."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def importable(image: Replay, *names: str) -> set[str]:
    """Which of the modules the image can find."""
    script = "import importlib.util, sys; print(*[n for n in sys.argv[1:] if importlib.util.find_spec(n)])"
    done = image.run("python", "-c", script, *names)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@contextmanager
def serving(image: Replay, command: list[str], url: str, env: dict[str, str]) -> Iterator[None]:
    """The image's entry point, once it answers."""
    log = image.root / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=image.root, env={**image.env, **env}, stdout=out, stderr=out)
    try:
        until(lambda: process.poll() is not None or answers(url), url)
        assert process.poll() is None, log.read_text(encoding="utf-8")
        yield
    finally:
        process.terminate()
        process.wait(timeout=120)


def test_verify_is_small_and_verifies(tmp_path: Path, model: Path, said: tuple[Statement, ...]) -> None:  # noqa: F811 - the fixtures
    """At most 60 MB, nothing but what it needs; a true attestation is accepted, and a changed weight file refused with 3."""
    image = replay("verify", tmp_path / "image")
    assert size(image.packages) <= LIMIT
    assert importable(image, "gate", "guard_server", "pip", "setuptools", "numpy", "torch") == {"gate"}
    key = tmp_path / "key.pem"
    key.write_text(key_number().public_key.keyval["public"], encoding="utf-8")
    attestation = tmp_path / "attestation.intoto.jsonl"
    attestation.write_bytes(signed(said))
    policy = json.loads(said[0].model_dump_json())["predicate"]["policy"]["digest"]["sha256"]
    command = [
        *stages()["verify"].last_list("ENTRYPOINT"),
        f"--candidate={model}",
        f"--attestation={attestation}",
        f"--key={key}",
    ]
    command += [f"--policy-digest={policy}", "--max-age=999999d", "--json"]
    done = image.run(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    weights = next(model.glob("*.safetensors"))
    before = weights.read_bytes()
    try:
        weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        done = image.run(*command)
    finally:
        weights.write_bytes(before)
    assert done.returncode == 3, done.stdout + done.stderr
    assert json.loads(done.stdout)["check"] == "subject"


def test_the_guard_serves_without_torch(tmp_path: Path) -> None:
    """The entry point answers a screening request; neither torch nor an installer is in the environment."""
    image = replay("guard", tmp_path / "image")
    absent = {"torch", "transformers", "pip", "setuptools"}
    assert importable(image, "guard_server", "onnxruntime", *absent) == {"guard_server", "onnxruntime"}
    stage = stages()["guard"]
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    env = {"GUARD_PORT": str(port), "GUARD_ALLOW_ANONYMOUS": "true"}
    with serving(image, [*stage.last_list("ENTRYPOINT"), *stage.last_list("CMD")], f"{url}/readyz", env):
        body = json.dumps({"texts": ["How do I kill a process that hangs?"]}).encode()
        request = urllib.request.Request(f"{url}/v1/screen", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            assert json.load(answer)["results"][0]["decision"] in {"allow", "flag", "block"}


def test_the_exporter_serves_a_history(tmp_path: Path) -> None:
    """The entry point opens a history, and says that it can be read."""
    image = replay("exporter", tmp_path / "image")
    assert importable(image, "gate", "sqlalchemy", "psycopg", "guard_server", "torch", "pip") == {"gate", "sqlalchemy", "psycopg"}
    stage = stages()["exporter"]
    history = str(tmp_path / "history.sqlite")
    open_history(Location.of_file(Path(history))).close()
    port = free_port()
    url = f"http://127.0.0.1:{port}/metrics"
    command = [*stage.last_list("ENTRYPOINT"), *stage.last_list("CMD"), "--host", "127.0.0.1", "--port", str(port)]
    with serving(image, command, url, {"GATE_HISTORY": history}), urllib.request.urlopen(url, timeout=60) as answer:
        assert b"gate_history_reachable 1.0" in answer.read()
