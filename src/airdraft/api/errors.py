"""Errors in the shape of OpenAI's API, each with the HTTP status that says whose fault it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airdraft.errors import AirdraftError, BadParameterError, Code, GuideError, LinkError, RefusedError

_INVALID, _SERVER = "invalid_request_error", "server_error"
_NAMES = {
    Code.CONTEXT: "context_length_exceeded",
    Code.SCHEME: "invalid_value",
    Code.GUIDE: "invalid_value",
    Code.QUOTA: "insufficient_quota",
    Code.REVOKED: "invalid_api_key",
}
"""OpenAI's own words. Every other code is sent as it is."""
_FIELDS = {
    name.replace("_", "-"): name for name in ("temperature", "top_k", "top_p", "min_p", "seed", "scheme", "logprobs")
}
MOST_WORDS = 60
"""Characters of a client's words that an error repeats."""


class ApiError(AirdraftError):
    """A request that is refused with an HTTP status."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None, kind: str = _INVALID
    ) -> None:
        """`param` is the field at fault; `code` and `kind` are what OpenAI calls `code` and `type`."""
        super().__init__(message)
        self.status, self.param, self.code, self.kind = status, param, code, kind

    def body(self) -> dict[str, Any]:
        """Return the object to send."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}


def invalid(field: str, message: str) -> ApiError:
    """Return the error for a field whose value is not one of those that it may have."""
    return ApiError(400, message, field, "invalid_value")


def mistyped(field: str, message: str) -> ApiError:
    """Return the error for a field that holds something of another kind."""
    return ApiError(400, message, field, "invalid_type")


def only(field: str, given: Mapping[str, Any], *known: str) -> None:
    """Raise `ApiError` for a part of an object that means nothing here. Null is as if it were not there."""
    for name, value in given.items():
        if value is not None and name not in known:
            where = f"{field}.{name[:MOST_WORDS]}"
            raise invalid(where, f"{where} means nothing here; leave it out (known are {', '.join(known)})")


def shown(words: str) -> str:
    """Return a client's words for an error, cut if they are long."""
    return words if len(words) <= MOST_WORDS else f"{words[:MOST_WORDS]}…"


def as_api_error(error: AirdraftError) -> ApiError:
    """Return the same error as a client of the API sees it."""
    if isinstance(error, ApiError):
        return error
    message = str(error)
    if isinstance(error, BadParameterError):
        return _coded(error.code, message, error.field)
    if isinstance(error, RefusedError | GuideError) and (code := Code.of(error.code)):
        return _coded(code, message, _field_of(code, message))
    if isinstance(error, LinkError):
        return ApiError(503, message, None, "edge_unreachable", _SERVER)
    return ApiError(502, message, None, getattr(error, "code", None), _SERVER)


def _coded(code: Code, message: str, field: str | None) -> ApiError:
    kind = _INVALID if code.http in (400, 401) else _SERVER
    return ApiError(code.http, message, field, _NAMES.get(code, code.value), kind)


def _field_of(code: Code, message: str) -> str | None:
    """Return the field at fault when an edge has refused a text.

    An `Error` message of the protocol names no field, but the words of a refused parameter begin with its name.
    """
    if code is Code.SCHEME:
        return _FIELDS.get(message.split(" ", maxsplit=1)[0])
    return {Code.CONTEXT: "prompt", Code.GUIDE: "guide"}.get(code)
