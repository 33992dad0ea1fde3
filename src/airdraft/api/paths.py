"""Paths that are not served, and what to ask instead."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request

from airdraft.api.errors import ApiError, shown

SERVED = ("/v1/models", "/v1/completions", "/v1/chat/completions", "/v1/responses", "/tokenize", "/detokenize")
BASE = "the base URL of a client of OpenAI is that of this server with /v1 after it, once"
_OTHERS: Mapping[str, str] = {
    "/v1/embeddings": "no embeddings are made here; ask a server that has a model for them",
    "/v1/images": "the model reads and writes text only; leave it out",
    "/v1/audio": "the model reads and writes text only; leave it out",
    "/v1/conversations": "none are kept; give previous_response_id to /v1/responses, or all of the talk in its input",
    "/v1/messages": f"it is of Anthropic's API, and this is OpenAI's; {BASE}",
    "/api": f"it is of Ollama's API, and this is OpenAI's; {BASE}",
    "/v1/api": f"it is of Ollama's API, and this is OpenAI's; {BASE}",
}
"""The beginnings of paths that clients ask for, and what to do about them."""


def unserved(request: Request, error: HTTPException) -> ApiError:
    """Return the error for a path or a method that is not served, or for what else Starlette finds."""
    path = request.url.path
    what = f"{request.method} {shown(path)} is not supported"
    if error.status_code == 405:
        methods = " or ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
        return ApiError(405, f"{what}: ask it with {methods}", None, "unsupported_method")
    if error.status_code == 404:
        return ApiError(404, f"{what}: {_remedy(path)}", None, "unsupported_path")
    return ApiError(error.status_code, f"{what}: {error.detail}")


def _remedy(path: str) -> str:
    for begin, why in _OTHERS.items():
        if path == begin or path.startswith(f"{begin}/"):
            return why
    for served in sorted(SERVED, key=len, reverse=True):
        if path.rstrip("/").endswith(served.removeprefix("/v1")):
            return f"ask {served}" + (f"; {BASE}" if served.startswith("/v1") else "")
    return f"served are {', '.join(SERVED)}"
