"""A hub on loopback: the few requests that its own client makes to list a repository and to fetch files of it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from .stores import COMMIT

SOURCE = Path(__file__).parents[2] / "src"
_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)")
_API = re.compile(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/[^/?]+)?(?:/?\?.*)?")
_SCRIPT = """
import json, sys
from airdraft.errors import ModelError
from airdraft.models.registry import resolve, text_files
for name, engine in json.loads(sys.argv[1]):
    try:
        print(json.dumps(["found", str(text_files(name) if engine == "text" else resolve(name, engine))]))
    except ModelError as problem:
        print(json.dumps(["refused", str(problem)]))
"""


class Hub:
    """Repositories by name, files by theirs. `refuse`: by a repository's name a status and the hub's word for it."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.refuse: dict[str, tuple[int, str]] = {}
        self.cut: int | None = None
        """Bytes after which the first transfer of a file ends."""
        self.fetched: list[tuple[str, str]] = []
        """Files that were sent, each with the Range that was asked for."""
        self.url = ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        api, file = _API.fullmatch(self.path), _RESOLVE.fullmatch(self.path)
        name = str((api or file or [None, ""])[1])
        files = self.hub.repos.get(name)
        if name in self.hub.refuse:
            status, word = self.hub.refuse[name]
            self._send(status, b"{}", {"X-Error-Code": word}, body)
        elif files is None:
            self._send(401, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
        elif file is not None and file[2] in files:
            self._file(file[2], files[file[2]], body)
        elif file is not None:
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"}, body)
        elif api is not None and api[2] == "tree":
            tree = [{"type": "file", "path": name, "size": len(raw), "oid": _hash(raw)} for name, raw in files.items()]
            self._send(200, json.dumps(tree).encode(), {}, body)
        else:
            told = {"id": "x/y", "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
            self._send(200, json.dumps(told).encode(), {}, body)

    def _file(self, name: str, raw: bytes, body: bool) -> None:
        asked = self.headers.get("Range", "")
        head = {"ETag": f'"{_hash(raw)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, end = int(first or 0), min(int(last or len(raw)) + 1, len(raw))
        if asked:
            head["Content-Range"] = f"bytes {start}-{end - 1}/{len(raw)}"
        if body:
            self.hub.fetched.append((name, asked))
        if body and not asked and self.hub.cut is not None and name.endswith((".gguf", ".onnx")):
            cut, self.hub.cut = self.hub.cut, None
            self.send_response(200)
            for key, value in {**head, "Content-Length": str(len(raw))}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(raw[:cut])
            self.close_connection = True
            return
        self._send(206 if asked else 200, raw[start:end], head, body)

    def _send(self, status: int, content: bytes, head: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **head}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


def _hash(raw: bytes) -> str:
    return hashlib.sha1(raw).hexdigest()  # noqa: S324  # the length of a git object's


@contextlib.contextmanager
def hub_server() -> Iterator[Hub]:
    """A hub that runs."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def environment(home: Path, url: str | None) -> dict[str, str]:
    """Of a process that knows no other hub than that at `url`; None: it is offline. All it keeps is in `home`."""
    told = {"HF_HOME": str(home / "hf"), "HF_ENDPOINT": url or "http://127.0.0.1:9",
            "HF_HUB_OFFLINE": "0" if url else "1", "XDG_CACHE_HOME": str(home / "cache"), "PYTHONPATH": str(SOURCE),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1", "HOME": str(home)}  # fmt: skip
    aside = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "LLAMA_CACHE", "OLLAMA_MODELS")
    return {name: value for name, value in os.environ.items() if name not in aside} | told


def ask(home: Path, url: str | None, *names: tuple[str, str | None]) -> tuple[list[tuple[str, str]], str]:
    """What a fresh process finds, model by model (name and engine), and what it writes to standard error."""
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, json.dumps(names)],
        env=environment(home, url), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [(kind, said) for kind, said in map(json.loads, done.stdout.splitlines())], done.stderr
