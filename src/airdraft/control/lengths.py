"""Rules for the number of tokens in a round. Given the facts and the drafts so far, each decides on one more."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from airdraft.control import predict
from airdraft.control.bandit import UnimodalBandit
from airdraft.control.course import MAX_DRAFT
from airdraft.control.facts import Wire
from airdraft.core.policy import Facts, Length
from airdraft.errors import BadParameterError

LENGTHS, ROUNDS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32), 96
"""Draft lengths that `HoloBeam` tries, and in how many rounds."""


@dataclass(frozen=True)
class Fixed(Length):
    """A rule with the same length for every round."""

    length: int

    def __post_init__(self) -> None:
        if self.length < 1:
            raise BadParameterError(f"the draft length is {self.length}; give at least 1")

    def more(self, chances: Sequence[float], facts: Facts) -> bool:
        """See `Length.more`."""
        return len(chances) < self.length


@dataclass(frozen=True)
class TkSlt(Length):
    """TK-SLT's closed form, which ignores round trip, headers and downlink."""

    wire: Wire

    def cost(self, facts: Facts) -> float:
        """Compute L = b + c, the time to draft and send one token, in target forwards."""
        return (facts.draft_s + self.wire.draft_bits / facts.uplink_bps) / facts.verify_s

    def more(self, chances: Sequence[float], facts: Facts) -> bool:
        """See `Length.more`."""
        return len(chances) < min(MAX_DRAFT, tk_slt_length(facts.acceptance, self.cost(facts)))

    def speculate(self, facts: Facts) -> bool:
        """Whether speculation is faster than the target alone, S(γ*) > 1, which is TK-SLT's switch."""
        cost = self.cost(facts)
        return tk_slt_speedup(facts.acceptance, cost, tk_slt_length(facts.acceptance, cost)) > 1


def tk_slt(facts: Facts, wire: Wire) -> predict.Prediction:
    """Predict rounds of TK-SLT's length as it does: S(γ*) times the target's own speed.

    In place of `predict.best_rounds`, this turns `auto.Auto` into TK-SLT's switch.
    """
    cost = TkSlt(wire).cost(facts)
    length = min(MAX_DRAFT, tk_slt_length(facts.acceptance, cost))
    speed = tk_slt_speedup(facts.acceptance, cost, length) / facts.verify_s
    return replace(predict.rounds(facts, wire, length), tokens_per_s=speed)


def tk_slt_speedup(acceptance: float, cost: float, length: int) -> float:
    """Compute S(γ) = (1 - α^(γ+1)) / ((1 - α)(1 + γL)), where L is the cost of a draft in target forwards."""
    return predict.mean_tokens(acceptance, length) / (1 + length * cost)


def tk_slt_length(acceptance: float, cost: float) -> int:
    """Compute γ*, which maximises S(γ): the better neighbour of γ0 = (W₋₁(-α^(1/L-1)/e) + 1) / ln α - 1/L; at least 1.

    If acceptance is certain, S never falls, or (L ≥ 1) never rises. The result is then `MAX_DRAFT`, or 1.
    """
    if cost >= 1 or acceptance == 0:
        return 1
    if acceptance == 1:
        return MAX_DRAFT
    log = math.log(acceptance)
    best = (1 + lambert_lower(1 - (1 / cost - 1) * log)) / log - 1 / cost
    if best < 1:
        return 1
    return max((math.floor(best), math.ceil(best)), key=lambda length: tk_slt_speedup(acceptance, cost, length))


def lambert_lower(depth: float) -> float:
    """Compute W₋₁(-exp(-depth)), the lower real branch of w·e^w = x, for depth ≥ 1, in logs so that x may underflow.

    With u = -w, solve u - ln u = depth, a convex function, by Newton's method from the right.
    """
    if depth < 1:
        raise BadParameterError(f"W₋₁ is not real at -exp({-depth:g}); give a depth of at least 1")
    beyond = depth - 1
    u = 1 + math.sqrt(2 * beyond) + beyond  # above the root
    for _ in range(50):
        step = (u - math.log(u) - depth) * u / (u - 1) if u > 1 else 0.0
        u -= step
        if abs(step) <= 1e-15 * u:
            break
    return -u


@dataclass(frozen=True)
class Optimum(Length):
    """The best length by `predict.rounds`, including round trip, headers, downlink and rejections."""

    wire: Wire

    def more(self, chances: Sequence[float], facts: Facts) -> bool:
        """See `Length.more`."""
        return len(chances) < predict.best_rounds(facts, self.wire).mode.length


@dataclass(frozen=True)
class Greedy(Length):
    """A rule that drafts while the next token is worth its time.

    The token's gain is the chance that it and all before it are accepted. Its cost is the time to draft and send it, in
    which rounds write `speed x cost` tokens. To stop where the gain falls below that maximises tokens by time, if
    `speed` is that maximum (Dinkelbach 1967). The best fixed length approximates it, without knowing the chances.
    """

    wire: Wire

    def more(self, chances: Sequence[float], facts: Facts) -> bool:
        """See `Length.more`. It assumes the average acceptance for the next token."""
        cost_s = facts.draft_s + self.wire.draft_bits / facts.uplink_bps
        speed = predict.best_rounds(facts, self.wire).tokens_per_s
        return math.prod(chances) * facts.acceptance > speed * cost_s


@dataclass(frozen=True)
class SpecDecPlus(Length):
    """A rule that drafts until a rejection is likely (SpecDec++, Huang, Guo, Wang 2024)."""

    threshold: float = 0.7
    """Chance of at least one rejected draft, beyond which to stop."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise BadParameterError(f"threshold is {self.threshold:g}; give a probability between 0 and 1")

    def more(self, chances: Sequence[float], facts: Facts) -> bool:
        """See `Length.more`."""
        return 1 - math.prod(chances) <= self.threshold


class HoloBeam(Length):
    """A rule that tries lengths and keeps the fastest, by `UnimodalBandit`. It needs no facts and no model of the link.

    Tokens by time rise with the length up to the best one and fall beyond it, as the marginal gain of a draft falls. It
    learns from the rounds of every text that it ends, so give it to one text after another to have the budget pay.
    """

    def __init__(self, lengths: Sequence[int] = LENGTHS, rounds: int = ROUNDS) -> None:
        """`lengths` rise; `rounds` is the budget, after which the length stays. Raises: `BadParameterError`."""
        if not lengths or min(lengths) < 1:
            raise BadParameterError("the bandit has no draft length of at least 1; give some")
        self._bandit = UnimodalBandit(lengths, rounds)

    @property
    def length(self) -> int:
        """The length of the next round."""
        return self._bandit.arm

    def more(self, chances: Sequence[float], facts: Facts) -> bool:
        """See `Length.more`."""
        return len(chances) < self.length

    def learn(self, tokens: int, seconds: float) -> None:
        """See `Length.learn`."""
        self._bandit.learn(tokens, seconds)


RULES: dict[str, Callable[[Wire], Length]] = {
    "tk-slt": TkSlt,
    "optimum": Optimum,
    "greedy": Greedy,
    "specdec++": lambda _: SpecDecPlus(),
    "holobeam": lambda _: HoloBeam(),
}
"""The rules by name, each made for the `Wire` of a scheme."""
