"""What goes wrong, in the shape of OpenAI's API, with the status that says whose fault it is."""

from __future__ import annotations

from typing import Any

from airdraft.errors import AirdraftError, BadParameterError, LinkError, RefusedError

_INVALID, _SERVER = "invalid_request_error", "server_error"
# Codes of the protocol that the request is to blame for; the rest is between device and edge.
_REFUSED = {
    "context": (400, "context_length_exceeded"),
    "scheme": (400, "invalid_value"),
    "busy": (503, "busy"),
    "quota": (429, "insufficient_quota"),
    "revoked": (401, "invalid_api_key"),
}


class ApiError(AirdraftError):
    """A request that is refused with an HTTP status."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None, kind: str = _INVALID
    ) -> None:
        """`param`: the field at fault. `code`, `kind`: what OpenAI calls `code` and `type`."""
        super().__init__(message)
        self.status, self.param, self.code, self.kind = status, param, code, kind

    def body(self) -> dict[str, Any]:
        """The object that is sent."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}


def as_api_error(error: AirdraftError) -> ApiError:
    """The same, seen by a client of the API."""
    if isinstance(error, ApiError):
        return error
    message = str(error)
    if isinstance(error, BadParameterError):
        field = _field(message)
        return ApiError(400, message, field, "context_length_exceeded" if field == "prompt" else "invalid_value")
    if isinstance(error, RefusedError) and error.code in _REFUSED:
        status, code = _REFUSED[error.code]
        kind = _INVALID if status in (400, 401) else _SERVER
        return ApiError(status, message, _field(message) if status == 400 else None, code, kind)
    if isinstance(error, LinkError):
        return ApiError(503, message, None, "edge_unreachable", _SERVER)
    return ApiError(502, message, None, getattr(error, "code", None), _SERVER)


def _field(message: str) -> str | None:
    """Messages about a parameter begin with its name, as the command line writes it."""
    if message.startswith("the prompt is ") and "context" in message:
        return "prompt"
    name, found, _ = message.partition(" is ")
    names = {"temperature", "top-k", "top-p", "min-p", "seed", "scheme", "logprobs"}
    first = name.split(" ")[0]
    return first.replace("-", "_") if found and first in names else None
