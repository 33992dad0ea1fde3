"""The messages of a chat, as a template takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from airdraft.api.errors import ApiError
from airdraft.api.schema import shown

NOTES = frozenset(
    {
        *("role", "content", "name", "tool_call_id", "refusal", "annotations"),
        *("reasoning", "reasoning_content", "thinking", "id", "index"),
    }
)
"""Fields of a message that a template may leave unread: notes, and thoughts that templates drop on purpose."""
_PART = frozenset({"type", "text", "annotations", "cache_control"})


def conversation(messages: Sequence[Mapping[str, Any]], reads: Callable[[str], bool]) -> list[dict[str, Any]]:
    """Return the messages: null left out, parts of text joined by line ends, arguments of tool calls as objects.

    reads: whether the template reads a field of this name.
    Raises: `ApiError` for a part that is no text, and for a field that the template would drop.
    """
    return [_message(f"messages[{at}]", message, reads) for at, message in enumerate(messages)]


def _message(where: str, given: Mapping[str, Any], reads: Callable[[str], bool]) -> dict[str, Any]:
    message = {name: value for name, value in given.items() if value is not None}
    if not isinstance(message.get("role"), str):
        raise _wrong(f"{where}.role", f"{where} has no role; give system, user or assistant")
    for name, value in message.items():
        if name not in NOTES and value not in ("", [], {}) and not reads(name):
            field = f"{where}.{shown(name)}"
            what = f"{field} is not supported: the chat template does not read it; leave it out"
            raise ApiError(400, what, field, "unsupported_parameter")
    message["content"] = _content(f"{where}.content", message.get("content", ""))
    calls = message.get("tool_calls", [])
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise _wrong(f"{where}.tool_calls", f"{where}.tool_calls is no list of calls; give objects")
    if calls:
        message["tool_calls"] = [
            _called(f"{where}.tool_calls[{at}].function", call, "function") for at, call in enumerate(calls)
        ]
    return _called(f"{where}.function_call", message, "function_call")


def _content(where: str, content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _wrong(where, f"{where} is neither a string nor parts of text; give one of them")
    texts = []
    for at, part in enumerate(content):
        text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        if not isinstance(text, str):
            raise _wrong(f"{where}[{at}]", f"{where}[{at}] is no part of text; this model reads text")
        odd = next((name for name, value in part.items() if name not in _PART and value is not None), None)
        if odd is not None:
            field = f"{where}[{at}].{shown(odd)}"
            raise ApiError(400, f"{field} is not supported; leave it out", field, "unsupported_parameter")
        texts.append(text)
    return "\n".join(texts)


def _called(where: str, holder: dict[str, Any], name: str) -> dict[str, Any]:
    """Decode the arguments of a call, which OpenAI writes as JSON text: templates encode them again."""
    call = holder.get(name)
    if not isinstance(call, dict) or not isinstance(call.get("arguments"), str):
        return holder
    words = call["arguments"]
    try:
        arguments = msgspec.json.decode(words) if words.strip() else {}
    except (msgspec.DecodeError, RecursionError) as error:
        raise _wrong(f"{where}.arguments", f"{where}.arguments is no JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise _wrong(f"{where}.arguments", f"{where}.arguments is no JSON object; give one, by parameter")
    return {**holder, name: {**call, "arguments": arguments}}


def _wrong(field: str, message: str) -> ApiError:
    return ApiError(400, message, field, "invalid_type")
