"""Rules for the number of tokens to draft in a round. Each sees the facts and the drafts so far: one more?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from airdraft.control import predict
from airdraft.control.course import MAX_DRAFT
from airdraft.control.facts import Wire
from airdraft.core.policy import Facts, Length
from airdraft.errors import BadParameterError


@dataclass(frozen=True)
class Fixed:
    """The same length for every round."""

    length: int

    def __post_init__(self) -> None:
        if self.length < 1:
            raise BadParameterError(f"the draft length is {self.length}; give at least 1")

    def more(self, chances: Sequence[float], facts: Facts) -> bool:
        """See `Length.more`."""
        return len(chances) < self.length


@dataclass(frozen=True)
class TkSlt:
    """TK-SLT's closed form. It leaves out round trip, headers and downlink."""

    wire: Wire

    def cost(self, facts: Facts) -> float:
        """L = b + c, the time to draft and send one token, in forwards of the target."""
        return (facts.draft_s + self.wire.draft_bits / facts.uplink_bps) / facts.verify_s

    def more(self, chances: Sequence[float], facts: Facts) -> bool:
        """See `Length.more`."""
        return len(chances) < min(MAX_DRAFT, tk_slt_length(facts.acceptance, self.cost(facts)))

    def speculate(self, facts: Facts) -> bool:
        """TK-SLT's switch: whether speculation is faster than the target alone, S(γ*) > 1."""
        cost = self.cost(facts)
        return tk_slt_speedup(facts.acceptance, cost, tk_slt_length(facts.acceptance, cost)) > 1


def tk_slt(facts: Facts, wire: Wire) -> predict.Prediction:
    """TK-SLT's own prediction for rounds of its length: S(γ*) times the target's own speed.

    In place of `predict.best_rounds` it makes `auto.Auto` TK-SLT's switch.
    """
    cost = TkSlt(wire).cost(facts)
    length = min(MAX_DRAFT, tk_slt_length(facts.acceptance, cost))
    speed = tk_slt_speedup(facts.acceptance, cost, length) / facts.verify_s
    return replace(predict.rounds(facts, wire, length), tokens_per_s=speed)


def tk_slt_speedup(acceptance: float, cost: float, length: int) -> float:
    """S(γ) = (1 - α^(γ+1)) / ((1 - α)(1 + γL)), where L is the cost of a drafted token in forwards of the target."""
    return predict.mean_tokens(acceptance, length) / (1 + length * cost)


def tk_slt_length(acceptance: float, cost: float) -> int:
    """γ*, where S(γ) is greatest: γ0 = (W₋₁(-α^(1/L-1)/e) + 1) / ln α - 1/L, then the better neighbour; at least 1.

    Under certain acceptance S never falls, or (L ≥ 1) never rises; then `MAX_DRAFT`, or 1.
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
    """W₋₁(-exp(-depth)), the lower real branch of w·e^w = x, for depth ≥ 1; by its logarithm, so that x may underflow.

    With u = -w: u - ln u = depth, a convex function that Newton's method descends from the right.
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
class Optimum:
    """The length that `predict.rounds` finds best: round trip, headers, downlink and rejections included."""

    wire: Wire

    def more(self, chances: Sequence[float], facts: Facts) -> bool:
        """See `Length.more`."""
        return len(chances) < predict.best_rounds(facts, self.wire).mode.length


@dataclass(frozen=True)
class Greedy:
    """Draft on while the next token is likely enough to be worth its time.

    Its gain is the chance that it and all before it are accepted; its cost, the time to draft and send it, in which
    rounds write `speed x cost` tokens. Stopping where the gain falls below maximises tokens by time, if `speed` is that
    maximum (Dinkelbach 1967); the best fixed length gives it up to what knowing the chances adds.
    """

    wire: Wire

    def more(self, chances: Sequence[float], facts: Facts) -> bool:
        """See `Length.more`. It takes the next token to be accepted as often as any."""
        cost_s = facts.draft_s + self.wire.draft_bits / facts.uplink_bps
        speed = predict.best_rounds(facts, self.wire).tokens_per_s
        return math.prod(chances) * facts.acceptance > speed * cost_s


@dataclass(frozen=True)
class SpecDecPlus:
    """Draft on until some token is likely to be rejected (SpecDec++, Huang, Guo, Wang 2024)."""

    threshold: float = 0.7
    """The chance that at least one of the drafts is rejected, beyond which to stop."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise BadParameterError(f"threshold is {self.threshold:g}; give a probability between 0 and 1")

    def more(self, chances: Sequence[float], facts: Facts) -> bool:
        """See `Length.more`."""
        return 1 - math.prod(chances) <= self.threshold


RULES: dict[str, Callable[[Wire], Length]] = {
    "tk-slt": TkSlt,
    "optimum": Optimum,
    "greedy": Greedy,
    "specdec++": lambda _: SpecDecPlus(),
}
"""The rules by name, each for a scheme with this `Wire`."""
