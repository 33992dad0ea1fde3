"""The items of which a response's conversation is made, as messages that a template takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from airdraft.api.conversation import OWN, is_private, no_text
from airdraft.api.errors import ApiError, mistyped, shown

_NOTES = frozenset({"type", "id", "status", "phase"})
"""Fields of any item that say nothing to the model."""
_TEXTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
"""Parts of a message by their type, and the field that has their words."""
_PART_NOTES = frozenset({"type", "annotations", "logprobs", OWN})
_SYSTEM = ("system", "developer")

Message = dict[str, Any]


def messages_of(
    items: Sequence[Any], instructions: str | None = None, before: Sequence[Any] = (), whole: bool = True
) -> list[Message]:
    """Return the messages of a conversation.

    What the system says at the beginning is one message, and so is what a model said and called in one go. Thoughts are
    left out, as templates drop them.

    items: what is new. before: items of the same conversation that were taken earlier.
    whole: nothing else was said, so an output must be that of a call that is there.
    Raises: `ApiError` that names the item.
    """
    found: list[Message] = []
    if instructions:
        found.append({"role": "system", "content": [{"type": "text", "text": instructions}]})
    names: dict[str, str] = {}
    for at, item in enumerate([*before, *items], -len(before)):
        where = f"input[{at}]"
        kind = item.get("type") or ("message" if "role" in item else None)
        if kind == "reasoning":
            continue
        read = _READ.get(kind) if isinstance(kind, str) else None
        if read is None:
            known = ", ".join(_READ)
            what = f"{where} is of type {shown(str(kind))}, and items are {known}; leave it out"
            raise ApiError(400, what, where, "unsupported_parameter")
        read(where, item, found, names, whole)
    if all(item.get("type") == "reasoning" for item in (*before, *items)):
        raise mistyped("input", "input holds no message; give one")
    return found


def _message(where: str, item: Mapping[str, Any], found: list[Message], names: dict[str, str], whole: bool) -> None:
    _only(where, item, ("role", "content", OWN))
    role = item.get("role")
    if role not in ("user", "assistant", *_SYSTEM):
        raise mistyped(f"{where}.role", f"{where}.role is none of user, assistant, system, developer; give one of them")
    content = _parts(f"{where}.content", item.get("content"), is_private(where, item))
    if role in _SYSTEM:
        if len(found) == 1 and found[0]["role"] == "system":
            found[0]["content"] += content
            return
        role = "system"
    found.append({"role": role, "content": content})


def _call(where: str, item: Mapping[str, Any], found: list[Message], names: dict[str, str], whole: bool) -> None:
    _only(where, item, ("call_id", "name", "arguments"))
    name, call = _words(where, item, "name"), _words(where, item, "call_id")
    arguments = _words(where, item, "arguments")
    try:
        msgspec.json.decode(arguments or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise mistyped(f"{where}.arguments", f"{where}.arguments is no JSON object: {error}") from error
    names[call] = name
    if not found or found[-1]["role"] != "assistant":
        found.append({"role": "assistant", "content": []})
    calls = found[-1].setdefault("tool_calls", [])
    calls.append({"id": call, "type": "function", "function": {"name": name, "arguments": arguments}})


def _output(where: str, item: Mapping[str, Any], found: list[Message], names: dict[str, str], whole: bool) -> None:
    _only(where, item, ("call_id", "name", "output", OWN))
    call = _words(where, item, "call_id")
    if whole and call not in names:
        field = f"{where}.call_id"
        raise mistyped(field, f"{field} is {shown(call)!r}, which no function_call before it has; give that call, too")
    content = _parts(f"{where}.output", item.get("output"), is_private(where, item))
    named = {"name": names[call]} if call in names else {}
    found.append({"role": "tool", "tool_call_id": call, "content": content, **named})


_READ: dict[str, Callable[[str, Mapping[str, Any], list[Message], dict[str, str], bool], None]] = {
    "message": _message, "function_call": _call, "function_call_output": _output,
}  # fmt: skip
"""Item types, and what adds each to the messages."""


def _only(where: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise `ApiError` for a further field that says something."""
    odd = next((name for name, value in given.items() if value is not None and name not in {*known, *_NOTES}), None)
    if odd is not None:
        field = f"{where}.{shown(odd)}"
        raise ApiError(400, f"{field} is not supported; leave it out", field, "unsupported_parameter")


def _words(where: str, item: Mapping[str, Any], name: str) -> str:
    found = item.get(name)
    if not isinstance(found, str):
        raise mistyped(f"{where}.{name}", f"{where}.{name} is no string; give one")
    return found


def _parts(where: str, given: Any, private: bool) -> list[dict[str, Any]]:
    """Return what is said as parts of text. `private`: all of them are."""
    if isinstance(given, str):
        return [_part(given, private)]
    if not isinstance(given, list):
        raise mistyped(where, f"{where} is neither a string nor parts of text; give one of them")
    found = []
    for at, part in enumerate(given):
        kind = part.get("type") if isinstance(part, dict) else None
        holds = _TEXTS.get(kind) if isinstance(kind, str) else None
        if holds is None or not isinstance(part.get(holds), str):
            raise no_text(f"{where}[{at}]", part)
        _only(f"{where}[{at}]", part, {holds, *_PART_NOTES})
        found.append(_part(part[holds], is_private(f"{where}[{at}]", part) or private))
    return found


def _part(text: str, private: bool) -> dict[str, Any]:
    return {"type": "text", "text": text, **({OWN: {"private": True}} if private else {})}
