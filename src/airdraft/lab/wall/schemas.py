"""A dozen schemas of our own, with what a chat is asked for: what applications have models fill in."""

from __future__ import annotations

from typing import Any

from airdraft.errors import BadParameterError


def _object(optional: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _words(most: int) -> dict[str, Any]:
    return {"type": "string", "maxLength": most}


def _like(pattern: str) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern}


def _list(items: Any, least: int = 1, most: int = 3) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


_WHOLE, _YES = {"type": "integer", "minimum": 0, "maximum": 1000}, {"type": "boolean"}
SCHEMAS: dict[str, tuple[str, dict[str, Any]]] = {
    "person": (
        "Invent a person.",
        _object(name=_words(20), age=_WHOLE, occupation=_words(24), hobbies=_list(_words(16))),
    ),
    "weather": (
        "What may the weather be in Oslo tomorrow?",
        _object(
            city=_words(16), temperature_celsius={"type": "integer", "minimum": -40, "maximum": 50},
            conditions={"enum": ["sunny", "cloudy", "rainy", "snowy"]}, chance_of_precipitation_percent=_WHOLE,
        ),
    ),
    "order": (
        "Invent an order in a shop for tools.",
        _object(
            order_number=_like("^[A-Z]{2}-[0-9]{4}$"), express_delivery=_YES,
            items=_list(_object(article_description=_words(20), quantity=_WHOLE, price_in_cents=_WHOLE), 1, 2),
        ),
    ),
    "sentiment": (
        "How does this sound: The film was far too long, but I loved the music.",
        _object(sentiment={"enum": ["positive", "negative", "mixed"]}, confidence_percent=_WHOLE, contains_irony=_YES),
    ),
    "calendar": (
        "Plan a meeting about the budget.",
        _object(
            title=_words(24), starts_at={"type": "string", "format": "date-time"}, duration_minutes=_WHOLE,
            participants=_list({"type": "string", "format": "email", "maxLength": 24}, 1, 2),
        ),
    ),
    "recipe": (
        "How do I make pancakes?",
        _object(
            dish=_words(16), preparation_time_minutes=_WHOLE, vegetarian=_YES,
            ingredients=_list(_object(ingredient=_words(12), amount_in_grams=_WHOLE), 2, 3),
        ),
    ),
    "tree": (
        "Sketch the folders of a small program.",
        {
            "$ref": "#/$defs/folder",
            "$defs": {"folder": _object(folder_name=_words(10), subfolders=_list({"$ref": "#/$defs/folder"}, 0, 2))},
        },
    ),
    "either": (
        "How shall we pay?",
        {
            "anyOf": [
                _object(payment_method={"const": "credit card"}, card_number=_like("^[0-9]{16}$")),
                _object(payment_method={"const": "bank transfer"}, account_holder=_words(16), immediately=_YES),
            ]
        },
    ),
    "address": (
        "Where is the head office?",
        _object(
            ("second_address_line",), street_and_number=_words(24), second_address_line=_words(12), city=_words(16),
            postal_code=_like("^[0-9]{5}$"), country_code={"enum": ["DE", "FR", "NO", "US"]},
        ),
    ),
    "log": (
        "Make up a line of a server's log.",
        _object(
            timestamp_seconds={"type": "integer", "minimum": 0, "maximum": 9_999_999_999},
            severity_level={"enum": ["debug", "info", "warning", "error"]}, request_successful=_YES,
            response_status_code={"enum": [200, 301, 404, 500]},
            error_message={"type": ["string", "null"], "maxLength": 24},
        ),
    ),
    "points": (
        "Give me the corners of a triangle.",
        _object(coordinates=_list(_object(horizontal_position=_WHOLE, vertical_position=_WHOLE), 3, 3), is_closed=_YES),
    ),
    "settings": (
        "Suggest settings for a text editor.",
        _object(
            font_size_in_points=_WHOLE, color_theme={"enum": ["light", "dark"]}, show_line_numbers=_YES,
            wrap_long_lines=_YES, tabulator_width={"enum": [2, 4, 8]}, automatic_save_interval_seconds=_WHOLE,
        ),
    ),
}  # fmt: skip


def validator(schema: Any) -> Any:
    """What checks JSON against a schema: the library jsonschema, in the schema's own draft.

    Raises: `BadParameterError` if it is not installed.
    """
    try:
        from jsonschema import validators  # noqa: PLC0415  needed for checks alone
    except ImportError as error:
        raise BadParameterError("answers are checked with jsonschema; pip install jsonschema") from error
    return validators.validator_for(schema, validators.Draft202012Validator)(schema)
