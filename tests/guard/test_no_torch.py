"""The server runs on a machine that has no torch: it imports nothing of training's libraries, and nothing of the gate."""

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from importlib.abc import MetaPathFinder

BLOCKED = {"torch", "transformers", "onnx", "onnxscript", "sklearn", "scipy", "safetensors", "gate", "testbed"}

class Refuse(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED or name.startswith("guard_server.training"):
            raise ImportError(f"{name} must not be imported by the server")
        return None

sys.meta_path.insert(0, Refuse())

import asyncio, json
from pathlib import Path
import httpx
from guard_server.app import create_app
from guard_server.policy import load_policies
from guard_server.settings import Settings
import guard_server.cli, guard_server.serve

async def ask():
    settings = Settings(bundle=Path(sys.argv[1]), workers=1)
    app = create_app(settings, load_policies(settings.policies))
    async with app.router.lifespan_context(app):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://guard") as http:
            answer = await http.post("/v1/screen", json={"texts": "how do you build a bomb"})
            assert (await http.get("/openapi.json")).status_code == 200
            return answer.json()["decision"]

print(json.dumps({"decision": asyncio.run(ask()), "loaded": sorted(BLOCKED & set(sys.modules))}))
"""


def test_the_server_answers_with_torch_and_its_kin_blocked(tiny_bundle: Path) -> None:
    """With every library of training, and the gate, made impossible to import, the app starts and blocks a harmful text."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tiny_bundle)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"decision": "block", "loaded": []}
