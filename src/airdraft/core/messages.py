"""The messages of protocol version 1, and their frames. docs/protocol.md is the specification.

A frame is a length (unsigned LEB128) and a MessagePack array whose first element is the message's number. New fields
are appended with defaults, so an older peer's shorter array still decodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated

import msgspec

from airdraft.core.noise import GAMMA, MASK, mix
from airdraft.core.sampling import SamplingParams
from airdraft.errors import Code, RemoteProtocolError

VERSION = 1
MAX_FRAME = 4 << 20
"""Bytes a frame may hold unless a side says otherwise: eight dense rows of a 150 000-token vocabulary fit."""

REACH = 4
"""A stream's drafts may run ahead of the committed text by so many times `max_draft`."""
MAX_FILLER = 1 << 16
"""Bytes of filler a `Ping` may want back."""

MOST_LIKELY = 20
"""The largest number of likely tokens that may be asked for at each position."""

Count = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=3600)]
Word = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]

ERROR_CODES = {code.value: code.meaning for code in Code if code.travels}
"""What an `Error` may say, and what it means."""


class SchemeSpec(msgspec.Struct, array_like=True, frozen=True):
    """A scheme and its options; a scheme ignores the options that are not its own."""

    name: str
    k: int = 64
    """`topk`: most tokens in a transmitted distribution."""
    bits: int = 16
    """`topk`, `split`: bits of a transmitted probability."""
    downlink: str = "row"
    """`split`: what a rejection sends down, the target's `row` or `candidates` drawn from it."""
    race: str = "always"
    """`stream`: whether the edge writes by itself while no draft is at hand: `off`, `idle` (when the engine has nothing
    else to do) or `always`."""


class Message(msgspec.Struct, array_like=True, frozen=True):
    """One message. Sessions are numbered by the device, positions count from the start of the prompt."""


class Hello(Message, tag=1, frozen=True):
    """Device → edge, first of all."""

    version: Count
    software: str
    model: str
    tokenizer: bytes
    """16 bytes that two tokenizers share iff their tables of tokens are the same."""
    vocab_size: Count


class Welcome(Message, tag=2, frozen=True):
    """Edge → device, the answer to `Hello`."""

    version: Count
    software: str
    model: str
    max_context: Count
    max_frame: Count
    max_draft: Count
    max_sessions: Count
    heartbeat_s: Annotated[float, msgspec.Meta(ge=0.01, le=3600)]
    eos_ids: tuple[Count, ...]
    verify_s: Seconds = 0.0
    """How long a forward of the target takes at present, waiting for its turn included; 0 when not known yet."""


class Open(Message, tag=3, frozen=True):
    """Device → edge: a new text, or an old one to be continued from its committed prefix."""

    session: Count
    scheme: SchemeSpec
    params: SamplingParams
    seed: Word
    max_tokens: Count
    prompt_length: Count
    length: Count
    """Prompt and committed tokens together; more than `prompt_length` when a text is resumed."""
    tokens: bytes
    """`length` ids, packed at `bits.id_width` bits each."""
    digest: Count
    """`Digest` of those ids."""
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=MOST_LIKELY)] | None = None
    """Wanted: `Logprobs` of every committed token, with so many of the likeliest, 20 at most; nil: none."""


class Opened(Message, tag=4, frozen=True):
    """Edge → device, the answer to `Open` and to `Switch`: the session exists, and its text is this long."""

    session: Count
    committed: Count
    digest: Count


class Draft(Message, tag=5, frozen=True):
    """Device → edge: `count` drafted tokens that follow the first `start` tokens of the text."""

    session: Count
    seq: Count
    start: Count
    acked: Count
    """Committed length the device has seen."""
    digest: Count
    """Of the tokens before `start`."""
    count: Count
    body: bytes
    """The scheme's own encoding of the drafts."""
    recovered: Count | None = None
    """`split`: the token before `start`, which the device drew itself after a rejection."""


class Verdict(Message, tag=6, frozen=True):
    """Edge → device: how many tokens of draft `seq` were accepted, and the token that follows them."""

    session: Count
    seq: Count
    accepted: Count
    token: Count | None
    """The recovered or bonus token. None: the text ended with an accepted token, or `extra` says how to draw it."""
    committed: Count
    digest: Count
    extra: bytes = b""


class More(Message, tag=7, frozen=True):
    """Device → edge, `split`: none of the candidates of verdict `seq` would do."""

    session: Count
    seq: Count


class Extra(Message, tag=8, frozen=True):
    """Edge → device, `split`: the answer to `More`."""

    session: Count
    seq: Count
    extra: bytes


class Tokens(Message, tag=9, frozen=True):
    """Edge → device, without rounds: what a forward committed, from position `start` on."""

    session: Count
    start: Count
    tokens: tuple[Count, ...]
    """What follows the accepted drafts."""
    digest: Count
    accepted: Count = 0
    """`stream`: the first so many tokens are the device's own drafts, and are not repeated here."""
    drafted: Count = 0
    """`stream`: how many drafts the forward verified; 0 when the edge raced."""
    seq: Count = 0
    """`stream`: the last `Draft` that has arrived, dead or alive."""


class Close(Message, tag=10, frozen=True):
    """Either way: this side is done with the session."""

    session: Count
    reason: str


class Ping(Message, tag=11, frozen=True):
    """Either way: are you there? `t` is the sender's own and comes back untouched; here, its clock in seconds."""

    t: float
    filler: bytes = b""
    """Ignored: bytes whose transmission tells the rate of the link."""
    want: Annotated[int, msgspec.Meta(ge=0, le=MAX_FILLER)] = 0
    """Bytes of filler to be sent back."""


class Pong(Message, tag=12, frozen=True):
    """Either way: the answer to `Ping`."""

    t: float
    filler: bytes = b""
    """As many bytes as were wanted."""
    verify_s: Seconds = 0.0
    """From the edge: as in `Welcome`."""


class Error(Message, tag=13, frozen=True):
    """Either way: a refusal, of one session or (session None) of the connection, which then ends."""

    session: Count | None
    code: str
    message: str


class Switch(Message, tag=14, frozen=True):
    """Device → edge: go on with another scheme from the next commit on. The edge answers `Opened` when it does."""

    session: Count
    scheme: SchemeSpec
    recovered: Count | None = None
    """As in `Draft`."""


class Logprobs(Message, tag=15, frozen=True):
    """Edge → device, if `Open` wants it: how likely the target held the tokens that the next message commits."""

    session: Count
    start: Count
    count: Count
    """Of these tokens."""
    body: bytes
    """See [below](#log-probabilities)."""


ToEdge = Hello | Open | Draft | More | Close | Ping | Pong | Error | Switch
ToDevice = Welcome | Opened | Verdict | Extra | Tokens | Close | Ping | Pong | Error | Logprobs

_encoder = msgspec.msgpack.Encoder()


def encode(message: Message) -> bytes:
    """One frame: the length of the message and the message."""
    body = _encoder.encode(message)
    head = bytearray()
    length = len(body)
    while length >= 0x80:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + body


def websocket_header(length: int, masked: bool) -> int:
    """Bytes that a WebSocket puts before a message of `length` bytes (RFC 6455 §5.2). Devices mask, edges do not."""
    return 2 + (0 if length < 126 else 2 if length < 1 << 16 else 8) + 4 * masked


class Decoder:
    """Turns bytes, cut anywhere, into messages. One per direction of a connection."""

    def __init__(self, side: object, max_frame: int = MAX_FRAME) -> None:
        """`side` is what may arrive: `ToEdge` or `ToDevice`."""
        self._decoder = msgspec.msgpack.Decoder(side)
        self._buffer = bytearray()
        self.max_frame = max_frame

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that `data` completes.

        Raises: `RemoteProtocolError` "frame" or "garbage" once the messages before the fault were handed out.
        """
        self._buffer += data
        while (frame := self._take_frame()) is not None:
            try:
                yield self._decoder.decode(frame)
            # RecursionError: fields beyond ours are skipped, however deeply they nest.
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise RemoteProtocolError(Code.GARBAGE, f"a frame is no message of this protocol: {error}") from error

    def _take_frame(self) -> bytes | None:
        length = shift = 0
        for at, octet in enumerate(self._buffer):
            length |= (octet & 0x7F) << shift
            if length > self.max_frame or shift > 28:
                raise RemoteProtocolError(
                    Code.FRAME, f"a frame announces at least {length} bytes, the limit is {self.max_frame}"
                )
            if octet < 0x80:
                start = at + 1
                break
            shift += 7
        else:
            return None
        if len(self._buffer) < start + length:
            return None
        frame = bytes(self._buffer[start : start + length])
        del self._buffer[: start + length]
        return frame


class Digest:
    """A running 32-bit digest of a token sequence, by which two sides notice that their prefixes differ.

    h starts at 0; each token sets h = mix((h ^ (token + 1)) * GAMMA); the digest is the low 32 bits. It guards
    against mistakes, not against a forger.
    """

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        self._state = 0
        self.extend(tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """Append tokens."""
        for token in tokens:
            self._state = mix(((self._state ^ (token + 1)) * GAMMA) & MASK)

    def copy(self) -> Digest:
        """One that goes on from here by itself."""
        other = Digest()
        other._state = self._state
        return other

    @property
    def value(self) -> int:
        """The digest as it stands."""
        return self._state & 0xFFFFFFFF
