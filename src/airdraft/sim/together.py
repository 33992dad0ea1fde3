"""Plain speculative decoding, with draft and target in one process, and no link, machines or messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from airdraft.core.law import Law, Place
from airdraft.core.sampling import SamplingParams
from airdraft.models.base import LanguageModel


def write(
    draft: LanguageModel,
    target: LanguageModel,
    prompt: Sequence[int],
    params: SamplingParams,
    seed: int,
    max_tokens: int,
    length: int,
    vocab_size: int | None = None,
) -> Iterator[list[int]]:
    """Yield the tokens of `alone.write(target, ...)`, in one list for each round, which is one target forward.

    The draft proposes up to `length` tokens with the same noise, and the target chooses at each position. Tokens that
    agree stay, followed by the target's own token (Leviathan, Kalman, Matias 2023, with coupled choices).
    """
    law = Law(params, seed, vocab_size or target.vocab_size)
    text, end = list(prompt), min(len(prompt) + max_tokens, target.max_context)
    draft_cache, target_cache = draft.new_cache(), target.new_cache()
    drafted_to = verified_to = 0  # positions in each cache that agree with the text
    while len(text) < end:
        ahead = list(text)
        # The target adds its own token, so the last one is never drafted.
        most = min(len(text) + length, end - 1, draft.max_context + 1)
        while len(ahead) < most and (len(ahead) == len(text) or ahead[-1] not in draft.eos_ids):
            row = draft.forward(draft_cache, drafted_to, ahead[drafted_to:], 1)[0]
            drafted_to = len(ahead)
            ahead.append(law.choose(row[: law.vocab_size], Place(drafted_to)))
        drafts = ahead[len(text) :]
        rows = target.forward(target_cache, verified_to, ahead[verified_to:], len(drafts) + 1)
        tokens: list[int] = []
        for row, proposed in zip(rows, [*drafts, None], strict=True):
            tokens.append(law.choose(row[: law.vocab_size], Place(len(text) + len(tokens))))
            if tokens[-1] != proposed or proposed in target.eos_ids:
                break
        text += tokens
        verified_to = len(text) - 1
        drafted_to = min(drafted_to, verified_to)
        yield tokens
        if tokens[-1] in target.eos_ids:
            return
