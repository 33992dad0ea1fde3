"""Forecasts of a link: its rate, its round trip and the chance of an outage, over the next 50 to 500 ms.

A forecaster is shown a sample of the link every `STEP_S` and asked for a forecast at any time. It learns as it goes,
from nothing but the link itself. Quantiles come from its own recent errors.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from airdraft.errors import BadParameterError

STEP_S = 0.05
"""Seconds between samples."""
HORIZONS_S = (0.05, 0.1, 0.2, 0.5)
LEVELS = (0.1, 0.5, 0.9)
"""Quantiles of rate and round trip."""
LEAST_BPS, LEAST_RTT_S = 1e4, 1e-4
"""A slower link is down; a shorter round trip counts as this long."""
_STEPS = tuple(round(horizon_s / STEP_S) for horizon_s in HORIZONS_S)
_ERRORS = 200
"""Errors that quantiles are taken from: 10 s."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LinkSample:
    """What a device knows of its link at the end of a step. None: nothing new is known."""

    down: bool
    """Whether nothing came through although something should have."""
    rtt_s: float | None = None
    goodput_bps: float | None = None
    """Rate at which bytes would come through. A device that sends little cannot see it."""
    at_s: float = 0.0
    """When the step ended, by the device's clock."""
    channel: tuple[float, ...] = ()
    """Numbers that the modem measures of the channel, as many in each step."""


@dataclass(frozen=True)
class Outlook:
    """The forecast for one horizon."""

    horizon_s: float
    goodput_bps: tuple[float, ...]
    """The mean rate until then, at each of `LEVELS`; empty if no rate has been seen."""
    rtt_s: tuple[float, ...]
    """The mean round trip until then."""
    outage: float
    """Chance that the link is down at some time until then."""


class Forecaster(Protocol):
    """Forecasts one link."""

    def see(self, sample: LinkSample) -> None:
        """Learn from the sample of the step that has ended."""
        ...

    def forecast(self) -> Sequence[Outlook]:
        """Forecast from the last sample on, once for each of `HORIZONS_S`."""
        ...


class _Rule(Protocol):
    """Predicts the targets of every horizon, [horizons, 3]: logarithms of rate and round trip, and outage or not."""

    def predict(self, seen: Array) -> Array:
        """Predict from the samples so far, [samples, values], the last one last."""
        ...

    def learn(self, seen: Array, targets: Array, horizon: int) -> None:
        """Learn what followed on `seen`: targets [3] of one horizon, NaN where it is not known."""
        ...


class Ewma:
    """What was of late will be: a mean that forgets, and how often an outage followed on a sample like the last."""

    KEEP = 0.7
    SLOW = 0.98
    """Share of the past that each step keeps, of the means and of the outages."""

    def __init__(self) -> None:
        self._followed = np.tile([[0.1, 2.0], [1.8, 2.0]], (len(_STEPS), 1, 1))  # [horizons, was it down, (yes, all)]

    def predict(self, seen: Array) -> Array:
        """See `_Rule.predict`."""
        weights = self.KEEP ** np.arange(len(seen))[::-1]
        found = np.empty((len(_STEPS), 3))
        found[:, :2] = weights @ seen[:, :2] / weights.sum()
        yes, of = self._followed[:, int(seen[-1, 2])].T
        found[:, 2] = yes / of
        return found

    def learn(self, seen: Array, targets: Array, horizon: int) -> None:
        """See `_Rule.learn`."""
        followed = self._followed[horizon, int(seen[-1, 2])]
        followed *= self.SLOW
        followed += targets[2], 1.0


class Ridge:
    """Linear regression on the last samples, by recursive least squares. It begins as: all stays as it is."""

    KEEP = 0.999
    PRIOR = 10.0
    """Weight of that beginning, in samples."""

    def __init__(self) -> None:
        self._inverse: Array | None = None  # [features, features]
        self._weights = np.empty(0)  # [horizons, features, 3]

    def _features(self, seen: Array) -> Array:
        last = seen[-1]
        same = int(np.argmax(seen[::-1, 2] != last[2])) or len(seen)  # steps since it last went up or down
        since = math.log(same)
        return np.concatenate([[1.0, since, since * last[2]], seen[-LAGS:].ravel()])

    def _begin(self, features: int, values: int) -> Array:
        self._inverse = np.eye(features) / self.PRIOR
        self._weights = np.zeros((len(_STEPS), features, 3))
        for target in range(3):
            self._weights[:, features - values + target, target] = 1.0
        return self._inverse

    def predict(self, seen: Array) -> Array:
        """See `_Rule.predict`."""
        features = self._features(seen)
        if self._inverse is None:
            self._begin(len(features), seen.shape[1])
        found: Array = features @ self._weights
        return found

    def learn(self, seen: Array, targets: Array, horizon: int) -> None:
        """See `_Rule.learn`. All horizons share the features' covariance, which the longest one brings up to date."""
        features = self._features(seen)
        inverse = self._inverse if self._inverse is not None else self._begin(len(features), seen.shape[1])
        towards = inverse @ features
        gain = towards / (self.KEEP + features @ towards)
        wrong = np.nan_to_num(targets - features @ self._weights[horizon])
        self._weights[horizon] += np.outer(gain, wrong)
        if horizon == len(_STEPS) - 1:
            inverse -= np.outer(gain, towards)
            inverse /= self.KEEP


LAGS = 6
"""Samples that a rule looks back."""


class Learned:
    """A forecaster that learns as it goes, by a rule."""

    def __init__(self, rule: _Rule) -> None:
        self._rule = rule
        self._seen: deque[Array] = deque(maxlen=2 * LAGS + _STEPS[-1])  # NaN where nothing is known yet
        self._last = math.nan, math.nan
        self._due: deque[Array] = deque(maxlen=_STEPS[-1])  # predictions, the last one last
        self._errors = [[deque[float](maxlen=_ERRORS) for _ in range(2)] for _ in _STEPS]

    def see(self, sample: LinkSample) -> None:
        """See `Forecaster.see`."""
        goodput = self._last[0] if sample.goodput_bps is None else math.log10(max(LEAST_BPS, sample.goodput_bps))
        rtt = self._last[1] if sample.rtt_s is None else math.log10(max(LEAST_RTT_S, sample.rtt_s))
        self._last = goodput, rtt
        self._seen.append(np.array((goodput, rtt, float(sample.down), *sample.channel)))
        seen = np.stack(self._seen)
        known = np.where(np.isfinite(seen), seen, np.nan_to_num(seen[-1]))  # before the first value, as if that
        for horizon, steps in enumerate(_STEPS):
            if len(self._due) >= steps and len(seen) >= steps + LAGS:
                after = seen[-steps:]
                targets = np.array([after[:, 0].mean(), after[:, 1].mean(), after[:, 2].max()])
                errors = targets - self._due[-steps][horizon]
                for which in range(2):
                    if math.isfinite(errors[which]):
                        self._errors[horizon][which].append(float(errors[which]))
                self._rule.learn(known[:-steps], targets, horizon)
        if len(seen) >= LAGS:
            predicted = self._rule.predict(known)
            self._due.append(np.where(np.isfinite(seen[-1, :3]), predicted, np.nan))

    def forecast(self) -> list[Outlook]:
        """See `Forecaster.forecast`."""
        found = []
        for horizon, horizon_s in enumerate(HORIZONS_S):
            if not self._due:
                found.append(Outlook(horizon_s, (), (), 0.0))
                continue
            predicted = self._due[-1][horizon]
            spreads = [
                np.quantile(errors, LEVELS).tolist() if errors else list[float]() for errors in self._errors[horizon]
            ]
            goodput, rtt = (
                tuple(float(10 ** (predicted[which] + each)) for each in spreads[which]) for which in range(2)
            )
            found.append(Outlook(horizon_s, goodput, rtt, float(np.clip(predicted[2], 0.0, 1.0))))
        return found


class Sighted:
    """A forecaster that is told what the modem measures as well.

    `look` says for the end of a step whether there is no signal, and gives numbers of the channel.
    """

    def __init__(self, forecaster: Forecaster, look: Callable[[float], tuple[bool, tuple[float, ...]]]) -> None:
        self._forecaster, self._look = forecaster, look

    def see(self, sample: LinkSample) -> None:
        """See `Forecaster.see`."""
        silent, numbers = self._look(sample.at_s)
        self._forecaster.see(replace(sample, down=sample.down or silent, channel=numbers))

    def forecast(self) -> Sequence[Outlook]:
        """See `Forecaster.forecast`."""
        return self._forecaster.forecast()


FORECASTERS: dict[str, Callable[[], Forecaster]] = {
    "ewma": lambda: Learned(Ewma()),
    "ridge": lambda: Learned(Ridge()),
}
"""Forecasters by name."""
SIGHTED = ("snr", "guard", "model")
"""`ridge` that is told when the modem has no signal; one that is also told when it is jammed; and one that is also told
what the channel model says of CSI."""


def forecaster(name: str) -> Forecaster:
    """Make a forecaster. Raises: `BadParameterError` for an unknown name."""
    if name not in FORECASTERS:
        raise BadParameterError(f"no forecaster {name!r}; give one of {', '.join(FORECASTERS)}", "forecast")
    return FORECASTERS[name]()
