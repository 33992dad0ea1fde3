"""A fixed-budget bandit over arms in an order in which the rewards rise to a peak and fall: the best arm is soon known.

The setting is HoloBeam's (arXiv 2401.05420), which aligns beams so: a fixed number of pilots, and a rate that is
unimodal in the beam's parameters, so that a few probes rule out all arms on one side. The split into phases is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

from airdraft.errors import BadParameterError


class UnimodalBandit:
    """Looks for the arm with the most reward by cost, then keeps to it.

    Each phase probes the ends of the arms that are left and two between, in turns, so that a change of the surroundings
    meets all alike. The best is next to the best probe, on either side: the arms beyond its neighbours go. No more than
    2/3 of the steps between the ends stay. Nothing is drawn at random: the same rewards, the same choices.
    """

    def __init__(self, arms: Sequence[int], budget: int) -> None:
        """`budget` counts the pulls until the arm stays. Raises: `BadParameterError` if it is too small."""
        self._arms, self._low, self._high = tuple(arms), 0, len(arms) - 1
        self._sums = [(0.0, 0.0)] * len(arms)  # reward and cost
        self._pulls = budget // _most_probes(len(arms))
        if not self._pulls:
            what = f"the bandit has a budget of {budget} and {len(arms)} arms; give at least {_most_probes(len(arms))}"
            raise BadParameterError(what)
        self._plan = self._probes()[::-1] * self._pulls  # taken from the end: the lowest arm first

    @property
    def arm(self) -> int:
        """The arm to pull now."""
        return self._arms[self._low if self.settled else self._plan[-1]]

    @property
    def settled(self) -> bool:
        """Whether one arm is left."""
        return not self._plan

    def learn(self, reward: float, cost: float) -> None:
        """Learn what a pull of `arm` brought and took, each 0 or more."""
        if self.settled:
            return
        at = self._plan.pop()
        self._sums[at] = self._sums[at][0] + reward, self._sums[at][1] + cost
        if not self._plan:
            self._narrow()

    def _probes(self) -> list[int]:
        steps = self._high - self._low
        return sorted({self._low + round(part * steps / 3) for part in range(4)})

    def _narrow(self) -> None:
        probes = self._probes()
        best = max(range(len(probes)), key=lambda at: self._mean(probes[at]))
        if self._high - self._low < len(probes):  # all were probed
            self._low = self._high = probes[best]
            return
        self._low, self._high = probes[max(0, best - 1)], probes[min(len(probes) - 1, best + 1)]
        self._plan = self._probes() * self._pulls

    def _mean(self, at: int) -> float:
        reward, cost = self._sums[at]
        return reward / max(cost, 1e-9)


def _most_probes(arms: int) -> int:
    """Count the probes of all phases, if each keeps as many arms as it may."""
    steps, probes = arms - 1, 0
    while steps > 3:
        steps, probes = 2 * steps // 3 + 1, probes + 4
    return probes + steps + 1
