"""How long an engine's call takes, by its texts and rows: a few measured points, and straight lines between them.

Points of one text say what rows cost; points of one number of rows a text, the most common, say what texts cost. A call
of B texts with n rows each takes what B texts take at that number of rows, on the line between the two nearest points,
and B times what the rows that it has more, or fewer, make in a call of one text. Beyond the last point a line goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import msgspec

from airdraft.errors import BadParameterError, why

Positive = Annotated[float, msgspec.Meta(gt=0, le=1e6)]
Number = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
MOST_BYTES = 1 << 20
"""Of a file."""


class Point(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One measured call."""

    texts: Number
    rows: Number
    """Of each text."""
    ms: Positive


class Gpu(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An engine, by its calls."""

    name: str
    calls: Annotated[tuple[Point, ...], msgspec.Meta(min_length=1, max_length=1000)]
    source: str = ""
    """How they were measured, for people."""

    def __post_init__(self) -> None:
        if len({(point.texts, point.rows) for point in self.calls}) < len(self.calls):
            raise ValueError("a call is there twice; give each number of texts and rows once")
        if not any(point.texts == 1 for point in self.calls):
            raise ValueError("no call is of one text; give at least one")
        common = Counter(point.rows for point in self.calls).most_common(1)[0][0]
        if not any(point.texts == 1 and point.rows == common for point in self.calls):
            raise ValueError(f"calls of {common} rows a text have none of one text; give it")
        for line in (self._alone, self._many):
            if any(after < before for (_, before), (_, after) in pairwise(line)):
                raise ValueError("a call with more to do takes less time than one with less; measure them again")

    @property
    def common(self) -> int:
        """The number of rows a text of most points."""
        return Counter(point.rows for point in self.calls).most_common(1)[0][0]

    def ms(self, texts: int, rows: int) -> float:
        """Milliseconds of a call of so many texts, and so many rows in all."""
        more = _line(self._alone, rows / texts) - _line(self._alone, self.common)
        return max(1e-3, _line(self._many, texts) + texts * more)

    @property
    def _alone(self) -> list[tuple[int, float]]:
        """Rows and milliseconds of the calls of one text."""
        return sorted((point.rows, point.ms) for point in self.calls if point.texts == 1)

    @property
    def _many(self) -> list[tuple[int, float]]:
        """Texts and milliseconds of the calls of as many rows a text as most have."""
        return sorted((point.texts, point.ms) for point in self.calls if point.rows == self.common)


def _line(points: Sequence[tuple[int, float]], at: float) -> float:
    """The value at a place, on straight lines through the points."""
    if len(points) == 1:
        return points[0][1]
    right = next((n for n in range(1, len(points)) if at <= points[n][0]), len(points) - 1)
    (x0, y0), (x1, y1) = points[right - 1], points[right]
    return y0 + (at - x0) * (y1 - y0) / (x1 - x0)


def gpu(path: Path) -> Gpu:
    """Read the file of an engine's calls. Raises: `BadParameterError` if it is none."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise BadParameterError(f"{path} has more than {MOST_BYTES} bytes; give the calls of an engine")
        return msgspec.json.decode(path.read_bytes(), type=Gpu)
    except OSError as error:
        raise BadParameterError(f"{path} cannot be read ({why(error)}); give a file of an engine's calls") from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise BadParameterError(f"{path} does not say how long calls take ({error}); see docs/crowd.md") from error
