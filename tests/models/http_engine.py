"""Small engines over real HTTP: one that answers what a test tells it to, and others that speak the formats
of vLLM and SGLang."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from airdraft.models.base import FloatArray
from airdraft.models.engines.onnx import OnnxModel

Answer = Callable[[str, Any], tuple[int, Any]]
"""Of a path and a decoded body (None for a GET): the status, and what to send: a value as JSON, bytes as they are."""


class Engine(ThreadingHTTPServer):
    """Answers in threads, keeps connections open as real engines do, and notes what it was asked."""

    daemon_threads = True

    def __init__(self, answer: Answer, port: int = 0) -> None:
        self.answer = answer
        self.asked: list[tuple[str, Any]] = []
        self._open = set[socket.socket]()
        super().__init__(("127.0.0.1", port), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self._thread.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def stop(self) -> None:
        """Ends as a killed process would: its port is closed, and so are its connections."""
        if self._thread.is_alive():
            self.shutdown()
            self._thread.join()
            self.server_close()
            for connection in self._open:
                with contextlib.suppress(OSError):  # the other side may have closed it
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that does not wait for its answer is not worth a traceback."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Engine

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, body: Any) -> None:
        self.server.asked.append((self.path, body))
        status, reply = self.server.answer(self.path, body)
        if status == 0:  # break off
            self.close_connection = True
            return
        data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Not to the tests' output."""


@contextlib.contextmanager
def serve(answer: Answer, port: int = 0) -> Iterator[Engine]:
    engine = Engine(answer, port)
    try:
        yield engine
    finally:
        engine.stop()


def served(name: str, max_model_len: int | None = None) -> dict[str, Any]:
    """What /v1/models says of one model."""
    return {"object": "list", "data": [{"id": name, "object": "model", "max_model_len": max_model_len}]}


def like_vllm(
    model: OnnxModel, *, name: str = "target", max_model_len: int = 1024, max_logprobs: int = 20,
    most_allowed: int = 4096,
) -> Answer:  # fmt: skip
    """Answers /v1/models and /v1/completions of token ids as vLLM does, with the rows of `model`.

    `most_allowed`: of `allowed_token_ids`.
    """

    def answer(path: str, body: Any) -> tuple[int, Any]:
        if path == "/v1/models":
            return 200, served(name, max_model_len)
        if path != "/v1/completions":
            return 404, {"detail": "Not Found"}
        if (asked := body["logprobs"] or 0) > max_logprobs:
            said = f"Requested sample logprobs of {asked}, which is greater than max allowed: {max_logprobs}"
            return 400, {"error": {"message": said}}
        allowed = body.get("allowed_token_ids")
        if len(allowed or ()) > most_allowed:
            return 400, {"error": {"message": "too many tokens"}}
        if max(map(len, body["prompt"])) + body["max_tokens"] > max_model_len:
            return 400, {"error": {"message": "max_tokens must be at least 1, got 0."}}
        choices = []
        for index, prompt in enumerate(body["prompt"]):
            logprobs = log_softmax(model.forward(model.new_cache(), 0, prompt, 1))[0]
            best = np.argsort(-logprobs)[:asked].tolist()
            drawn = max(allowed or range(logprobs.size), key=lambda token, row=logprobs: row[token])  # type: ignore[misc]
            top = {f"token_id:{i}": float(logprobs[i]) for i in (drawn, *best)}
            choices.append({"index": index, "text": "", "logprobs": {"top_logprobs": [top]}})
        return 200, {"choices": choices}

    return answer


def like_sglang(model: OnnxModel, *, name: str = "target", max_model_len: int = 1024) -> Answer:
    """Answers /v1/models and /generate as SGLang's documentation says, with the rows of `model`."""

    def scored(prompt: list[int], start: int, k: int, named: list[int]) -> dict[str, Any]:
        logprobs = log_softmax(model.forward(model.new_cache(), 0, prompt, len(prompt) - start))
        tops = [[[float(row[i]), int(i), None] for i in np.argsort(-row)[:k]] for row in logprobs]
        meta = {"input_top_logprobs": [None, *tops[:-1]], "output_top_logprobs": tops[-1:]}
        if named:
            meta["output_token_ids_logprobs"] = [[[float(logprobs[-1][i]), i, None] for i in named]]
        return {"meta_info": meta}

    def answer(path: str, body: Any) -> tuple[int, Any]:
        if path == "/v1/models":
            return 200, served(name, max_model_len)
        prompts, start, k = body["input_ids"], body.get("logprob_start_len", -1), body.get("top_logprobs_num", 0)
        if isinstance(prompts[0], int):
            return 200, scored(prompts, start % len(prompts), k, [])
        starts = start if isinstance(start, list) else [len(prompt) - 1 for prompt in prompts]
        named = body.get("token_ids_logprob") or [[] for _ in prompts]
        return 200, [scored(prompt, at, k, ids) for prompt, at, ids in zip(prompts, starts, named, strict=True)]

    return answer


def log_softmax(logits: FloatArray) -> Any:
    """float64 [rows, vocab]."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
