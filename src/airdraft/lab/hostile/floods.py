"""Floods: frames without end, each of which costs an edge more than it costs its sender.

Every frame is one that the protocol knows. What is wrong with it is its number, its length, or what it announces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, repeat

from airdraft.core import schemes
from airdraft.core.bits import BitWriter, id_width
from airdraft.core.messages import (
    MAX_FILLER,
    MAX_FRAME,
    VERSION,
    Close,
    Digest,
    Draft,
    Error,
    Hello,
    Message,
    More,
    Open,
    Ping,
    SchemeSpec,
    Switch,
    encode,
)
from airdraft.core.sampling import SamplingParams

CHUNK = 1 << 16
"""Bytes of small frames that are handed on together."""
FIRST = 0x3C3D3E3F
"""The number of a flood's first text. Its four bytes occur nowhere else in a frame: replacing them makes the next."""
GIANT = (1 << 64) - 1
"""The largest number that MessagePack can carry."""
ROOM = 256
"""Bytes of a frame beside its one long field."""
STREAM = SchemeSpec(schemes.STREAM)


@dataclass(frozen=True)
class Victim:
    """What a device must know of an edge to be greeted, and the frame to fill."""

    tokenizer: bytes
    vocab_size: int
    frame: int = MAX_FRAME

    @property
    def hello(self) -> bytes:
        """The frame with which a device begins."""
        return encode(Hello(VERSION, "hostile", "hostile", self.tokenizer, self.vocab_size))

    def opening(
        self, number: int, prompt: Sequence[int] = (1,), max_tokens: int = 1, spec: SchemeSpec = STREAM, seed: int = 1
    ) -> Open:
        """A text that an edge opens."""
        packed = BitWriter()
        packed.write(prompt, id_width(self.vocab_size))
        return Open(
            number, spec, SamplingParams(0.0), seed, max_tokens, len(prompt), len(prompt), packed.bytes(),
            Digest(prompt).value,
        )  # fmt: skip

    @property
    def room(self) -> int:
        """Bytes that one field of a frame can have."""
        return self.frame - ROOM


Flood = Callable[[Victim], Iterator[bytes]]


def _same(*messages: Message) -> Iterator[bytes]:
    """The same frames for ever, in chunks; a frame that is longer than a chunk is one by itself."""
    frames = b"".join(map(encode, messages))
    return repeat(frames * max(1, CHUNK // len(frames)))


def _numbered(make: Callable[[int], Iterable[Message]]) -> Iterator[bytes]:
    """Frames for texts with rising numbers, for ever, in chunks."""
    mark = FIRST.to_bytes(4, "big")
    parts = b"".join(map(encode, make(FIRST))).split(mark)
    each = max(1, CHUNK // len(mark.join(parts)))
    for first in count(FIRST, each):
        yield b"".join(number.to_bytes(4, "big").join(parts) for number in range(first, first + each))


def _in_a_text(victim: Victim, *messages: Message, long: int = 1 << 20) -> Iterator[bytes]:
    """One text of a stream that does not race, so that it goes on for as long as no draft comes; then `messages`."""
    spec = SchemeSpec(schemes.STREAM, race="off")
    return chain([encode(victim.opening(1, max_tokens=long, spec=spec))], _same(*messages))


def _draft(count: int, body: bytes, digest: int = 0, start: int = 1) -> Draft:
    return Draft(1, 1, start, 1, digest, count, body)


FLOODS: dict[str, Flood] = {
    "drafts that fill a frame": lambda v: _in_a_text(
        v, _draft(8 * v.room // id_width(v.vocab_size), bytes(v.room), Digest((1,)).value)
    ),
    "drafts that claim a giant count": lambda v: _in_a_text(v, _draft(GIANT, b"", Digest((1,)).value)),
    "dead drafts": lambda v: _in_a_text(v, _draft(1, bytes(-(-id_width(v.vocab_size) // 8)))),
    "switches": lambda v: _in_a_text(v, Switch(1, STREAM), Switch(1, SchemeSpec(schemes.SERVER))),
    "opened and closed": lambda v: _numbered(lambda n: (v.opening(n), Close(n, "x"))),
    "unknown schemes": lambda v: _numbered(lambda n: [v.opening(n, spec=SchemeSpec("x"))]),
    "closed with long reasons": lambda v: _numbered(lambda n: (v.opening(n), Close(n, "x" * v.room))),
    "errors with long messages": lambda v: _numbered(lambda n: (v.opening(n), Error(n, "x", "x" * v.room))),
    "schemes with long names": lambda v: _numbered(lambda n: [v.opening(n, spec=SchemeSpec("x" * v.room))]),
    "prompts that fill a frame": lambda v: _numbered(lambda n: [_overlong(v, n)]),
    "for no text": lambda v: _same(More(7, 1), Close(7, "")),
    "pings": lambda _: _same(Ping(0.0)),
    "pings that ask for much": lambda _: _same(Ping(0.0, b"", MAX_FILLER)),
    "pings that fill a frame": lambda v: _same(Ping(0.0, bytes(v.room), MAX_FILLER)),
}
"""Floods by name. Each follows a `Hello`."""
ANSWERED = tuple(name for name in FLOODS if name.startswith(("pings", "unknown", "schemes", "opened", "switches")))
"""Floods whose every frame is answered, so that it matters whether somebody reads the answers."""


def _overlong(victim: Victim, number: int) -> Open:
    count = 8 * victim.room // id_width(victim.vocab_size)
    return Open(number, STREAM, SamplingParams(0.0), 1, 1, count, count, bytes(victim.room), 0)
