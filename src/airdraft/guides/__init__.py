"""Guides: grammars that a text keeps to, read by llguidance the same way on both sides."""

from airdraft.guides.reading import Guides, reader
from airdraft.guides.specs import JSON_OBJECT, of_choices, of_grammar, of_json, of_regex

__all__ = ["JSON_OBJECT", "Guides", "of_choices", "of_grammar", "of_json", "of_regex", "reader"]
