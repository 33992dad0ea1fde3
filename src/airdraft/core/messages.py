"""The messages and frames of protocol version 1. docs/protocol.md is the specification.

A frame is a length (unsigned LEB128) and a MessagePack array whose first element is the message's number. New fields
are appended with defaults, so an older peer's shorter array still decodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated

import msgspec

from airdraft import values
from airdraft.core.noise import GAMMA, M1, M2, MASK
from airdraft.core.sampling import SamplingParams
from airdraft.errors import Code, RemoteProtocolError

VERSION = 1
MAX_FRAME = 4 << 20
"""Default limit of a frame in bytes: eight dense rows of a 150 000-token vocabulary fit."""

REACH = 4
"""Most drafts that a stream may have beyond the committed text, in multiples of `max_draft`."""
MOST_PROPOSED = 64
"""Most tokens that an edge may add to a forward of its own accord."""
MOST_NODES = 64
"""Most live drafts of a tree: those that may still be accepted."""
MOST_VERIFIED = 16
"""Most drafts of a tree in one forward."""
MOST_BACK = 255
"""Most drafts between a draft of a tree and its parent: what a byte holds."""
MAX_FILLER = 1 << 16
"""Most bytes of filler that a `Ping` may ask for."""

MOST_LIKELY = 20
"""Most likely tokens that a request may ask for at each position."""

MOST_GUIDE = 1 << 16
"""Most characters of a grammar."""
MOST_TEXT = 1024
"""Most characters of a string for people. A sender cuts its own, see `clip`."""
MOST_IDS = 1024
"""Most ids in an array."""
SHORT_FRAME = 1 << 16
"""Limit of a frame whose message carries no body, in bytes."""
PING_FRAME = (1 << 18) + 64
"""Limit of the frame of a `Ping`, in bytes. Its filler shows the rate of a link: 256 KiB take 20 ms at 100 Mbit/s."""

Text = Annotated[str, msgspec.Meta(max_length=MOST_TEXT)]
Name = Annotated[str, msgspec.Meta(max_length=32)]
Ids = Annotated[tuple[Annotated[int, msgspec.Meta(ge=0)], ...], msgspec.Meta(max_length=MOST_IDS)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=3600)]
Word = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]

ERROR_CODES = {code.value: code.meaning for code in Code if code.travels}
"""The codes of an `Error`, and their meanings."""


_PLAIN = {"k": values.whole, "bits": values.whole, "resolution": values.whole, "mass": values.number,
          "candidates": values.whole}  # fmt: skip
"""How the options of a scheme that are no words are made plain."""


class SchemeSpec(msgspec.Struct, array_like=True, frozen=True):
    """A scheme and its options. A scheme ignores the options of others."""

    name: Name
    k: int = 64
    """`topk`, `lattice`: number of tokens in a transmitted distribution."""
    bits: int = 16
    """`topk`, `split`: bits in a transmitted probability."""
    downlink: Name = "row"
    """`split`: data sent after a rejection, the target's `row` or `candidates` drawn from it."""
    race: Name = "always"
    """`stream`: whether the edge writes on its own while it has no draft: `off`, `idle` (only when the engine has
    nothing else to do) or `always`."""
    resolution: int = 240
    """`lattice`: sum of the integer weights in a transmitted distribution."""
    verify: Name = "token"
    """`dense`, `topk`, `lattice`: whether drafts are judged one by one (`token`) or together (`block`)."""
    mass: float = 1.0
    """`topk`, `lattice`: share of the probability that a transmitted distribution holds, in no more than k tokens; with
    1 it has k tokens."""
    cut: Name = "mass"
    """`topk`, `lattice`: whether every distribution holds this share (`mass`), or their mean (`conformal`)."""
    candidates: int = 1
    """`topk`: most tokens drafted for a position."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            plain = _PLAIN.get(name, values.words)
            msgspec.structs.force_setattr(self, name, plain(name, getattr(self, name)))


class GuideSpec(msgspec.Struct, array_like=True, frozen=True):
    """The grammar that a text keeps to, or what else leads it."""

    kind: Name
    """The language of `text`: `json` for a JSON schema, `regex`, `lark` for a grammar, `biased` for penalties."""
    text: Annotated[str, msgspec.Meta(max_length=MOST_GUIDE)]


class Message(msgspec.Struct, array_like=True, frozen=True):
    """A message. The device numbers sessions; positions count from the start of the prompt."""


class Hello(Message, tag=1, frozen=True):
    """Device → edge, the first message."""

    version: Count
    software: Text
    model: Text
    tokenizer: bytes
    """16 bytes, equal for two tokenizers iff their token tables are equal."""
    vocab_size: Count


class Welcome(Message, tag=2, frozen=True):
    """Edge → device, the answer to `Hello`."""

    version: Count
    software: Text
    model: Text
    max_context: Count
    max_frame: Count
    max_draft: Count
    max_sessions: Count
    heartbeat_s: Annotated[float, msgspec.Meta(ge=0.01, le=3600)]
    eos_ids: Ids
    verify_s: Seconds = 0.0
    """Current duration of a target forward in seconds, including the wait for its turn; 0 if not known yet."""
    target: Annotated[bytes, msgspec.Meta(max_length=80)] = b""
    """What defines the target; see [below](#the-same-target). Empty: not said."""
    exactness: Annotated[tuple[Annotated[float, msgspec.Meta(ge=0, le=1)] | None, ...], msgspec.Meta(max_length=8)] = ()
    """What share of tokens changes with the other texts of a forward, with its width, with other texts in memory, by
    the codec of published prompts. 0: exact; nil: not known. Empty: not said."""
    trees: Count = 0
    """Most live drafts of a tree; see [below](#trees). 0: the edge takes chains only."""
    draft_s: Seconds | None = None
    """Current duration of a forward of the edge's own draft model, in seconds; 0 if not known yet. nil: it has none."""
    private: bool = False
    """Whether the edge takes texts with private parts, see [below](#private-parts)."""
    guides: Name = ""
    """What reads grammars at the edge, and its version, see [below](#guides). Empty: it takes no guides."""


class Open(Message, tag=3, frozen=True):
    """Device → edge: a new text, or an old one that goes on from its committed prefix."""

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
    """`Digest` of these ids."""
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=MOST_LIKELY)] | None = None
    """Number of likely tokens, at most 20, listed in the `Logprobs` of each commit; nil: no `Logprobs`."""
    predicted: Count = 0
    """Number of ids in `prediction`."""
    prediction: bytes = b""
    """What the text is expected to be, most of it at least: ids packed as `tokens`. It may hasten a stream."""
    private: Count | None = None
    """Position in the prompt from which on the text is private, see [below](#private-parts). nil: nothing is."""
    guide: GuideSpec | None = None
    """The grammar that the text keeps to from its prompt on, see [below](#guides). nil: none."""


class Opened(Message, tag=4, frozen=True):
    """Edge → device, the answer to `Open` and to `Switch`, with the text's length and digest."""

    session: Count
    committed: Count
    digest: Count
    cached: Count = 0
    """Tokens of the text that the edge holds already, from another text, and need not read. 0 after a `Switch`."""


class Draft(Message, tag=5, frozen=True):
    """Device → edge: `count` drafted tokens that follow the first `start` tokens of the text."""

    session: Count
    seq: Count
    start: Count
    acked: Count
    """Length of the committed text that the device has seen."""
    digest: Count
    """`Digest` of the tokens before `start`."""
    count: Count
    body: bytes
    """The drafts, in the scheme's own encoding."""
    recovered: Count | None = None
    """`split`: the token before `start`, if the device drew it after a rejection."""
    parents: Annotated[bytes, msgspec.Meta(max_length=MOST_BACK)] = b""
    """`stream`: for each draft of a tree, how many drafts before it its parent was sent; 0: it follows the text at
    `start`. Empty: a chain."""


class Verdict(Message, tag=6, frozen=True):
    """Edge → device: the number of accepted tokens of draft `seq`, and the token after them."""

    session: Count
    seq: Count
    accepted: Count
    """Number of the last accepted draft, from 1: in a chain how many were accepted. A further candidate has a number
    behind the chain, see [below](#cuts-and-candidates)."""
    token: Count | None
    """The recovered or bonus token. None: an accepted token ended the text, or the device draws it from `extra`."""
    committed: Count
    digest: Count
    extra: bytes = b""


class More(Message, tag=7, frozen=True):
    """Device → edge, `split`: a request for more, when no candidate of verdict `seq` was taken."""

    session: Count
    seq: Count


class Extra(Message, tag=8, frozen=True):
    """Edge → device, `split`: the answer to `More`."""

    session: Count
    seq: Count
    extra: bytes


class Tokens(Message, tag=9, frozen=True):
    """Edge → device, without rounds: the tokens that a forward committed, from position `start` on."""

    session: Count
    start: Count
    tokens: Ids
    """The tokens after the accepted drafts."""
    digest: Count
    accepted: Count = 0
    """`stream`: number of the device's own drafts at the start of the commit; they are not repeated here."""
    drafted: Count = 0
    """`stream`: number of the device's drafts that the forward verified; 0 when the edge raced."""
    seq: Count = 0
    """`stream`: the last `Draft` that arrived, whether it was usable or not."""
    node: Count | None = None
    """`stream`: number of the last accepted draft, if it came in a tree."""


class Close(Message, tag=10, frozen=True):
    """Either way: the end of the session for this side."""

    session: Count
    reason: Text


class Ping(Message, tag=11, frozen=True):
    """Either way: a heartbeat. `t` is up to the sender, here its clock in seconds, and comes back unchanged."""

    t: float
    filler: bytes = b""
    """Ignored bytes, whose transmission shows the rate of the link."""
    want: Annotated[int, msgspec.Meta(ge=0, le=MAX_FILLER)] = 0
    """Bytes of filler to send back."""


class Pong(Message, tag=12, frozen=True):
    """Either way: the answer to `Ping`."""

    t: float
    filler: bytes = b""
    """As many bytes as `want` asked for."""
    verify_s: Seconds = 0.0
    """From the edge, as in `Welcome`."""


class Error(Message, tag=13, frozen=True):
    """Either way: a refusal of one session, or of the connection (session None), which then ends."""

    session: Count | None
    code: Name
    message: Text


class Switch(Message, tag=14, frozen=True):
    """Device → edge: a change of scheme from the next commit on. The edge answers `Opened` when it changes."""

    session: Count
    scheme: SchemeSpec
    recovered: Count | None = None
    """As in `Draft`."""


class Logprobs(Message, tag=15, frozen=True):
    """Edge → device, if `Open` asks: the target's log-probabilities of the tokens that the next message commits."""

    session: Count
    start: Count
    count: Count
    """Number of these tokens."""
    body: bytes
    """See [below](#log-probabilities)."""


ToEdge = Hello | Open | Draft | More | Close | Ping | Pong | Error | Switch
ToDevice = Welcome | Opened | Verdict | Extra | Tokens | Close | Ping | Pong | Error | Logprobs

LONG_FRAMES = {3: 1 << 32, 5: 1 << 32, 6: 1 << 32, 8: 1 << 32, 15: 1 << 32, 11: PING_FRAME, 12: 2 * MAX_FILLER}
"""Limits, by number, of the frames of messages with a body, where the receiver's own limit is not lower, in bytes."""

_encoder = msgspec.msgpack.Encoder()


def encode(message: Message) -> bytes:
    """Encode one frame: the length of the message, then the message. Chains are sent without the fields of trees."""
    body = _encoder.encode(message)
    spare = 2 if type(message) is Draft and not message.parents else type(message) is Tokens and message.node is None
    if spare:  # the last field says nothing: one element less in an array of less than 16
        body = bytes((body[0] - 1,)) + body[1:-spare]
    head = bytearray()
    length = len(body)
    while length >= 0x80:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + body


def clip(text: str) -> str:
    """Cut a string for people to what a message may hold."""
    return text if len(text) <= MOST_TEXT else f"{text[: MOST_TEXT - 1]}…"


def websocket_header(length: int, masked: bool) -> int:
    """Size in bytes of the WebSocket header of a `length`-byte message (RFC 6455 §5.2). Devices mask, edges do not."""
    return 2 + (0 if length < 126 else 2 if length < 1 << 16 else 8) + 4 * masked


TAG_BYTES = 6
"""Bytes of a frame's body in which the message's number is found: it follows the head of the array."""


class Decoder:
    """Turns bytes, split anywhere, into messages. Each direction of a connection has its own."""

    def __init__(self, side: object, max_frame: int = MAX_FRAME) -> None:
        """`side` is the union of messages that may arrive: `ToEdge` or `ToDevice`."""
        self._decoder = msgspec.msgpack.Decoder(side)
        self._buffer = bytearray()
        self.max_frame = max_frame

    def feed(self, data: bytes) -> Iterator[Message]:
        """Yield the messages that `data` completes.

        Raises: `RemoteProtocolError` "frame" or "garbage", after the messages before the fault.
        """
        self.add(data)
        while (message := self.take()) is not None:
            yield message

    def add(self, data: bytes) -> None:
        """Keep bytes for `take`."""
        self._buffer += data

    def take(self) -> Message | None:
        """Return the next message, None if it is not complete. Raises: as `feed`."""
        frame = self._frame()
        if frame is None:
            return None
        try:
            with memoryview(self._buffer)[frame] as body:
                message: Message = self._decoder.decode(body)
        # RecursionError: unknown fields are skipped, however deeply they nest.
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise RemoteProtocolError(Code.GARBAGE, f"a frame is no message of this protocol: {error}") from error
        del self._buffer[: frame.stop]
        return message

    def _frame(self) -> slice | None:
        """Return the place of the first frame's body, None if it is not complete. A long one is refused early."""
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
        if length > SHORT_FRAME:
            head = self._buffer[start : start + TAG_BYTES]
            tag = head[{0xDC: 3, 0xDD: 5}.get(head[0], 1)] if len(head) == TAG_BYTES else None
            if tag is not None and length > (most := LONG_FRAMES.get(tag, SHORT_FRAME)):
                raise RemoteProtocolError(
                    Code.FRAME, f"a frame of {length} bytes where a message of number {tag} takes at most {most}"
                )
        return slice(start, start + length) if len(self._buffer) >= start + length else None


class Digest:
    """A running 32-bit digest of a token sequence, which shows when the two sides' prefixes differ.

    h starts at 0; each token sets h = mix((h ^ (token + 1)) * GAMMA); the digest is the low 32 bits. It guards
    against mistakes, not against forgery.
    """

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        self._state = 0
        self.extend(tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """Append tokens."""
        state = self._state
        for token in tokens:  # `mix`, written out: a prompt is hashed in one go
            z = ((state ^ (token + 1)) * GAMMA) & MASK
            z = ((z ^ (z >> 30)) * M1) & MASK
            z = ((z ^ (z >> 27)) * M2) & MASK
            state = z ^ (z >> 31)
        self._state = state

    def copy(self) -> Digest:
        """Return an independent copy."""
        other = Digest()
        other._state = self._state
        return other

    @property
    def value(self) -> int:
        """The current digest."""
        return self._state & 0xFFFFFFFF
