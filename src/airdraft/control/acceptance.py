"""The chance that a draft is accepted, given the chance that the draft model gives it."""

from __future__ import annotations

from airdraft.errors import BadParameterError


class FadingShare:
    """The mean of a Beta distribution over a share, with fading evidence."""

    def __init__(self, prior: float, weight: float, forgetting: float) -> None:
        self._prior, self._weight, self._keep = prior, weight, 1 - forgetting
        self._held = self._seen = 0.0

    def see(self, held: bool) -> None:
        self._held = self._keep * self._held + held
        self._seen = self._keep * self._seen + 1

    @property
    def mean(self) -> float:
        return (self._weight * self._prior + self._held) / (self._weight + self._seen)


class Calibrated:
    """Acceptance by the draft's probability of its own token, learned in a few buckets of equal width.

    That probability is only the prior estimate, because a draft model may be overconfident.
    """

    def __init__(self, buckets: int = 8, weight: float = 4.0, forgetting: float = 0.01) -> None:
        if buckets < 1:
            raise BadParameterError(f"buckets is {buckets}; give at least 1")
        if not (weight > 0 and 0 <= forgetting < 1):
            raise BadParameterError(
                f"weight {weight:g} and forgetting {forgetting:g}; give a number above 0, and a share below 1"
            )
        self._shares = [FadingShare((i + 0.5) / buckets, weight, forgetting) for i in range(buckets)]

    def judged(self, confidence: float, accepted: bool) -> None:
        """Learn whether a token that the draft drew at this probability was accepted."""
        self._share(confidence).see(accepted)

    def chance(self, confidence: float) -> float:
        """Estimate the chance that a token drawn at this probability is accepted."""
        return self._share(confidence).mean

    def _share(self, confidence: float) -> FadingShare:
        if not 0 <= confidence <= 1:
            raise BadParameterError(f"confidence is {confidence:g}; give the draft's probability of its token, 0 to 1")
        return self._shares[min(len(self._shares) - 1, int(confidence * len(self._shares)))]
