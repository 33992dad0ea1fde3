"""A model on its own. Exact schemes must reproduce its text, and a device without an edge writes this way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from airdraft.core.law import Law, Place
from airdraft.core.sampling import SamplingParams
from airdraft.models.base import LanguageModel


def write(
    model: LanguageModel,
    prompt: Sequence[int],
    params: SamplingParams,
    seed: int,
    max_tokens: int,
    vocab_size: int | None = None,
) -> Iterator[int]:
    """Yield `model`'s tokens after `prompt`, one forward each, until an end-of-text token or `max_tokens`.

    `vocab_size` is the number of real tokens, if the model also scores padding.
    """
    law, cache = Law(params, seed, vocab_size or model.vocab_size), model.new_cache()
    end = min(len(prompt) + max_tokens, model.max_context)
    feed, length = list(prompt), 0
    while length + len(feed) < end:
        logits = model.forward(cache, length, feed, 1)
        length += len(feed)
        token = law.choose(logits[0][: law.vocab_size], Place(length))
        yield token
        if token in model.eos_ids:
            return
        feed = [token]
