"""Publishing to a repository of the Hugging Face Hub, and pulling from there.

The Hub's own client talks to a small server here that keeps repositories as the Hub does.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


class Hub:
    """Repositories in memory. files: of a repository by its name, then by path."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.commits: list[str] = []
        self.address = ""

    def get(self, path: str) -> bytes | None:
        """What is answered to a GET; None for 404."""
        for repository, files in self.files.items():
            if path.startswith(f"/api/models/{repository}/tree/"):
                tree = [
                    {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                    for name, content in files.items()
                ]
                return json.dumps(tree).encode()
            if path.startswith(f"/api/models/{repository}"):
                siblings = [{"rfilename": name} for name in files]
                about = {"id": repository, "sha": "1" * 40, "siblings": siblings}
                return json.dumps(about).encode()
            for revision in ("main", "1" * 40):
                start = f"/{repository}/resolve/{revision}/"
                if path.startswith(start):
                    return files.get(path.removeprefix(start))
        return None

    def post(self, path: str, body: bytes) -> dict[str, object]:
        """What is answered to a POST."""
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, [asked.get("organization"), asked["name"]]))
            self.files.setdefault(name, {})
            return {"url": f"{self.address}/{name}"}
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            return {
                "files": [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for f in files
                ]
            }
        if "/commit/" in path:
            repository = path.removeprefix("/api/models/").partition("/commit/")[0]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "header":
                    self.commits.append(line["value"]["summary"])
                elif line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.files[repository][line["value"]["path"]] = content
            url = f"{self.address}/{repository}/commit/{'1' * 40}"
            return {"commitUrl": url, "commitOid": "1" * 40}
        return {}


@pytest.fixture
def hub() -> Iterator[Hub]:
    kept = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = kept.get(self.path.partition("?")[0])
            self.reply(404 if content is None else 200, b"" if content is None else content)

        do_HEAD = do_GET

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.reply(200, json.dumps(kept.post(self.path.partition("?")[0], body)).encode())

        def reply(self, state: int, content: bytes) -> None:
            self.send_response(state)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{len(content)}"')
            self.send_header("X-Repo-Commit", "1" * 40)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    kept.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield kept
    server.shutdown()
    server.server_close()
    thread.join()


def workshop(hub: Hub, cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command with this Hub as its Hub; it reads its address once, when it starts."""
    environment = os.environ | {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(cache / "hf"),
        "HF_TOKEN": "hf_of_a_test",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "WORKSHOP_CACHE": str(cache),
    }
    command = [sys.executable, "-m", "workshop_lib.cli", "pretrained", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=cache, check=False
    )


def test_publish_and_pull(hub, tmp_path):
    done = workshop(hub, tmp_path, "publish", "tokenizer-tiny", "--hub", "someone/models")
    assert done.returncode == 0, done.stderr
    files = hub.files["someone/models"]
    assert set(files) == {"README.md", "tokenizer-tiny.json", "tokenizer-tiny.safetensors"}
    assert b"## tokenizer-tiny" in files["README.md"]
    # Under a name that this registry does not know, as on another machine.
    entry = json.loads(files["tokenizer-tiny.json"])
    entry |= {"name": "theirs", "file": "theirs.safetensors"}
    files["theirs.json"] = json.dumps(entry).encode()
    files["theirs.safetensors"] = files["tokenizer-tiny.safetensors"]
    done = workshop(hub, tmp_path, "pull", "theirs", "--mirror", "someone/models")
    assert done.returncode == 0, done.stderr
    pulled = tmp_path / "theirs.safetensors"
    assert pulled.read_bytes() == files["tokenizer-tiny.safetensors"]
    # What others have put there stays, in the cards, too.
    done = workshop(hub, tmp_path, "publish", "dynamics-tiny", "--hub", "someone/models")
    assert done.returncode == 0, done.stderr
    page = files["README.md"].decode()
    assert all(f"## {name}\n" in page for name in ("theirs", "tokenizer-tiny", "dynamics-tiny"))
    assert "theirs.safetensors" in files and len(hub.commits) == 2


def test_a_hub_that_is_not_there_is_one_clear_line(hub, tmp_path):
    hub.address = "http://127.0.0.1:1"
    done = workshop(hub, tmp_path, "publish", "tokenizer-tiny", "--hub", "someone/models")
    assert done.returncode == 1
    assert "the Hub did not take it" in done.stderr and "Traceback" not in done.stderr
