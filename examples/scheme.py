"""A scheme in one file: shared noise, with the ids in whole bytes instead of the fewest bits.

A scheme says what travels and how it is judged. This one changes the bytes alone, so it stays exact; the last lines
test that, over whole texts and both machines. In a package of its own it would be an entry point, and need no
registration: see CONTRIBUTING.md.
"""

from airdraft.core import schemes
from airdraft.core.messages import SchemeSpec
from airdraft.core.schemes import Drafts
from airdraft.core.schemes.base import Context
from airdraft.core.schemes.coupled import Coupled
from airdraft.errors import Code, RemoteProtocolError
from airdraft.lab import conform

BYTES = 4


class WholeBytes(Coupled):
    """Body: the ids, 4 bytes each, the last byte first."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.draft_bits = 8 * BYTES

    def encode(self, drafts: Drafts) -> bytes:
        return b"".join(token.to_bytes(BYTES, "little") for token in drafts.tokens)

    def decode(self, count: int, body: bytes) -> Drafts:
        tokens = [int.from_bytes(body[at : at + BYTES], "little") for at in range(0, len(body), BYTES)]
        if len(body) != BYTES * count or any(token >= self._law.vocab_size for token in tokens):
            raise RemoteProtocolError(Code.FRAME, f"a body of {len(body)} bytes is not {count} ids")
        return Drafts.of_tokens(tokens)


schemes.SCHEMES["whole-bytes"] = WholeBytes
spec = SchemeSpec("whole-bytes")
found = conform.tested(conform.tables(1, spec), "whole-bytes", spec, texts=2000, seed=1)
print(f"{found.texts} texts, p = {found.p_value:.2f}: {'exact' if found.exact else 'NOT the target'}")
