"""Recorded channels to learn from: windows at random places of files, and others that are never learned from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from airdraft.channel import files
from airdraft.channel.generate import Complex
from airdraft.errors import BadParameterError
from training.channel_masks import SNRS_DB, Source
from training.channel_model import Shape
from training.errors import UserError

HELD_OUT = 0.1
"""Share of a file's channels, or of its slots if it has a single channel, that is held out: its end."""
_TRIES = 1000
"""Windows without power in a row, after which a file counts as empty."""


def read(paths: Sequence[Path], axes: str | None, key: str | None, shape: Shape) -> tuple[Source, Source]:
    """Read files, to learn from and held out. Raises: `UserError` for one that is no file or too small."""
    learned, held = [], []
    for path in paths:
        try:
            values = files.read(path, axes, key).values
        except BadParameterError as error:
            raise UserError(str(error)) from error
        first, then = _split(values, shape)
        for part in (first, then):
            if any(have < want for have, want in zip(part.shape[1:], _window(shape), strict=True)):
                raise UserError(
                    f"{path} has {_words(values.shape)}; give at least {_words((2, *_window(shape)))}, or 1 channel of "
                    f"{2 * shape.slots} slots: a part is held out"
                )
        learned.append(first)
        held.append(then)
    return RecordedSource(learned), RecordedSource(held)


def _window(shape: Shape) -> tuple[int, int, int]:
    return shape.slots, shape.subcarriers, shape.antennas


def _words(sizes: tuple[int, ...]) -> str:
    channels, slots, subcarriers, antennas = sizes
    return f"{channels} channels of {slots} slots, {subcarriers} subcarriers and {antennas} antennas"


def _split(values: Complex, shape: Shape) -> tuple[Complex, Complex]:
    """Hold channels out, or of a single one its last slots."""
    channels, slots = values.shape[:2]
    if channels > 1:
        last = channels - max(1, round(HELD_OUT * channels))
        return values[:last], values[last:]
    last = max(0, slots - max(shape.slots, round(HELD_OUT * slots)))
    return values[:, :last], values[:, last:]


class RecordedSource:
    """A `Source` of windows, each scaled to a mean power of 1, at an SNR that is drawn."""

    def __init__(self, parts: Sequence[Complex]) -> None:
        self._parts = parts  # [channels, slots, subcarriers, antennas] each

    def __call__(self, shape: Shape, seed: int, first: int) -> Iterator[tuple[Complex, float]]:
        """See `Source`. Raises: `UserError` if there is no power anywhere."""
        shares = np.array([part.size for part in self._parts], float)
        number = first
        while True:
            rng = np.random.default_rng([seed, number, 2])
            for _ in range(_TRIES):
                part = self._parts[rng.choice(len(shares), p=shares / shares.sum())]
                starts = [
                    rng.integers(have - want + 1) for have, want in zip(part.shape[1:], _window(shape), strict=True)
                ]
                places = tuple(slice(at, at + want) for at, want in zip(starts, _window(shape), strict=True))
                window = part[(rng.integers(len(part)), *places)]
                power = float(np.mean(np.abs(window) ** 2))
                if power > 0:
                    break
            else:
                raise UserError(f"{_TRIES} windows in a row are without power; give recordings of more than zeros")
            yield (window / np.sqrt(power)).astype(np.complex64), float(rng.uniform(*SNRS_DB))
            number += 1
