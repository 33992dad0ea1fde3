"""The form that a request asks its text to have, in the words of OpenAI, vLLM, llama.cpp, SGLang and Ollama."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airdraft.api.errors import ApiError, invalid, only
from airdraft.core.messages import GuideSpec
from airdraft.errors import BadParameterError
from airdraft.guides import JSON_OBJECT, of_choices, of_grammar, of_json, of_regex

FORMS = (
    "response_format", "structured_outputs", "json_schema", "regex", "guided_choice", "grammar", "format",
    "text",
)  # fmt: skip
"""The attributes of a `Body` that ask for a form."""

_Made = tuple[str, GuideSpec | None]


def form_of(given: dict[str, Any]) -> tuple[str, GuideSpec] | None:
    """Return what the text is to keep to, and the field that says so, by the values of `FORMS`. None: to nothing.

    Raises: `ApiError` for two forms, or for one that cannot be read as what its field takes.
    """
    found: list[tuple[str, GuideSpec]] = []
    for name in FORMS:
        if given.get(name) is None:
            continue
        try:
            field, spec = _READ[name](name, given[name])
        except BadParameterError as error:
            raise ApiError(400, str(error), name, "invalid_value") from error
        if spec is not None:
            found.append((field, spec))
    if len(found) > 1:
        raise invalid(found[1][0], f"{found[0][0]} and {found[1][0]} both give the text a form; give one of them")
    return found[0] if found else None


def _response_format(name: str, given: Any) -> _Made:
    given = {each: value for each, value in given.items() if value is not None} if isinstance(given, dict) else given
    kind = given.get("type") if isinstance(given, dict) else None
    if given == {} or kind == "text":
        only(name, given, "type")
        return name, None
    if kind == "json_object":
        only(name, given, "type", "schema")
        return name, of_json(given.get("schema") or JSON_OBJECT)  # the schema is llama.cpp's way to give one
    if kind != "json_schema":
        raise invalid(f"{name}.type", f"{name}.type is none of text, json_object and json_schema; give one of them")
    only(name, given, "type", "json_schema")
    return f"{name}.json_schema", _schema(f"{name}.json_schema", given.get("json_schema"))


def _schema(field: str, given: Any, *known: str) -> GuideSpec:
    """Read a schema with what OpenAI's API has beside it. A text is strict here in any case."""
    if not isinstance(given, dict) or given.get("schema") is None:
        raise invalid(field, f"{field}.schema is missing; give a JSON schema")
    only(field, given, "schema", "name", "description", "strict", *known)
    if given.get("strict") not in (None, True, False):
        raise invalid(f"{field}.strict", f"{field}.strict is neither true nor false; give one of them")
    return of_json(given["schema"])


def _text(name: str, given: Any) -> _Made:
    """What a response calls the form of its text."""
    given = {each: value for each, value in given.items() if value is not None} if isinstance(given, dict) else None
    odd = None if given is None else next((each for each in given if each not in ("format", "verbosity")), None)
    if given is None or odd is not None:
        raise invalid(name, f"{name} is no object with format alone; give one")
    if given.get("verbosity", "medium") != "medium":
        raise invalid(f"{name}.verbosity", f"{name}.verbosity is not steered; leave it out, and say it in instructions")
    asked = given.get("format", {})
    if not isinstance(asked, dict) or asked.get("type") != "json_schema":
        return _response_format(f"{name}.format", asked)
    return f"{name}.format", _schema(f"{name}.format", asked, "type")


def _structured(name: str, given: Any) -> _Made:
    if not isinstance(given, dict):
        raise invalid(name, f"{name} is no object; give one with json, regex, choice, grammar or json_object")
    asked = {each: value for each, value in given.items() if value not in (None, False)}
    if not asked:
        return name, None
    [kind, *more] = asked
    if more or kind not in _WORDS:
        odd = next((each for each in asked if each not in _WORDS), more[0] if more else kind)
        raise invalid(f"{name}.{odd[:60]}", f"{name} takes one of {', '.join(_WORDS)} and nothing beside it; give that")
    return f"{name}.{kind}", _WORDS[kind](asked[kind])


def _format(name: str, given: Any) -> _Made:
    if given == "":
        return name, None
    return name, of_json(JSON_OBJECT if given == "json" else given)


def _plain(make: Callable[[Any], GuideSpec]) -> Callable[[str, Any], _Made]:
    return lambda name, given: (name, None if given in ("", [], {}, False) else make(given))


_WORDS: dict[str, Callable[[Any], GuideSpec]] = {
    "json": of_json, "regex": of_regex, "choice": of_choices, "grammar": of_grammar,
    "json_object": lambda _: of_json(JSON_OBJECT),
}  # fmt: skip
_READ: dict[str, Callable[[str, Any], _Made]] = {
    "response_format": _response_format, "structured_outputs": _structured, "json_schema": _plain(of_json),
    "regex": _plain(of_regex), "guided_choice": _plain(of_choices), "grammar": _plain(of_grammar), "format": _format,
    "text": _text,
}  # fmt: skip
