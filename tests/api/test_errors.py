"""Errors as a client of the API sees them."""

from __future__ import annotations

import pytest

from airdraft.api.errors import ApiError, as_api_error
from airdraft.errors import (
    AirdraftError,
    BadParameterError,
    Code,
    GuideError,
    LinkError,
    ModelError,
    RefusedError,
    too_long,
)

INVALID, SERVER = "invalid_request_error", "server_error"
OURS = {
    Code.CONTEXT: (400, "context_length_exceeded", INVALID),
    Code.SCHEME: (400, "invalid_value", INVALID),
    Code.GUIDE: (400, "invalid_value", INVALID),
    Code.BUSY: (503, "busy", SERVER),
    Code.QUOTA: (429, "insufficient_quota", SERVER),
    Code.REVOKED: (401, "invalid_api_key", INVALID),
}


def seen(error: AirdraftError) -> tuple[int, str | None, str, str | None]:
    """Status, code, type and field."""
    found = as_api_error(error)
    assert str(found) == str(error)
    return found.status, found.code, found.kind, found.param


@pytest.mark.parametrize("code", Code)
def test_what_is_between_device_and_edge_is_a_502_and_keeps_its_word(code: Code) -> None:
    status, name, kind = OURS.get(code, (502, code.value, SERVER))
    assert seen(RefusedError(code.value, "why"))[:3] == (status, name, kind)


def test_codes_of_newer_edges_and_other_errors() -> None:
    assert seen(RefusedError("of tomorrow", "top-k is 0")) == (502, "of tomorrow", SERVER, None)
    assert seen(LinkError("away")) == (503, "edge_unreachable", SERVER, None)
    assert seen(ModelError("broken")) == (502, "engine", SERVER, None)
    error = ApiError(418, "a teapot")
    assert as_api_error(error) is error


@pytest.mark.parametrize(
    ("error", "code", "field"),
    [
        (BadParameterError("anything at all", field="top_k"), "invalid_value", "top_k"),
        (BadParameterError("top-k is 5"), "invalid_value", None),
        (BadParameterError("no tokens", field="prompt"), "invalid_value", "prompt"),
        (BadParameterError(too_long(9, 8), "prompt", Code.CONTEXT), "context_length_exceeded", "prompt"),
        (RefusedError("context", too_long(9, 8, "m")), "context_length_exceeded", "prompt"),
        (RefusedError("scheme", "top-k is 0, and the engine of m"), "invalid_value", "top_k"),
        (RefusedError("scheme", "scheme 'magic' is unknown"), "invalid_value", "scheme"),
        (RefusedError("scheme", "race is 'often'"), "invalid_value", None),
        (RefusedError("guide", "anything at all"), "invalid_value", "guide"),
        (GuideError("anything at all"), "invalid_value", "guide"),
    ],
)
def test_the_field_at_fault(error: AirdraftError, code: str, field: str | None) -> None:
    assert seen(error) == (400, code, INVALID, field)
