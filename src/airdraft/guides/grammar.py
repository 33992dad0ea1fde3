"""Grammars in llguidance's hands: their languages, and the limits within which it reads and follows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

LIMITS = {
    "initial_lexer_fuel": 100_000, "step_lexer_fuel": 100_000, "step_max_items": 30_000, "max_lexer_states": 50_000,
    "max_grammar_size": 200_000, "verbose_errors": False,
}  # fmt: skip
"""Of one grammar: some 10 ms of work for a mask, and 100 MB. llguidance holds the interpreter while it reads, and then
nobody is served: what is dearest takes 0.1 s, and with ten times this fuel it took 1 s."""
LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON stands on one line, with one space after commas and colons. A schema's `x-guidance` may say otherwise."""


def begun(tokens: LLTokenizer, kind: str, text: str) -> LLMatcher:
    """Return a grammar's matcher, which has done what every text begins with. Raises: `ValueError` for why not."""
    from llguidance import LLMatcher, LLParserLimits  # noqa: PLC0415

    matcher = LLMatcher(tokens, _grammar(kind, text), log_level=0, limits=LLParserLimits(**LIMITS))
    for begin in (lambda: None, matcher.compute_ff_tokens, matcher.compute_bitmask):
        begin()
        if matcher.is_error():
            raise ValueError(matcher.get_error())
    return matcher


def _grammar(kind: str, text: str) -> str:
    from llguidance import LLMatcher  # noqa: PLC0415

    if kind == "json":
        return str(LLMatcher.grammar_from_json_schema(text, defaults=LAYOUT))
    if kind == "regex":
        return str(LLMatcher.grammar_from_regex(text))
    if kind == "lark":
        return str(LLMatcher.grammar_from_lark(text))
    raise ValueError(f"its language {kind!r} is not known; give json, regex, lark or biased")
