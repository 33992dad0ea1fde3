"""Half precision: 16 bits a number, half the bytes of a cache in single precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airdraft.models.base import FloatArray
from airdraft.prompts.codecs.base import Field, Lossy


class Half(Lossy):
    """Rounds to the nearest number of half precision."""

    name = "half"

    def fields(self, shape: tuple[int, int, int], keys: bool) -> Sequence[Field]:
        """See `Lossy.fields`."""
        return [("<f2", shape)]

    def encoded(self, x: FloatArray, keys: bool) -> Sequence[NDArray[Any]]:
        """See `Lossy.encoded`."""
        return [x]

    def decoded(self, arrays: Sequence[NDArray[Any]], shape: tuple[int, int, int], keys: bool) -> FloatArray:
        """See `Lossy.decoded`."""
        return arrays[0].astype(np.float32)
