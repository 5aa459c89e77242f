"""A loopback server in the Hugging Face hub's layout, for the real huggingface_hub to talk to through HF_ENDPOINT."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer(ThreadingHTTPServer):
    """Serves folders as `org/NAME`, each at one commit that `main` leads to, and keeps the requests."""

    daemon_threads = True

    def __init__(self, folders: dict[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folders = folders
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        """What HF_ENDPOINT is set to."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def listing(self, name: str) -> list[dict[str, object]]:
        """The tree API's answer."""
        folder = self.folders[name]
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        return [
            {
                "type": "file",
                "path": file.relative_to(folder).as_posix(),
                "size": file.stat().st_size,
                "oid": hashlib.sha1(file.read_bytes()).hexdigest(),
            }
            for file in files
        ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *args: object) -> None:
        """Stay silent."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        match = re.fullmatch(r"/api/models/org/(?P<name>[^/]+)(/(?P<what>revision|tree)/(?P<rest>[^/]+))?", path) or re.fullmatch(
            r"/org/(?P<name>[^/]+)/(?P<what>resolve)/(?P<rest>.+)", path
        )
        if match is None or match["name"] not in self.server.folders:
            self._send(404, b"{}", body, {"X-Error-Code": "RepoNotFound"})
        elif match["what"] == "resolve":
            content = (self.server.folders[match["name"]] / match["rest"].removeprefix(f"{COMMIT}/")).read_bytes()
            etag = hashlib.sha1(content).hexdigest()
            self._send(200, content, body, {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'})
        elif match["rest"] not in {None, "main", COMMIT}:
            self._send(404, b"{}", body, {"X-Error-Code": "RevisionNotFound"})
        elif match["what"] == "tree":
            self._send(200, json.dumps(self.server.listing(match["name"])).encode(), body)
        else:
            self._send(200, json.dumps({"id": f"org/{match['name']}", "sha": COMMIT, "siblings": []}).encode(), body)

    def _send(self, status: int, content: bytes, body: bool, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


@contextmanager
def serve(folders: dict[str, Path]) -> Iterator[HubServer]:
    """Run the server on a thread while the block lasts."""
    with HubServer(folders) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
