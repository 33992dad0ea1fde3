"""Guides: grammars that a text keeps to, read by llguidance the same way on both sides, and penalties and biases."""

from airdraft.guides.bias import Bias, of_bias, onward
from airdraft.guides.reading import Guides, reader
from airdraft.guides.specs import (
    JSON_OBJECT,
    as_type,
    of_choices,
    of_grammar,
    of_json,
    of_lark,
    of_regex,
    of_type,
)

__all__ = [
    "JSON_OBJECT", "Bias", "Guides", "as_type", "of_bias", "of_choices", "of_grammar", "of_json", "of_lark", "of_regex",
    "of_type", "onward", "reader",
]  # fmt: skip
