"""The drafts that ship, and which of them has the vocabulary of a target: of one here, or of an edge's."""

from __future__ import annotations

import ssl
from collections.abc import Sequence

from airdraft.device.client import EdgeConnection
from airdraft.errors import Code, LinkError, RefusedError
from airdraft.models.engines.nothing import NoDraft
from airdraft.models.registry import text_files
from airdraft.models.text import Tokenizer

SHIPPED = ("draft", "chat-draft")
"""The drafts that ship, in the order in which they are tried."""


def shipped_for(tokenizer: Tokenizer) -> str | None:
    """The draft that ships and shares this vocabulary, if any."""
    return next((name for name in SHIPPED if Tokenizer(text_files(name)).digest == tokenizer.digest), None)


async def draft_at(
    edges: Sequence[str], token: str | None = None, trust: ssl.SSLContext | None = None, default: str = SHIPPED[0]
) -> str:
    """The draft that ships and has the vocabulary of the target at the first of `edges` that answers.

    Returns: `default` if none answers; a wrong one will be refused when one does.
    Raises: `RefusedError` if no draft that ships has its vocabulary, or the edge does not let us in.
    """
    for url in edges:
        try:
            for name in SHIPPED:
                if await _fits(url, name, token, trust):
                    return name
        except LinkError:
            continue
        except RefusedError as error:
            if error.passes:
                continue
            raise
        raise RefusedError(
            Code.VOCABULARY,
            f"the target at {url} has another vocabulary than the drafts that ship with airdraft; name a draft model "
            "with the target's own tokenizer, --draft MODEL, or take none, --draft none --tokenizer MODEL",
        )
    return default


async def _fits(url: str, name: str, token: str | None, trust: ssl.SSLContext | None) -> bool:
    """Whether the target at an edge has the vocabulary of a draft, whose weights are not read. Raises: as `connect`."""
    tokenizer = Tokenizer(text_files(name))
    nobody = NoDraft(tokenizer.vocab_size)
    try:
        edge = await EdgeConnection.connect(url, nobody, tokenizer.digest, tokenizer.vocab_size, token=token, ssl=trust)
    except RefusedError as error:
        if error.code != Code.VOCABULARY:
            raise
        return False
    await edge.close()
    return True
