"""An index of runs of tokens: where each run of 2 to 6 tokens stood last, in a text that grows.

One table for each length of run holds positions, by a hash of the run. Runs with one hash overwrite each other, and a
position is believed only after a look at the text. So a step costs the same however long the text is, and memory is
bounded: 40 to 80 bytes for each token of a text, and 5 MiB at most. Beyond that old runs are forgotten first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SHORTEST, LONGEST = 2, 6
"""Tokens in a run."""
FEWEST_BITS, MOST_BITS = 10, 18
"""Sizes of a table, as powers of 2."""
FEW = 16
"""New tokens up to which they are indexed one by one."""
_MIX, _SPREAD, _MASK = 0x9E3779B97F4A7C15, 0xD1342543DE82EF95, (1 << 64) - 1
_LENGTHS = range(SHORTEST, LONGEST + 1)


class Index:
    """Finds the longest run before a place that stood in the text earlier, and where that was last."""

    def __init__(self) -> None:
        self._bits = FEWEST_BITS
        self._tables = _empty(FEWEST_BITS)
        self._known = 0
        # The runs that end before this position are indexed. A run ends at the position behind it, that of the token
        # that followed; so 0 is free to mean that there is none.

    def follow(self, text: Sequence[int]) -> None:
        """Index the runs that are followed by a token of `text`, which only grows."""
        end = len(text)
        if end > 1 << (self._bits - 1) and self._bits < MOST_BITS:
            self._bits = min(MOST_BITS, end.bit_length() + 1)
            self._tables, self._known = _empty(self._bits), 0
        if end - self._known > FEW:
            self._follow_many(text[max(0, self._known - LONGEST) : end], max(0, self._known - LONGEST))
        else:
            for at in range(self._known, end):
                for row, slot in enumerate(self._slots(text[max(0, at - LONGEST) : at])):
                    self._tables[row, slot] = at
        self._known = max(self._known, end)

    def find(self, text: Sequence[int], last: Sequence[int]) -> tuple[int, int]:
        """Find where the longest run that ends with the tokens `last` stood in `text`. See `tail`.

        Returns: the position of the token that followed it, and the run's length; (0, 0) if there is none.
        """
        slots = self._slots(last)
        for length in range(len(slots) + SHORTEST - 1, SHORTEST - 1, -1):
            end = int(self._tables[length - SHORTEST, slots[length - SHORTEST]])
            if end and text[end - length : end] == last[-length:]:
                return end, length
        return 0, 0

    def _slots(self, last: Sequence[int]) -> list[int]:
        """The places in the tables of the runs that end with `last`, from the shortest on."""
        slots, state = [], 0
        for length, token in enumerate(reversed(last), 1):
            state = ((state ^ (token + 1)) * _MIX) & _MASK
            if length >= SHORTEST:
                slots.append(((state * _SPREAD) & _MASK) >> (64 - self._bits))
        return slots

    def _follow_many(self, tokens: Sequence[int], start: int) -> None:
        """Index many runs at once. `tokens` stand from `start` on; those before the first new one complete its runs."""
        ids = np.array(tokens, np.uint64) + np.uint64(1)
        state = np.zeros(len(ids) + 1, np.uint64)  # of the run that ends at each place; place i is behind i tokens
        for length in range(1, LONGEST + 1):
            # Of equal places the last assignment holds, so the last run wins.
            state[length:] = (state[length:] ^ ids[: len(ids) + 1 - length]) * np.uint64(_MIX)
            if length in _LENGTHS:
                ends = np.arange(length, len(ids))  # something must follow the run
                slots = (state[length : len(ids)] * np.uint64(_SPREAD)) >> np.uint64(64 - self._bits)
                self._tables[length - SHORTEST, slots.astype(np.int64)] = ends + start


def tail(text: Sequence[int], ahead: Sequence[int]) -> Sequence[int]:
    """The last tokens of `text` and then `ahead`, as many as a run may have."""
    return [*text[-LONGEST:], *ahead[-LONGEST:]][-LONGEST:]


def _empty(bits: int) -> np.ndarray:
    return np.zeros((len(_LENGTHS), 1 << bits), np.int32)
