"""The target's log-probabilities of a text's tokens, for users who ask for them.

They are natural logarithms of the target's own probabilities, before temperature, top-k, top-p and min-p. The edge has
the target's rows, so it computes them and sends them to the device in single precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from airdraft.core import schemes
from airdraft.core.bits import BitReader, BitWriter, id_width
from airdraft.core.messages import MOST_LIKELY, MOST_PROPOSED, Logprobs
from airdraft.core.noise import IntArray
from airdraft.errors import BadParameterError, Code, RemoteProtocolError

UNLIKELY = -9999.0
"""The lowest value reported, as in OpenAI's API."""


@dataclass(frozen=True)
class Logprob:
    """The log-probability of one committed token."""

    token: int
    logprob: float
    """From `UNLIKELY` to 0."""
    top: tuple[tuple[int, float], ...] = ()
    """The most likely tokens at its position and their log-probabilities, likeliest first, ties by lower id."""


def check_logprobs(most: int | None, scheme: str) -> None:
    """Check that `scheme` allows them. `most`: likely tokens at each position; None: not asked for.

    Raises: `BadParameterError`.
    """
    if most is None:
        return
    if not 0 <= most <= MOST_LIKELY:
        raise BadParameterError(
            f"logprobs is {most}; give 0 to {MOST_LIKELY} likely tokens at each position", field="logprobs"
        )
    if schemes.traits(scheme).recovers_on == schemes.DEVICE:
        raise BadParameterError(
            f"logprobs is asked for under {scheme}, whose recovered tokens the device draws; use another scheme",
            field="logprobs",
        )


def logprob_of(row: np.ndarray, token: int, most: int, *, normalised: bool) -> Logprob:
    """Compute the log-probability of the token committed from one of the target's rows [vocab].

    most: number of likely tokens to list. normalised: the row holds log-probabilities, perhaps not all.
    """
    logs = row.astype(np.float64)
    if not normalised:
        logs -= logs.max()
        # Added up without the likeliest token, so that its own value is right to the last bits, however certain it is.
        logs -= np.log1p(np.exp(np.delete(logs, np.argmax(logs))).sum())
    logs = np.clip(logs, UNLIKELY, 0.0).astype(np.float32)
    likely: IntArray = np.zeros(0, np.int64)
    if most:
        most = min(most, logs.size)
        likely = np.flatnonzero(logs >= np.partition(logs, -most)[-most])
        likely = likely[np.argsort(-logs[likely], kind="stable")][:most]
    top = zip(likely.tolist(), logs[likely].tolist(), strict=True)
    return Logprob(token, float(logs[token]), tuple(top))


def encode_logprobs(known: Sequence[Logprob], vocab_size: int) -> bytes:
    """Encode the body of a `Logprobs` message: each token's own value, all likely ids, then their values."""
    out = BitWriter()
    out.write(_words([each.logprob for each in known]), 32)
    out.write([token for each in known for token, _ in each.top], id_width(vocab_size))
    out.write(_words([logprob for each in known for _, logprob in each.top]), 32)
    return out.bytes()


def bounded(message: Logprobs, drafts: int, most: int, vocab_size: int) -> Logprobs:
    """Return a message about at most so many drafts, what an edge may add, and one token more.

    Raises: `RemoteProtocolError` if it is about more, or its body is longer than that takes.
    """
    bits = message.count * (32 + min(most, vocab_size) * (id_width(vocab_size) + 32))
    if message.count > drafts + MOST_PROPOSED + 1 or 8 * len(message.body) >= bits + 8:
        raise RemoteProtocolError(Code.GARBAGE, f"{message.count} log-probabilities are more than can be committed")
    return message


def decode_logprobs(body: bytes, tokens: Sequence[int], most: int, vocab_size: int) -> tuple[Logprob, ...]:
    """Invert `encode_logprobs`, given the tokens. Raises: `RemoteProtocolError` on a malformed body."""
    data = BitReader(body)
    most = min(most, vocab_size)
    own = _floats(data, len(tokens))
    ids = data.read(len(tokens) * most, id_width(vocab_size))
    likely = _floats(data, len(tokens) * most)
    data.finish()
    every = np.concatenate([own, likely])
    if not ((every >= UNLIKELY) & (every <= 0)).all() or (ids >= vocab_size).any():
        raise RemoteProtocolError(Code.GARBAGE, "the probabilities of committed tokens are malformed")
    shape = (len(tokens), most)
    rows = zip(tokens, own.tolist(), ids.reshape(shape).tolist(), likely.reshape(shape).tolist(), strict=True)
    return tuple(Logprob(token, own, tuple(zip(top, logs, strict=True))) for token, own, top, logs in rows)


def _words(logprobs: Sequence[float]) -> IntArray:
    return np.array(logprobs, np.float32).view(np.uint32).astype(np.int64)


def _floats(data: BitReader, count: int) -> np.ndarray:
    return data.read(count, 32, np.uint32).view(np.float32)
