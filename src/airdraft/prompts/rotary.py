"""Keys at another position: the angle by which an engine turns each pair of channels from one position to the next.

The engine itself is asked. In a text of one token again and again all positions hold the same in every layer, as
attention over equal values gives that value. So their keys differ by what the position does to them, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airdraft.errors import ModelError
from airdraft.models.base import FloatArray, Part, TargetEngine, Tensors, raised
from airdraft.prompts.blocks import portable
from airdraft.prompts.codecs.base import floats, rounded

_LAGS = (1, 2, 4, 8, 16, 32, 64)
"""Positions between which angles are measured, each twice as far as the one before, so that whole turns are counted."""
_TOKENS = 4
"""Texts, as a token may have next to nothing in a pair of channels."""
_WRONG = 0.05
"""Of a key's length, that may be left of it when its position is taken out: more than rounding in 16 bits leaves."""


@dataclass(frozen=True)
class Rotary:
    """Rotary positions, the same in all layers."""

    angles: NDArray[np.float64]
    """[head_dim / 2], radians a position."""
    halves: bool
    """Whether channel i goes with i + head_dim / 2, and not each even one with the next."""

    @classmethod
    def of(cls, engine: TargetEngine) -> Rotary:
        """That of an engine. Raises: `ModelError` if it says where a token is in another way."""
        keys = _repeated(engine)
        for halves in (True, False):
            first = _pairs(keys[0], halves)
            found = cls(_measured(first), halves)
            if all(found._left(_pairs(each, halves)) < _WRONG for each in keys):
                return found
        raise ModelError(
            f"keys of {engine.info.name} are not turned by their positions alone, and alike in all layers, so they "
            "cannot be moved; compute these texts where they stand"
        )

    def moved(self, block: Tensors, by: int) -> list[NDArray[Any]]:
        """Keys and values of one position after the other, as if all had stood `by` positions later."""
        turn = np.exp(1j * self.angles * by)
        return [
            rounded(_joined(_pairs(floats(each), self.halves) * turn, self.halves), each.dtype)
            if index % 2 == 0
            else each
            for index, each in enumerate(block)
        ]

    def _left(self, pairs: NDArray[np.complex128]) -> float:
        """The share of keys of equal tokens that differs when their positions are taken out."""
        still = pairs * np.exp(-1j * np.arange(pairs.shape[1])[:, None] * self.angles)
        return float(np.linalg.norm(still - still.mean(1, keepdims=True)) / np.linalg.norm(still))


def _repeated(engine: TargetEngine) -> list[FloatArray]:
    """For each layer the keys of a few texts of one token each, [texts * kv_heads, positions, head_dim]."""
    texts = list[Tensors]()
    for token in np.random.default_rng(17).integers(engine.info.vocab_size, size=_TOKENS).tolist():
        cache, length = portable(engine), 2 * _LAGS[-1]
        raised(engine.verify([Part(cache, 0, [token] * length, 0)]).pop())
        texts.append(cache.take(0, length)[::2])
    return [np.concatenate([floats(each) for each in layer]) for layer in zip(*texts, strict=True)]


def _measured(pairs: NDArray[np.complex128]) -> NDArray[np.float64]:
    """The angle of each pair from one position to the next, which is half a turn at most."""
    angles = np.zeros(pairs.shape[2])
    for lag in _LAGS:
        turned = np.angle((pairs[:, lag:] * pairs[:, :-lag].conj()).sum((0, 1)))
        expected = angles * lag
        angles = (expected + np.angle(np.exp(1j * (turned - expected)))) / lag
    return angles


def _pairs(keys: FloatArray, halves: bool) -> NDArray[np.complex128]:
    """Pairs of channels as complex numbers, [..., head_dim / 2]."""
    if halves:
        one, other = np.split(keys.astype(np.float64), 2, axis=-1)
    else:
        one, other = keys[..., ::2].astype(np.float64), keys[..., 1::2].astype(np.float64)
    return one + 1j * other


def _joined(pairs: NDArray[np.complex128], halves: bool) -> FloatArray:
    """The reverse of `_pairs`."""
    parts: Sequence[NDArray[np.float64]] = pairs.real, pairs.imag
    found = np.concatenate(parts, -1) if halves else np.stack(parts, -1).reshape(*pairs.shape[:-1], -1)
    return found.astype(np.float32)
