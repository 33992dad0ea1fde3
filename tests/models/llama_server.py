"""llama.cpp's own HTTP server as a process: `with llama_server(file) as url`. It comes with the package xllamacpp."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SERVE = """
import sys
from xllamacpp import CommonParams, Server, ggml_type, llama_flash_attn_type

params = CommonParams()
params.model.path = sys.argv[1]
params.hostnames = ["127.0.0.1"]
params.port = 0
params.n_parallel = int(sys.argv[2])
params.cpuparams.n_threads = 1
params.warmup = False
params.cache_type_k = params.cache_type_v = ggml_type.GGML_TYPE_F32  # to be compared with ONNX Runtime's rows
params.flash_attn_type = llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
server = Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def llama_server(file: Path, slots: int = 4) -> Iterator[str]:
    """Serves a GGUF file with as many slots; keys and values in fp32."""
    words = [sys.executable, "-c", SERVE, str(file), str(slots)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        url = process.stdout.readline().decode().strip()
        assert url.startswith("http://"), "the server did not start"
        yield url
    finally:
        process.kill()
        process.communicate()
