"""Documents that an edge has read once, each by itself, and finds again in any prompt, in any order. Not exact.

Nothing has to be marked in a prompt: where the tokens of a document stand in it, behind its first few, their keys and
values are taken over and turned to where they stand. The first few are computed in place, which EPIC (arXiv 2410.15332)
found to win most of the loss back, and which a tokenizer may have cut otherwise there. See `joining` for what is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from airdraft.errors import BadParameterError
from airdraft.models.base import Part, TargetEngine, raised
from airdraft.models.lineage import alike
from airdraft.models.steady import share
from airdraft.prompts.blocks import BLOCK, portable
from airdraft.prompts.joining import Document, firsts, joined
from airdraft.prompts.rotary import Rotary
from airdraft.scheduler.turns import Splice, Step

FIRST = 16
"""Tokens of a document that are computed where they stand."""
FEWEST = 64
"""Tokens behind these in a row that are worth taking over."""
_SEEN = 16
"""Tokens by which a document is found."""
MOST_BYTES = 1 << 30
"""Of the keys and values of all documents."""
_ROWS = 32
"""Behind two documents, that are compared."""


class _Span(NamedTuple):
    """Positions of a prompt that stand in a document."""

    start: int
    end: int
    document: Document
    by: int
    """How much later they stand than there."""


class Documents:
    """The documents of one target, for the scheduler; see `Elsewhere`."""

    def __init__(self, rotary: Rotary, documents: Sequence[Document]) -> None:
        self._rotary = rotary
        self._by_seen = {tuple(each.tokens[FIRST : FIRST + _SEEN]): each for each in documents}

    @classmethod
    def read(cls, engine: TargetEngine, texts: Mapping[str, Sequence[int]]) -> Documents:
        """Read the tokens of documents, each by its name. Raises: `BadParameterError` for one that is too short or too
        long, or for too many; `ModelError`."""
        found, rotary, left, most = list[Document](), Rotary.of(engine), MOST_BYTES, engine.info.max_context
        for name, tokens in texts.items():
            if not FIRST + FEWEST <= len(tokens) <= most:
                raise BadParameterError(f"{name} is {len(tokens)} tokens; a document has {FIRST + FEWEST} to {most}")
            found.append(Document.of(engine, tokens))
            left -= sum(each.nbytes for each in found[-1].tensors)
            if left < 0:
                raise BadParameterError(f"the documents up to {name} take over {MOST_BYTES >> 20} MiB; give fewer")
        return cls(rotary, found)

    def ask(self, tokens: Sequence[int], at: int, wake: Callable[[], None]) -> _Found | None:
        """See `Elsewhere.ask`."""
        spans = [each for each in self._spans(tokens) if each.end > at]
        return _Found(self._rotary, spans) if spans else None

    def _spans(self, tokens: Sequence[int]) -> Iterator[_Span]:
        at = 0
        while at + FEWEST <= len(tokens):
            document = self._by_seen.get(tuple(tokens[at : at + _SEEN]))
            known = document.tokens[FIRST:] if document else []
            common = alike(tokens[at : at + len(known)], known)
            if document is not None and common >= FEWEST:
                yield _Span(at, at + common, document, at - FIRST)
            at += max(1, common)


class _Found:
    """The documents of one prompt; see `Coming`."""

    def __init__(self, rotary: Rotary, spans: Sequence[_Span]) -> None:
        self._rotary, self._spans = rotary, spans

    def step(self, at: int) -> Step:
        """See `Coming.step`."""
        left = [each for each in self._spans if each.end > at]
        if not left:
            return Step()
        span, *later = left
        if at < span.start:
            return Step(piece=span.start - at)
        own = [each[:, at - span.by : span.end - span.by] for each in span.document.tensors]
        then = later[0].start - span.end if later else None
        return Step(Splice(at, span.end, [self._rotary.moved(own, span.by)]), then)

    def close(self) -> None:
        """See `Coming.close`."""


def loss(engine: TargetEngine) -> float:
    """The share of tokens that changes after two documents of a trial, see `Exactness`; never 0. Raises: as
    `Documents.read`."""
    tokens = np.random.default_rng(13).integers(engine.info.vocab_size, size=2 * BLOCK + _ROWS).tolist()
    parts, rows = [tokens[:BLOCK], tokens[BLOCK : 2 * BLOCK]], []
    cache = portable(engine)
    raised(engine.verify([Part(cache, 0, tokens[: 2 * BLOCK], 0)]).pop())
    apart = joined(engine, Rotary.of(engine), [Document.of(engine, each) for each in parts], firsts([BLOCK] * 2, FIRST))
    for each in (cache, apart):
        rows.append(raised(engine.verify([Part(each, 2 * BLOCK, tokens[2 * BLOCK :], _ROWS)]).pop()))
    return max(share(rows[1], rows[0]), 1e-9)
