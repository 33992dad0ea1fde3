"""`coupled`: both sides draw with the same noise, and no probability travels; without rounds, `stream` and `server`.

At position t both add the same Gumbel noise G_t to their own log-probabilities and take the argmax. A draft is
accepted iff it is the edge's own choice, and the edge's own choice is what is committed. So the text is the target's
own sample for that seed, whatever the device sends; and since equal distributions would always agree, acceptance comes
close to the optimum 1 - TV, and is never under (1 - TV)/(1 + TV) (Daliri, Musco, Suresh 2024).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from airdraft.core.bits import BitReader, BitWriter, id_width
from airdraft.core.sampling import choose
from airdraft.core.schemes.base import Context, Drafted, Ruling
from airdraft.errors import RemoteProtocolError


class Coupled:
    """Body: the ids, `id_width` bits each."""

    rounds = True
    race = "off"

    def __init__(self, context: Context) -> None:
        self._context = context
        self._id_width = self.draft_bits = id_width(context.vocab_size)

    def _choose(self, logits: np.ndarray, position: int) -> int:
        return choose(logits, self._context.params, self._context.seed, position)

    def propose(self, logits: np.ndarray, position: int) -> Drafted:
        """See `Scheme.propose`."""
        return Drafted(self._choose(logits, position))

    def encode(self, drafts: Sequence[Drafted]) -> bytes:
        """See `Scheme.encode`."""
        out = BitWriter()
        out.write([draft.token for draft in drafts], self._id_width)
        return out.bytes()

    def decode(self, count: int, body: bytes) -> list[Drafted]:
        """See `Scheme.decode`."""
        data = BitReader(body)
        tokens = data.read(count, self._id_width).tolist()
        data.finish()
        if any(token >= self._context.vocab_size for token in tokens):
            raise RemoteProtocolError("garbage", "a draft names no token of the vocabulary")
        return [Drafted(token) for token in tokens]

    def verify(self, drafts: Sequence[Drafted], logits: np.ndarray, position: int) -> Ruling:
        """See `Scheme.verify`: accepted while equal to the target's own choice."""
        for accepted, draft in enumerate(drafts):
            token = self._choose(logits[accepted], position + accepted)
            if token != draft.token:
                return Ruling(accepted, token)
        return Ruling(len(drafts), self._choose(logits[len(drafts)], position + len(drafts)))

    def recover(self, draft: Drafted, extra: bytes, position: int) -> int | None:
        """Never needed."""
        raise RemoteProtocolError("state", "the edge left a token to the device, which this scheme never does")

    def more(self) -> bytes:
        """Never needed."""
        raise RemoteProtocolError("state", "the device asked for candidates, which this scheme never sends")


class Stream(Coupled):
    """`stream`: the same choices without rounds. Drafts travel as they are made, and the edge takes what has come."""

    rounds = False

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.race = context.spec.race


class Server(Stream):
    """`server`: a stream without drafts, plain streaming: one target forward a token."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.race = "always"
