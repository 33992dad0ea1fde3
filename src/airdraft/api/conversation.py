"""The messages of a chat, as a template takes them, and what of them is marked as private."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from airdraft.api.errors import ApiError, mistyped, shown

NOTES = frozenset(
    {
        *("role", "content", "name", "tool_call_id", "refusal", "annotations"),
        *("reasoning", "reasoning_content", "thinking", "id", "index"),
    }
)
"""Fields of a message that a template may leave unread: notes, and thoughts that templates drop on purpose."""
_PART = frozenset({"type", "text", "annotations", "cache_control"})
OWN = "airdraft"
"""A field of messages, and of parts, that no template sees."""


def conversation(
    messages: Sequence[Mapping[str, Any]], reads: Callable[[str], bool], veil: str | None = None
) -> list[dict[str, Any]]:
    """Return the messages: null left out, parts of text joined by line ends, arguments of tool calls as objects.

    reads: whether the template reads a field of this name.
    veil: what stands in place of each private text; None: the text.
    Raises: `ApiError` for a part that is no text, and for a field that the template would drop.
    """
    return [_message(f"messages[{at}]", message, reads, veil) for at, message in enumerate(messages)]


def has_private(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether any of these messages, or of their parts, is private. `conversation` has taken them."""
    parts = [part for message in messages if isinstance(message.get("content"), list) for part in message["content"]]
    return any(is_private("", each) for each in (*messages, *parts))


def is_private(where: str, holder: Mapping[str, Any]) -> bool:
    """Return whether a message or a part is marked as private. Raises: `ApiError`."""
    marks = {} if holder.get(OWN) is None else holder[OWN]
    if not isinstance(marks, dict) or not isinstance(marks.get("private", False), bool) or set(marks) - {"private"}:
        field = f"{where}.{OWN}"
        raise mistyped(field, f'{field} is {{"private": true}}, or left out')
    return bool(marks.get("private"))


def no_text(where: str, part: Any) -> ApiError:
    """Return the error for a part of a message that holds no text, such as an image."""
    kind = part.get("type") if isinstance(part, dict) else None
    what = f" of type {shown(kind)}" if isinstance(kind, str) else ""
    return mistyped(where, f"{where}, a part{what}, holds no text, and this model reads text alone; leave it out")


def _veiled(value: Any, veil: str) -> Any:
    """Return a value with something else in place of every text in it."""
    if isinstance(value, dict):
        return {name: _veiled(each, veil) for name, each in value.items()}
    return [_veiled(each, veil) for each in value] if isinstance(value, list) else veil


def _message(where: str, given: Mapping[str, Any], reads: Callable[[str], bool], veil: str | None) -> dict[str, Any]:
    private = is_private(where, given)
    message = {name: value for name, value in given.items() if value is not None and name != OWN}
    if not isinstance(message.get("role"), str):
        raise mistyped(f"{where}.role", f"{where} has no role; give system, user or assistant")
    for name, value in message.items():
        if name not in NOTES and value not in ("", [], {}) and not reads(name):
            field = f"{where}.{shown(name)}"
            what = f"{field} is not supported: the chat template does not read it; leave it out"
            raise ApiError(400, what, field, "unsupported_parameter")
    message["content"] = _content(f"{where}.content", message.get("content", ""), veil)
    calls = message.get("tool_calls", [])
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise mistyped(f"{where}.tool_calls", f"{where}.tool_calls is no list of calls; give objects")
    if calls:
        message["tool_calls"] = [
            _called(f"{where}.tool_calls[{at}].function", call, "function") for at, call in enumerate(calls)
        ]
    message = _called(f"{where}.function_call", message, "function_call")
    if veil is None or not private:
        return message
    return {name: value if name == "role" else _veiled(value, veil) for name, value in message.items()}


def _content(where: str, content: Any, veil: str | None) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise mistyped(where, f"{where} is neither a string nor parts of text; give one of them")
    texts = []
    for at, part in enumerate(content):
        text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        if not isinstance(text, str):
            raise no_text(f"{where}[{at}]", part)
        private = is_private(f"{where}[{at}]", part)
        odd = next((name for name, value in part.items() if name not in (*_PART, OWN) and value is not None), None)
        if odd is not None:
            field = f"{where}[{at}].{shown(odd)}"
            raise ApiError(400, f"{field} is not supported; leave it out", field, "unsupported_parameter")
        texts.append(text if veil is None or not private else veil)
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
        raise mistyped(f"{where}.arguments", f"{where}.arguments is no JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise mistyped(f"{where}.arguments", f"{where}.arguments is no JSON object; give one, by parameter")
    return {**holder, name: {**call, "arguments": arguments}}
