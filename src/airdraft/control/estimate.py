"""The estimate of facts from durations, round trips and verdicts."""

from __future__ import annotations

import math
from collections import deque
from statistics import median

import numpy as np

from airdraft.control.acceptance import Calibrated, FadingShare
from airdraft.control.pace import TokenPace
from airdraft.core.policy import Facts, Judged
from airdraft.errors import BadParameterError

PRIOR = Facts(
    draft_s=0.015, verify_s=0.03, rtt_s=0.02, uplink_bps=math.inf, downlink_bps=math.inf, acceptance=0.7, drafted=False,
    beside=0.5,
)  # fmt: skip
"""The facts before any measurement: a phone, an 8 B target, a nearby edge and a link without limit."""

_DURATIONS = 9
"""Number of forwards kept. Half of them may be outliers, and a change shows after five."""
_EXCHANGES = 32
"""Number of round trips kept for the rates: enough of different sizes, about a second of rounds."""
_RECENT = 9
"""Number of round trips used for the RTT."""
_JUDGED = 40.0
"""Judged tokens after which evidence of acceptance counts 1/e: about a second, standard error about 0.05."""
_PRIOR_JUDGED = 4.0
"""Weight of the prior acceptance, in judged tokens."""
_SPREAD_BYTES = 64
"""Least difference in size between exchanges that shows a rate."""


class Estimator:
    """A `Learner` of bounded memory. A change shows within about a second of data."""

    def __init__(self, prior: Facts = PRIOR) -> None:
        self._prior = prior
        self._drafted: deque[float] = deque(maxlen=_DURATIONS)
        self._widely: deque[float] = deque(maxlen=_DURATIONS)  # at several places of a tree
        self._verified: deque[float] = deque(maxlen=_DURATIONS)
        self._exchanges: deque[tuple[float, int, int]] = deque(maxlen=_EXCHANGES)
        self._fitted: tuple[float, float, float] | None = None
        self._chances = Calibrated()
        self._accepted = _PRIOR_JUDGED * prior.acceptance
        self._judged = _PRIOR_JUDGED
        self._beside = FadingShare(prior.beside, _PRIOR_JUDGED, 1 / _JUDGED)
        self._raced = 0.0, 0.0  # tokens, forwards
        self._paces = TokenPace(), TokenPace()  # of `server`, of a raced stream
        self._up_s = 0.0  # in s/byte
        self._free_s = 0.0  # time when the uplink has sent everything

    def drafted(self, seconds: float, places: int = 1) -> None:
        """See `Learner.drafted`."""
        (self._drafted if places == 1 else self._widely).append(_duration("a forward of the draft", seconds))

    def verified(self, seconds: float) -> None:
        """See `Learner.verified`."""
        self._verified.append(_duration("a forward of the target", seconds))

    def exchanged(self, seconds: float, up_bytes: int, down_bytes: int, held_s: float) -> None:
        """See `Learner.exchanged`."""
        if min(up_bytes, down_bytes) < 0:
            raise BadParameterError(f"an exchange of {up_bytes} and {down_bytes} bytes; give 0 or more")
        travelled_s = _duration("an exchange", seconds) - _duration("the time an answer was held", held_s)
        self._fitted = None
        self._exchanges.append((max(0.0, travelled_s), up_bytes, down_bytes))

    def sent(self, now: float, nbytes: int) -> None:
        """See `Learner.sent`."""
        self._free_s = max(now, self._free_s) + nbytes * self._up_s

    def queued_s(self, now: float) -> float:
        """See `Learner.queued_s`. It uses the rate from the last call of `facts`."""
        return max(0.0, self._free_s - now)

    def judged(self, verdict: Judged) -> None:
        """See `Learner.judged`."""
        if verdict.rounds:
            self._count(verdict.accepted, verdict.rejected)
        else:
            # A token that the edge wrote on its own says as much about the draft model as a verified one.
            missed = verdict.drafts - verdict.agreeing
            self._count(verdict.agreeing - verdict.beside, 0)
            self._count(0, verdict.beside + missed)
            for held in (*[True] * verdict.beside, *[False] * missed):
                self._beside.see(held)
            if verdict.raced:
                keep = math.exp(-verdict.tokens / _JUDGED)
                self._raced = keep * self._raced[0] + verdict.tokens, keep * self._raced[1] + 1
        if verdict.seconds is not None:
            self._paces[verdict.raced].wrote(verdict.written, verdict.seconds)
            self._paces[not verdict.raced].missed(verdict.written)
        for at, prob in enumerate(verdict.probs[: verdict.accepted + 1]):
            self._chances.judged(prob, at < verdict.accepted)

    def late(self, session: int, now: float, sent: int, heard: int) -> bool:
        """See `Learner.late`. Never: nothing is forecast here."""
        return False

    def chance(self, prob: float) -> float:
        """See `Learner.chance`."""
        return self._chances.chance(prob)

    def _count(self, accepted: int, rejected: int) -> None:
        if min(accepted, rejected) < 0:
            raise BadParameterError(f"{accepted} accepted and {rejected} rejected tokens; give 0 or more")
        keep = math.exp(-(accepted + rejected) / _JUDGED)
        self._accepted = keep * self._accepted + accepted
        self._judged = keep * self._judged + accepted + rejected

    def facts(self) -> Facts:
        """See `Learner.facts`."""
        self._fitted = self._fitted or self._link()
        rtt_s, up_s, down_s = self._fitted
        self._up_s = up_s
        draft_s = max(1e-6, median(self._drafted)) if self._drafted else self._prior.draft_s
        return Facts(
            drafted=bool(self._drafted) or self._prior.drafted,
            draft_s=draft_s,
            verify_s=max(1e-6, median(self._verified)) if self._verified else self._prior.verify_s,
            rtt_s=rtt_s,
            uplink_bps=8 / up_s if up_s else self._prior.uplink_bps,
            downlink_bps=8 / down_s if down_s else self._prior.downlink_bps,
            acceptance=min(1.0, self._accepted / self._judged),
            streamed=self._raced[0] / self._raced[1] if self._raced[0] > _JUDGED / 2 else None,
            beside=self._beside.mean,
            silent_s=self._paces[False].token_s,
            raced_s=self._paces[True].token_s,
            widening=median(self._widely) / draft_s if min(len(self._widely), len(self._drafted)) >= 3 else None,
        )

    def _link(self) -> tuple[float, float, float]:
        """Estimate the RTT, and s/byte up and down; 0 if the sizes so far do not show a rate."""
        if not self._exchanges:
            return self._prior.rtt_s, 0.0, 0.0
        seen = np.array(self._exchanges)  # [n, 3]: seconds, bytes up, bytes down
        up_s, down_s = _slopes(seen)
        left = (seen[:, 0] - up_s * seen[:, 1] - down_s * seen[:, 2])[-_RECENT:]
        # Our own delays (a packet behind another) only add, so the least of three neighbours is mostly free of them.
        # The median of these is typical of an exchange. The least of all would not be, on a radio link.
        least = [left[max(0, at - 2) : at + 1].min() for at in range(min(2, len(left) - 1), len(left))]
        return max(0.0, float(median(least))), up_s, down_s  # NumPy's median would take longer than all the rest


def _slopes(seen: np.ndarray) -> tuple[float, float]:
    """Estimate s/byte up and down by robust regression; 0 if sizes vary too little, or noise hides them.

    `seen` is [n, 3] as in `Estimator._link`. It uses Huber's estimator by iteratively reweighted least squares, because
    a few exchanges are always very late: beyond the median deviation, weight falls as the deviation grows.
    """
    slopes = [0.0, 0.0]
    columns = [column for column in (1, 2) if np.ptp(seen[:, column]) >= _SPREAD_BYTES]
    while columns and len(seen) > 1 + len(columns):
        design = np.column_stack([np.ones(len(seen)), seen[:, columns]])
        weights = np.ones(len(seen))
        for _ in range(20):
            fitted = np.linalg.lstsq(design * weights[:, None], seen[:, 0] * weights, rcond=None)[0]
            off = np.abs(seen[:, 0] - design @ fitted)
            noise_s = max(float(np.median(off)), 1e-6)
            weights = np.sqrt(noise_s / np.maximum(off, noise_s))
        # A slope that moves the longest exchange by less than the noise is noise. Drop the weakest, and fit again.
        moves = [fitted[1 + at] * np.ptp(seen[:, column]) for at, column in enumerate(columns)]
        weakest = int(np.argmin(moves))
        if moves[weakest] > max(3 * noise_s, 1e-4):
            for at, column in enumerate(columns):
                # No exchange is faster than its bytes, so late ones (after an outage) must not look like a slow link.
                recent = seen[-_RECENT:]
                bound = float((recent[:, 0] / np.maximum(recent[:, column], 1)).min())
                slopes[column - 1] = min(float(fitted[1 + at]), bound)
            break
        columns.pop(weakest)
    return slopes[0], slopes[1]


def _duration(what: str, seconds: float) -> float:
    if not 0 <= seconds < math.inf:
        raise BadParameterError(f"{what} took {seconds:g} s; give a finite time of 0 s or more")
    return seconds
