"""A model on its own. Exact schemes must reproduce its text, and a device without an edge writes this way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from airdraft.core.law import Guide, Law, Place
from airdraft.core.sampling import SamplingParams
from airdraft.models.base import LanguageModel


def write(
    model: LanguageModel,
    prompt: Sequence[int],
    params: SamplingParams,
    seed: int,
    max_tokens: int,
    vocab_size: int | None = None,
    guide: Guide | None = None,
) -> Iterator[int]:
    """Yield `model`'s tokens after `prompt`, one forward each, until an end-of-text token or `max_tokens`.

    `vocab_size` is the number of real tokens, if the model also scores padding. `guide`: of the text.
    """
    law, cache = Law(params, seed, vocab_size or model.vocab_size), model.new_cache()
    end = min(len(prompt) + max_tokens, model.max_context)
    feed, length, place = list(prompt), 0, Place(len(prompt), None if guide is None else guide.within(prompt))
    while length + len(feed) < end:
        logits = model.forward(cache, length, feed, 1)
        length += len(feed)
        token = law.choose(logits[0][: law.vocab_size], place)
        yield token
        place = place.then(token)
        if token in model.eos_ids:
            return
        feed = [token]


def agreeing(
    model: LanguageModel,
    prompt: Sequence[int],
    tokens: Sequence[int],
    params: SamplingParams,
    seed: int,
    vocab_size: int | None = None,
) -> list[bool]:
    """Whether `model`, with the same noise and the same text before it, would choose each of `tokens` after `prompt`.

    Of a draft along the target's own text, this is which drafts `coupled` and `stream` would accept.
    """
    law = Law(params, seed, vocab_size or model.vocab_size)
    rows = model.forward(model.new_cache(), 0, [*prompt, *tokens[:-1]], len(tokens)) if tokens else ()
    return [
        law.choose(row[: law.vocab_size], Place(len(prompt) + at)) == token
        for at, (row, token) in enumerate(zip(rows, tokens, strict=True))
    ]
