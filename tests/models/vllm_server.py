"""A real vLLM as a process of its own, on the CPU: `with vllm_server(python, folder)`, or the fixture `vllm_url`."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import pytest
import urllib3

from airdraft.models.files.folder import shipped

from ..e2e.processes import announced, started

PATIENCE_S = 300
"""Three processes import torch one after the other: 40 s on two idle cores."""

ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    # The engine binds itself to all cores but one; more threads in the HTTP server would only take turns.
    "OMP_NUM_THREADS": "1",
}
FLAGS = [
    *("--host", "127.0.0.1"),  # nobody else may ask it
    "--enforce-eager",  # compiling takes longer than the tests
    *("--max-model-len", "1024"),
    *("--max-logprobs", "4000"),  # of a row that tells too little under a guide
    *("--block-size", "32"),  # of the prefix cache, the least on a CPU: more of its edges are met, and less is computed
]


def python_with_vllm() -> Path:
    """The interpreter that AIRDRAFT_VLLM names. Skips the test if it names none."""
    path = os.environ.get("AIRDRAFT_VLLM")
    if not path:
        pytest.skip("AIRDRAFT_VLLM names no python with vLLM; `.ci/vllm FOLDER` makes FOLDER/bin/python")
    return Path(path)


@dataclass
class Server:
    url: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """Ends all its processes at once, as a failure of the machine would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def vllm_server(python: Path, folder: Path, dtype: str = "float32") -> Iterator[Server]:
    """Serves the model in `folder` (config.json, tokenizer.json, model.safetensors) under the name `target`.

    dtype: what numbers are computed in; float32 is to be compared with ONNX Runtime's rows.
    """
    with tempfile.TemporaryFile() as log:
        server = _started(python, folder, log, dtype)
        try:
            yield server
        finally:
            server.kill()


_OURS: list[Server] = []
"""Started here and used elsewhere, too: kept, so that nothing warns of a process that nobody waits for."""


@contextlib.contextmanager
def shared_vllm(tmp: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of one vLLM that serves the shipped target to all workers of a test run. It ends with its last user.

    A user holds a shared lock on a file, which ends with its process whatever happens; who gets it alone was the last.
    """
    python, root = python_with_vllm(), tmp.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    record = root / "vllm.json"
    with (root / "vllm.users").open("w") as users:
        with _turn(root):
            fcntl.flock(users, fcntl.LOCK_SH)
            if not record.exists():
                with (root / "vllm.log").open("w+b") as log:
                    server = _started(python, shipped("target"), log)
                _OURS.append(server)
                record.write_text(json.dumps({"url": server.url, "pid": server.process.pid}))
            found = json.loads(record.read_text())
        try:
            yield found["url"]
        finally:
            with _turn(root), contextlib.suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                record.unlink()
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(found["pid"], signal.SIGKILL)


@contextlib.contextmanager
def _turn(root: Path) -> Iterator[None]:
    """One worker after the other."""
    with (root / "vllm.turn").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def relayed(url: str) -> Iterator[Server]:
    """The server at `url` behind a process that can be killed: connections end, and nobody listens there any more."""
    way = ("link", "--to", url.replace("http://", "ws://"), "--port", "0", "--json")
    with started(*way, start_new_session=True) as process:
        yield Server(f"http://{urlsplit(announced(process)['url']).netloc}", process)


def _started(python: Path, folder: Path, log: IO[bytes], dtype: str = "float32") -> Server:
    """A server that answers. Fails the test if it does not."""
    port = _free_port()
    words = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--port", str(port)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | ENVIRONMENT
    process = subprocess.Popen(
        [*words, "--served-model-name", "target", "--dtype", dtype, *FLAGS],
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # its workers are in its group, and end with it
    )
    server = Server(f"http://127.0.0.1:{port}", process)
    if not _answers(server):
        server.kill()
        log.seek(0)
        pytest.fail(f"vLLM did not start; the end of its log:\n{log.read().decode(errors='replace')[-5000:]}")
    return server


def _free_port() -> int:
    """One that nobody is given who asks for any: it takes a minute until vLLM listens."""
    while True:
        port = random.randrange(10_000, 30_000)  # noqa: S311
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port


def _answers(server: Server) -> bool:
    until = time.monotonic() + PATIENCE_S
    with urllib3.PoolManager(retries=False) as pool:
        while time.monotonic() < until and server.process.poll() is None:
            try:
                if pool.request("GET", f"{server.url}/health", timeout=5).status == 200:
                    return True
            except urllib3.exceptions.HTTPError:
                pass  # not yet
            time.sleep(0.5)
    return False
