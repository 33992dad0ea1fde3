"""Proposers at the edge: copies of text and prediction, second uses of dead drafts, and a draft model of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from airdraft.core.edge import Propose, Proposer
from airdraft.errors import BadParameterError
from airdraft.proposers.draft import drafting
from airdraft.proposers.lookup import Lookup
from airdraft.proposers.ngram import Ngram, Ngrams
from airdraft.proposers.predicted import Predicted
from airdraft.proposers.salvage import Salvage

PROPOSERS: dict[str, Callable[[Sequence[int]], Proposer]] = {
    Predicted.name: Predicted,
    Lookup.name: lambda _: Lookup(),
    Salvage.name: lambda _: Salvage(),
    Ngram.name: lambda _: Ngram(Ngrams()),
}
"""Makers of proposers by name, given what the client predicts. To add one, write its file and give it a line here."""
USUAL = (Predicted.name, Lookup.name, Salvage.name)
"""Those that an edge has unless told otherwise."""
LEARNING = (Ngram.name,)
"""Those that learn from one text for another, and so must be made for each tenant."""
NONE = "none"
"""The word for none at all."""


def named(words: str) -> tuple[str, ...]:
    """Read names with commas between them, or `none`. Raises: `BadParameterError` for a name that is unknown."""
    if words == NONE:
        return ()
    names = tuple(name.strip() for name in words.split(","))
    for name in names:
        if name not in PROPOSERS:
            raise BadParameterError(
                f"the edge knows no proposer {name!r}; name some of {', '.join(PROPOSERS)}, or {NONE}", field="propose"
            )
    if len(set(names)) < len(names):
        raise BadParameterError(f"propose is {words}, which names one twice; name each once", field="propose")
    return names


def maker(names: tuple[str, ...]) -> Propose:
    """Return what makes the proposers of one text. All texts learn from each other, but for private ones; so it is for
    one tenant if any of them is in `LEARNING`."""
    table = Ngrams()
    makers = PROPOSERS | {Ngram.name: lambda _: Ngram(table)}

    def made(prediction: Sequence[int], private: bool) -> Sequence[Proposer]:
        wanted = [name for name in names if prediction or name != Predicted.name]
        return [(PROPOSERS if private else makers)[name](prediction) for name in wanted]

    return made


__all__ = [
    "LEARNING", "NONE", "PROPOSERS", "USUAL", "Lookup", "Ngram", "Predicted", "Salvage", "drafting", "maker", "named",
]  # fmt: skip
