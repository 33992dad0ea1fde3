"""Every error airdraft raises on purpose. Each message names the thing and the remedy, in one line."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar, Self


class Code(StrEnum):
    """The reason a session, a connection or a request ended, in one word.

    A peer may send a word that is not listed here, so errors and messages carry a string; `of` looks it up.
    """

    meaning: str
    passes: bool
    """Whether another edge, or the same one later, may not refuse."""
    http: int
    """Status of the OpenAI-style API: 502 for what is between device and edge, and no fault of the request."""
    travels: bool
    """Whether the code is part of the protocol. The others are set on the side that reports them."""

    def __new__(cls, value: str, meaning: str, passes: bool = False, http: int = 502, travels: bool = True) -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning, member.passes, member.http, member.travels = meaning, passes, http, travels
        return member

    # code, meaning, passes, http, travels
    VERSION = "version", "the two sides speak different versions of the protocol"
    VOCABULARY = "vocabulary", "draft and target model do not share one vocabulary"
    SCHEME = "scheme", "the scheme is unknown, or an option of it is out of range", False, 400
    CONTEXT = "context", "the text does not fit the target's context", False, 400
    FRAME = "frame", "a frame is longer than the receiver allows"
    GARBAGE = "garbage", "bytes that are no message of this protocol"
    STATE = "state", "a message that does not fit the session's state"
    BUSY = "busy", "the edge has no room for another session, or is about to end", True, 503
    QUOTA = "quota", "the quota of the device's token is used up", True, 429
    REVOKED = "revoked", "the device's token is no longer valid", False, 401
    IDLE = "idle", "nothing has happened for too long", True
    SILENT = "silent", "nothing was heard for three heartbeats", True
    ENGINE = "engine", "the model at the edge failed", True
    GUIDE = "guide", "the text's guide cannot be read, leads nowhere, or is too much for its reader", False, 400
    UNAUTHORISED = "unauthorised", "the edge does not let the device in, or cannot be trusted", False, 502, False
    MODEL = "model", "the edge serves another target than the edges before it", False, 502, False
    CLOSED = "closed", "the edge ended the text before it was complete", True, 502, False
    STALLED = "stalled", "the edge answers pings and does not go on with the text", True, 502, False
    GONE = "gone", "the connection ended without an error message", False, 502, False

    @classmethod
    def of(cls, code: str) -> Code | None:
        """Return the member for `code`, None for a code that only the peer knows."""
        return next((known for known in cls if known == code), None)


class AirdraftError(Exception):
    """Something the user or the peer can mend. Command lines print it as one line and exit with 2."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle any subclass, whatever its constructor takes: a process pool must hand errors on whole."""
        return _rebuilt, (type(self), self.args, self.__dict__)


def _rebuilt(kind: type[AirdraftError], args: tuple[object, ...], attributes: dict[str, object]) -> AirdraftError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


class LocalProtocolError(AirdraftError):
    """Our own code misused one of the machines of `airdraft.core`: it called one in the wrong state, say."""


class RemoteProtocolError(AirdraftError):
    """The peer broke the protocol. `code` is a `Code`, or a word that only the peer knows."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class RefusedError(AirdraftError):
    """The peer refused us, and said why in an error frame. `code` is as in `RemoteProtocolError`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def passes(self) -> bool:
        """Whether another edge, or the same one later, may not refuse."""
        known = Code.of(self.code)
        return known is not None and known.passes


class LinkError(AirdraftError):
    """The edge cannot be reached, or went away."""


class StallError(LinkError):
    """The edge answers, and does not go on with a text."""


class ModelError(AirdraftError):
    """A model cannot be found, read or run."""

    code: ClassVar[Code] = Code.ENGINE
    """What a peer is told when this ends a text."""


class GuideError(ModelError):
    """A guide gives up in the midst of a text: its reader breaks, or no token may follow. The client can mend it."""

    code = Code.GUIDE


class BadParameterError(AirdraftError, ValueError):
    """A parameter is out of its range. A ValueError too, so that decoders report it as a bad message.

    `field` is the parameter at fault as the OpenAI-style API spells it (`top_k`), None if no single one is.
    `code` is what an edge refuses such a request with.
    """

    def __init__(self, message: str, field: str | None = None, code: Code = Code.SCHEME) -> None:
        super().__init__(message)
        self.field = field
        self.code = code


def ending(error: AirdraftError) -> str:
    """Return the code of a text that an error has ended in its midst."""
    return error.code if isinstance(error, RefusedError | ModelError) else Code.ENGINE


def too_long(length: int, context: int, model: str | None = None, what: str = "prompt") -> str:
    """Return the message for a prompt of `length` tokens that leaves no room in a context of `context` tokens.

    `what`: what else is so long.
    """
    whose = "the target's context" if model is None else f"the context of {model}"
    return f"the {what} is {length} tokens, {whose} is {context}; shorten the {what}"


def first_line(problem: Exception) -> str:
    """Return the first line of another library's error, or the error's name if it has no message."""
    return (str(problem).strip() or type(problem).__name__).splitlines()[0]


def why(problem: OSError | UnicodeError) -> str:
    """Return what is wrong with an address, for a message that names the address."""
    return getattr(problem, "strerror", None) or first_line(problem)
