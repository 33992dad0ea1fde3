"""Every error airdraft raises on purpose. Each message names the thing and the remedy, in one line."""

from __future__ import annotations


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
