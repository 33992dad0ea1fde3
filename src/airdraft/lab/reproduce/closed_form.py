"""TK-SLT's closed form of the best draft length: the paper's table, computed, beside the optimum found by search.

`control/lengths.py` has the formula (arXiv 2509.04576). The search counts the tokens of a round one by one, so that the
two share no line.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal

import msgspec

from airdraft.control.lengths import tk_slt_length, tk_slt_speedup

MOST = 512
"""Longest draft that a search tries."""

PRINTED: dict[float, tuple[tuple[float, int, float | None], ...]] = {
    0.8: ((0.01, 14, 4.23), (0.1, 6, 2.47), (0.2, 4, 1.87), (0.4, 2, 1.36), (0.6, 1, 1.12)),
    0.6: ((0.01, 7, None), (0.1, 3, None), (0.2, 2, None), (0.4, 1, None), (0.6, 1, None)),
    0.4: ((0.01, 4, None), (0.1, 2, None), (0.2, 1, None), (0.4, 1, 1.00), (0.6, 1, 0.88)),
}
"""Table I as printed, for each α: (L, γ*, S). None: a speed-up that we do not have."""


class FormRow(msgspec.Struct, frozen=True):
    """One cell of Table I: ours by the closed form, ours by search, and as printed."""

    alpha: float
    cost: float = msgspec.field(name="L")
    """L = b + c: the time to draft and send one token, in target forwards."""
    gamma: int
    speedup: float
    """S at that length, to two digits, as printed."""
    found_gamma: int
    """The best length by search in the same model."""
    found_speedup: float
    printed_gamma: int
    printed_speedup: float | None

    @property
    def agrees(self) -> bool:
        """Whether formula, search and print say the same."""
        return (
            self.gamma == self.found_gamma == self.printed_gamma
            and self.speedup == self.found_speedup
            and self.printed_speedup in (None, self.speedup)
        )


def searched(acceptance: float, cost: float, most: int = MOST) -> tuple[int, float]:
    """Find the length of at most `most` with the highest speed-up; of equals the shortest. Returns (length, S)."""
    best, speedup, reached, tokens = 1, 0.0, 1.0, 1.0
    for length in range(1, most + 1):
        reached *= acceptance
        tokens += reached
        if (found := tokens / (1 + length * cost)) > speedup:
            best, speedup = length, found
    return best, speedup


def table() -> list[FormRow]:
    """Compute every row of Table I."""
    rows = []
    for alpha, cells in PRINTED.items():
        for cost, printed_gamma, printed_speedup in cells:
            gamma = tk_slt_length(alpha, cost)
            found_gamma, found_speedup = searched(alpha, cost)
            speedup = _digits(tk_slt_speedup(alpha, cost, gamma))
            rows.append(
                FormRow(
                    alpha, cost, gamma, speedup, found_gamma, _digits(found_speedup), printed_gamma, printed_speedup
                )
            )
    return rows


def _digits(speedup: float) -> float:
    """Round to two digits, halves to the even one, as printed: 9/8 is 1.12, and 7/8 is 0.88."""
    return float(Decimal(f"{speedup:.12g}").quantize(Decimal("0.01"), ROUND_HALF_EVEN))
