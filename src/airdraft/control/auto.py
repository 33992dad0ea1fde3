"""Policies that choose a way to write: always one scheme, or the one predicted to be fastest."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from airdraft.control import predict
from airdraft.control.course import MAX_DRAFT
from airdraft.control.facts import Wire, wire
from airdraft.control.predict import Prediction
from airdraft.core import schemes
from airdraft.core.messages import SchemeSpec
from airdraft.core.policy import Facts, Mode
from airdraft.errors import BadParameterError

VAIN_S = 2.0
"""Seconds without gain after which to leave a raced stream."""
RETRY_S = (1.0, 16.0)
"""Least and most seconds of `server` before another try of a stream. They double while tries fail."""
NEAR = 0.01
"""Relative difference below which two predictions count as equal."""
SHORT_S = 0.004
"""Round trip to an edge that may run on the device's own cores. No prediction knows what drafts cost it there."""


AUTO = "auto"
"""The name of a way to write that is chosen as the text goes."""


class Steady:
    """A policy with one scheme for good. If the mode has no length (0), the facts decide length, window and packets."""

    def __init__(self, mode: Mode, wire: Wire, max_window: int = MAX_DRAFT) -> None:
        self._mode, self._wire, self._max_window = mode, wire, max_window

    def choose(self, facts: Facts, now: float) -> Mode:
        """See `Policy.choose`."""
        traits = self._mode.traits
        if self._mode.length or not traits.drafts:
            return self._mode
        facts = facts.rounded()
        if traits.rounds:
            return predict.best_rounds(facts, self._wire, self._max_window).mode
        return predict.best_stream(facts, self._wire, self._mode.race, self._max_window).mode

    def why(self) -> str:
        """See `Policy.why`."""
        return f"{self._mode.scheme}: as asked for"


def predictions(
    facts: Facts,
    wires: Sequence[Wire],
    races: Sequence[str] = ("always",),
    max_window: int = MAX_DRAFT,
    rounds: Callable[[Facts, Wire], Prediction] = predict.best_rounds,
) -> list[Prediction]:
    """Predict every way at its best, in the order given, and a stream once for each race policy."""
    found = []
    for each in wires:
        if not each.traits.drafts:
            found.append(predict.server(facts, each))
        elif each.traits.rounds:
            found.append(rounds(facts, each))
        else:
            found += [predict.best_stream(facts, each, race, max_window) for race in races]
    return found


def preferred(found: Sequence[Prediction]) -> Prediction:
    """Choose the fastest prediction, or `server`, which spares the device, if it is slower by no more than `NEAR`."""
    best = max(found, key=lambda each: each.tokens_per_s)
    for each in found:
        if not each.mode.traits.drafts and each.tokens_per_s >= (1 - NEAR) * best.tokens_per_s:
            return each
    return best


class Auto:
    """A policy that uses the way predicted to be fastest, and avoids changes that gain little or do not last.

    It leaves the present way (a scheme and race policy) once another has been predicted `margin` faster for `dwell_s`,
    or `server` no slower for as long. It leaves a raced stream for `server` when forwards measurably give no more than
    one token. Near an edge, which may run on the device's own cores, the clock decides between these two: both are
    tried, and the slower again `pace.FORGOTTEN` tokens later. At an edge that drafts itself, a device that is predicted
    to add next to nothing keeps silent, but for the start of a text and later trials. Draft length, window and packets
    follow the facts at once, since changing them costs nothing.

    TK-SLT's switch is `Auto(vocab_size, ("server", "topk"), rounds=lengths.tk_slt, margin=0, dwell_s=0)`.
    """

    def __init__(
        self,
        vocab_size: int,
        choices: Sequence[str] = (schemes.SERVER, schemes.STREAM),
        *,
        races: Sequence[str] = ("always",),
        k: int = 64,
        bits: int = 16,
        resolution: int = 240,
        header_bytes: int = 40,
        max_window: int = MAX_DRAFT,
        rounds: Callable[[Facts, Wire], Prediction] = predict.best_rounds,
        margin: float = 0.05,
        dwell_s: float = 0.5,
    ) -> None:
        if not choices or not races:
            raise BadParameterError("nothing to choose from; give at least one scheme and one race policy")
        if not (margin >= 0 and dwell_s >= 0):
            raise BadParameterError(f"margin is {margin:g} and dwell_s {dwell_s:g}; give 0 or more")
        self._wires = [wire(scheme, vocab_size, k, bits, header_bytes, resolution) for scheme in choices]
        self._races, self._max_window, self._rounds = tuple(races), max_window, rounds
        self._margin, self._dwell_s = margin, dwell_s
        self._present: Prediction | None = None
        self._better_since: float | None = None
        self._since = 0.0  # start of the present way
        self._retry_s = RETRY_S[0]
        self._runner_up: Prediction | None = None
        self._facts: Facts | None = None  # behind the last choice
        self._clock: Facts | None = None  # the same, if what was measured decided

    def choose(self, facts: Facts, now: float) -> Mode:
        """See `Policy.choose`."""
        self._facts = facts.rounded()
        found = predictions(self._facts, self._wires, self._races, self._max_window, self._rounds)
        measured = self._measured(found, facts)
        best = measured or self._best(found, facts.streamed, now)
        present = next((each for each in found if self._present and _way(each) == _way(self._present)), best)
        if self._worth_it(best, present):
            self._better_since = now if self._better_since is None else self._better_since
            if measured or now - self._better_since >= self._patience_s(best, present, facts):
                present, self._better_since = best, None
        else:
            self._better_since = None
        if self._present is None or _way(present) != _way(self._present):
            if self._present and not present.mode.traits.drafts:
                failed = now - self._since < 2 * VAIN_S
                self._retry_s = min(2 * self._retry_s, RETRY_S[1]) if failed else RETRY_S[0]
            self._since = now
        self._present = present
        self._clock = facts if measured is present else None
        others = [each for each in found if each is not present]
        self._runner_up = max(others, key=lambda each: each.tokens_per_s, default=None)
        return present.mode

    @property
    def _helped(self) -> bool:
        """Whether predictions tell what the device adds to an edge that drafts itself: not before it has drafted."""
        return self._facts is not None and self._facts.edge_draft_s > 0 and self._facts.drafted

    @property
    def mode(self) -> Mode | None:
        """The last choice; None before the first."""
        return self._present.mode if self._present is not None else None

    def _measured(self, found: Sequence[Prediction], facts: Facts) -> Prediction | None:
        """The faster of a raced stream and `server` by the clock, or the one to measure. None: predictions tell."""
        silent = next((each for each in found if not each.mode.traits.drafts), None)
        raced = max((each for each in found if each.mode.races), key=lambda each: each.tokens_per_s, default=None)
        if facts.rtt_s > SHORT_S or silent is None or raced is None or not facts.raced_s:
            return None
        slower = facts.silent_s is not None and facts.silent_s > (1 + NEAR) * facts.raced_s
        return raced if slower else silent

    def _best(self, found: Sequence[Prediction], streamed: float | None, now: float) -> Prediction:
        racing = [each for each in found if each.mode.races]
        if not racing:
            return preferred(found)
        # A raced stream is never slower than `server`. No average predicts its gain, because acceptance comes in runs.
        # So try it, leave it when measurements show no gain, and try it again after a while.
        # Try it at the start of a text too: while the edge reads the prompt, drafts cost nothing. Beside an edge that
        # drafts itself predictions do for the rest. But a silent device learns nothing of its drafts to predict by.
        begun = self._present is not None and not (
            not self._present.mode.traits.drafts and now - self._since >= self._retry_s
        )
        if begun and self._helped and (streamed is None or streamed >= 1 + NEAR):
            return preferred(found)
        in_vain = begun and streamed is not None and streamed < 1 + NEAR
        left = [each for each in found if each not in racing] if in_vain else found
        return (
            preferred(left)
            if in_vain
            else max((each for each in left if each.mode.traits.drafts), key=lambda each: each.tokens_per_s)
        )

    def _worth_it(self, best: Prediction, present: Prediction) -> bool:
        if best is present:
            return False
        if not best.mode.traits.drafts or (best.mode.traits.races and not present.mode.traits.drafts):
            return True  # `server` spares drafting, and a raced stream is a trial
        return best.tokens_per_s > (1 + self._margin) * present.tokens_per_s

    def _patience_s(self, best: Prediction, present: Prediction, facts: Facts) -> float:
        """Seconds for which `best` must have been predicted to be worth it before the text changes to it."""
        if best.mode.traits.drafts or not present.mode.traits.races:
            return self._dwell_s
        if not self._helped:
            return max(VAIN_S, self._dwell_s)
        return self._dwell_s if facts.streamed is None else 0.0  # once drafts have been judged, what is left is a trial

    def why(self) -> str:
        """See `Policy.why`."""
        if self._present is None or self._facts is None:
            return "nothing chosen yet"
        mode = self._present.mode
        if self._clock is not None and self._clock.raced_s:
            raced = f"{1 / self._clock.raced_s:.1f} tokens/s measured with drafts"
            return f"{mode}: {raced}, {_rate(self._clock.silent_s)} without"
        line = f"{mode}: {self._present.tokens_per_s:.1f} tokens/s predicted"
        if self._runner_up is None:
            return f"{line}, the only choice"
        other = self._runner_up
        wire = next(each for each in self._wires if each.scheme == mode.scheme)
        limit = predict.bottleneck(self._facts, wire, mode)
        return f"{line}, {other.tokens_per_s:.1f} with {'/'.join(_way(other))}; limited by {limit}"


def _rate(token_s: float | None) -> str:
    return "not yet" if token_s is None else f"{1 / token_s:.1f}"


def _way(prediction: Prediction) -> tuple[str, ...]:
    mode = prediction.mode
    return (mode.scheme, mode.race) if mode.traits.races else (mode.scheme,)


def way(name: str, vocab_size: int) -> tuple[SchemeSpec, Auto | None]:
    """What a request for a scheme by name, or `auto`, begins with, and what chooses the rest; None: nothing does."""
    return (SchemeSpec(schemes.STREAM), Auto(vocab_size)) if name == AUTO else (SchemeSpec(name), None)
