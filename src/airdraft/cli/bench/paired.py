"""The pairs of models that the laboratory's commands take by name, with prompts that suit each."""

from __future__ import annotations

from typing import Annotated

import typer

from airdraft.api.template import ChatTemplate
from airdraft.cli.chosen import CHAT_DRAFT, CHAT_TARGET
from airdraft.errors import BadParameterError
from airdraft.models.registry import resolve
from airdraft.models.text import Tokenizer

SHIPPED, CHAT = "shipped", "chat"
NAMED = {SHIPPED: ("draft", "target"), CHAT: (CHAT_DRAFT, CHAT_TARGET)}
"""Draft and target of the pairs that have a name."""
WHICH = "`shipped`, `chat` (its target is 98 MB to download, once), or DRAFT,TARGET, two models by name."

PairName = Annotated[str, typer.Option("--pair", metavar="PAIR", help=f"The models: {WHICH}")]
PairNames = Annotated[
    list[str] | None,
    typer.Option("--pair", metavar="PAIR", help=f"The models: {WHICH} May be repeated; without it, shipped and chat."),
]


def models_of(pair: str) -> tuple[str, str]:
    """The names of a pair's draft and target. Raises: `BadParameterError`."""
    if pair in NAMED:
        return NAMED[pair]
    draft, comma, target = (word.strip() for word in pair.partition(","))
    if not (draft and comma and target):
        raise BadParameterError(f"the pair {pair!r} is none; give shipped, chat, or DRAFT,TARGET", field="pair")
    return draft, target


def prompts_of(pair: str, count: int) -> list[list[int]]:
    """Prompts for a pair's target, as ids: requests in its chat template, or beginnings if it has none.

    For the shipped pair there are six times `count`, because many of its texts end early and the longest are kept.
    Raises: `ModelError`, `BadParameterError`.
    """
    from airdraft.lab import record  # noqa: PLC0415  it takes long to import
    from airdraft.lab.wall.chat_prompts import OPENINGS, PROMPTS  # noqa: PLC0415

    if pair == SHIPPED:
        return record.prompts(min(100, 6 * count))
    place = resolve(models_of(pair)[1])
    template = ChatTemplate.of(place)
    if template is None:
        tokenizer = Tokenizer(place)
        return [tokenizer.encode(text) for text in OPENINGS[:count]]
    every = max(1, len(PROMPTS) // count)  # of all kinds
    asked = [text for _, text in PROMPTS[::every]][:count]
    return [
        template.encode(template.render([{"role": "user", "content": text}], {"add_generation_prompt": True}))
        for text in asked
    ]
