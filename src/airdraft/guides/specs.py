"""What users ask of a text's form, as a `GuideSpec`: JSON schemas, regular expressions, grammars, choices."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from airdraft.core.messages import MOST_GUIDE, GuideSpec
from airdraft.errors import BadParameterError

JSON_OBJECT = {"type": "object"}
"""The schema of any object."""


def of_json(schema: Any) -> GuideSpec:
    """A schema, as JSON has it or as its text. Raises: `BadParameterError`."""
    try:
        found = msgspec.json.decode(schema) if isinstance(schema, str | bytes) else schema
        text = msgspec.json.encode(found).decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError, ValueError) as error:
        raise BadParameterError(f"the schema is no JSON ({error}); give a JSON schema", "guide") from error
    if not isinstance(found, dict | bool):
        raise BadParameterError("the schema is no object; give a JSON schema", "guide")
    return _spec("json", text)


def of_type(kind: Any) -> GuideSpec:
    """The JSON of a type: of msgspec, of pydantic, or a plain one, such as `dict[str, int]`; or a schema.

    Of a type, the text has no fields but its own, whatever the type would read. Raises: `BadParameterError`.
    """
    if _is_schema(kind):
        return of_json(kind)
    try:
        return of_json(_closed(kind.model_json_schema() if _is_pydantic(kind) else msgspec.json.schema(kind)))
    except TypeError as error:  # whatever it is, or something inside of it
        what = f"schema has no JSON schema ({error}); give a type of msgspec or pydantic, or a schema"
        raise BadParameterError(what, "guide") from error


def as_type(kind: Any, text: str) -> Any:
    """Read a whole text that kept to `of_type(kind)`. Raises: `ValueError` if the type asks for more."""
    if _is_schema(kind):
        return msgspec.json.decode(text)
    return kind.model_validate_json(text) if _is_pydantic(kind) else msgspec.json.decode(text, type=kind)


def _is_schema(kind: Any) -> bool:
    return isinstance(kind, dict | bool | str | bytes)


def _is_pydantic(kind: Any) -> bool:
    return hasattr(kind, "model_json_schema")


def of_regex(pattern: str) -> GuideSpec:
    """A regular expression, for the whole text. Raises: `BadParameterError`."""
    return _spec("regex", _words(pattern, "regular expression"))


def of_choices(choices: Sequence[str]) -> GuideSpec:
    """One of several strings. Raises: `BadParameterError`."""
    if isinstance(choices, str) or not isinstance(choices, Sequence) or not choices:
        raise BadParameterError("there is no list of choices; give at least one string", "guide")
    return _spec("regex", "|".join(_literal(_words(choice, "choice")) for choice in choices))


def of_lark(grammar: str) -> GuideSpec:
    """A grammar in llguidance's own language. Raises: `BadParameterError`."""
    return _spec("lark", grammar)


def of_grammar(grammar: str) -> GuideSpec:
    """A context-free grammar, in Lark's or llama.cpp's language. Raises: `BadParameterError`."""
    spec = _spec("lark", _words(grammar, "grammar"))
    try:
        from llguidance.gbnf_to_lark import any_to_lark  # noqa: PLC0415  as in `Guides`

        return _spec("lark", any_to_lark(spec.text))
    except BadParameterError:
        raise
    except Exception as error:  # the library raises bare Exception
        what = f"the grammar cannot be read ({' '.join(str(error).split())[:200]}); give Lark or GBNF"
        raise BadParameterError(what, "guide") from error


def _closed(schema: Any) -> Any:
    """The schema of a type, in which objects that have properties have no others. It is changed in place."""
    if isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
            schema.setdefault("additionalProperties", False)
        for inner in schema.values():
            _closed(inner)
    elif isinstance(schema, list):
        for inner in schema:
            _closed(inner)
    return schema


def _literal(text: str) -> str:
    return re.sub(r"[^\w\s]", lambda found: f"\\{found[0]}" if found[0].isascii() else found[0], text)


def _words(given: Any, what: str) -> str:
    if not isinstance(given, str) or not given:
        raise BadParameterError(f"the {what} is no string, or empty; give one", "guide")
    try:
        given.encode()
    except UnicodeEncodeError:
        raise BadParameterError(f"the {what} holds half a surrogate pair; give text", "guide") from None
    return given


def _spec(kind: str, text: str) -> GuideSpec:
    if len(text) > MOST_GUIDE:
        what = f"the guide has {len(text)} characters, and {MOST_GUIDE} are read; give a smaller one"
        raise BadParameterError(what, "guide")
    return GuideSpec(kind, text)
