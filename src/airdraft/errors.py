"""Every error airdraft raises on purpose. Each message names the thing and the remedy, in one line."""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class Code(StrEnum):
    """The reason a session, a connection or a request ended, in one word. An `Error` message carries it."""

    meaning: str
    passes: bool
    """Whether another edge, or the same one later, may not refuse."""
    travels: bool
    """Whether it is part of the protocol. The others are set on the side that reports them."""

    def __new__(cls, value: str, meaning: str, *, passes: bool = False, travels: bool = True) -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning, member.passes, member.travels = meaning, passes, travels
        return member

    VERSION = "version", "the two sides speak different versions of the protocol"
    VOCABULARY = "vocabulary", "draft and target model do not share one vocabulary"
    SCHEME = "scheme", "the scheme is unknown, or an option of it is out of range"
    CONTEXT = "context", "the text does not fit the target's context"
    FRAME = "frame", "a frame is longer than the receiver allows"
    GARBAGE = "garbage", "bytes that are no message of this protocol"
    STATE = "state", "a message that does not fit the session's state"
    BUSY = "busy", "the edge has no room for another session, or is about to end"
    QUOTA = "quota", "the quota of the device's token is used up"
    REVOKED = "revoked", "the device's token is valid no more"
    IDLE = "idle", "nothing has happened for too long"
    SILENT = "silent", "nothing was heard for three heartbeats"
    ENGINE = "engine", "the model at the edge failed"


class AirdraftError(Exception):
    """Something the user or the peer can mend. Command lines print it as one line and exit with 2."""


class LocalProtocolError(AirdraftError):
    """We misused one of the machines of `airdraft.core` (called it in the wrong state, say)."""


class RemoteProtocolError(AirdraftError):
    """The peer broke the protocol. `code` is one of `airdraft.core.messages.ERROR_CODES`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class RefusedError(AirdraftError):
    """The peer refused us, and said why in an error frame. `code` as in `RemoteProtocolError`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class LinkError(AirdraftError):
    """The edge cannot be reached, or went away."""


class ModelError(AirdraftError):
    """A model cannot be found, read or run."""


class BadParameterError(AirdraftError, ValueError):
    """A parameter out of its range. A ValueError too, so that decoders report it as a bad message."""


def first_line(problem: Exception) -> str:
    """What another library says of its error, for a message of ours; the error's name if it says nothing."""
    return (str(problem).strip() or type(problem).__name__).splitlines()[0]


def why(problem: OSError | UnicodeError) -> str:
    """What is wrong with an address, for a message of ours that names it."""
    return getattr(problem, "strerror", None) or first_line(problem)
