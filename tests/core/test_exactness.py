"""Every scheme writes what the target alone would have written, and this test would notice if one did not.

Seeds are fixed, so the outcome is always the same. Had they been drawn anew, each conformance test would fail an exact
scheme with probability 1e-4 (THRESHOLD), all of them together with less than 1 %. A broken scheme must come out
below 1e-6 in the very same test.
"""

from __future__ import annotations

import logging
import random
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from airdraft.core import schemes
from airdraft.core.choosing import choose
from airdraft.core.device import session
from airdraft.core.law import Law, Place
from airdraft.core.messages import SchemeSpec
from airdraft.core.policy import Mode
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams, distribution, draw
from airdraft.core.schemes import Context, Drafted, Guess, Ruling
from airdraft.core.schemes.block import prefixes
from airdraft.core.schemes.coupled import Coupled
from airdraft.core.schemes.dense import Dense
from airdraft.core.schemes.lattice import Lattice
from airdraft.core.schemes.rejection import Rejection
from airdraft.core.schemes.split import Split
from airdraft.core.schemes.topk import TopK
from airdraft.device.resume import Resumable
from airdraft.lab.conform import Inverted, NoResidual, RawSample
from airdraft.sim import alone
from airdraft.sim.conformance import Conformance, TableModel, conformance
from airdraft.sim.pair import Pair, PairText

from ..suites import mostly_slow
from .tables import OFTEN, SPECS, Fickle, alike, request, table

_log = logging.getLogger(__name__)

THRESHOLD = 1e-4
BROKEN = 1e-6
TRIALS = 600
DRAFT, TARGET = table(1), table(2)
EACH = (*OFTEN, "lattice-3x9")
"""One of each kind of scheme."""
USUALLY = tuple(name for name in EACH if name != "dense-block")
"""Of these the block is judged below, with a draft that gets through it."""

PARAMS = {
    "T0.7": SamplingParams(0.7),
    "T1": SamplingParams(1.0),
    "T1.3": SamplingParams(1.3),
    "top-k": SamplingParams(1.0, top_k=3),
    "top-p": SamplingParams(1.3, top_p=0.8),
    "min-p": SamplingParams(1.3, min_p=0.2),
    "all": SamplingParams(1.5, top_k=4, top_p=0.95, min_p=0.05),
}


def run(spec: SchemeSpec, params: SamplingParams, **changes: Any) -> Conformance:
    return conformance(DRAFT, TARGET, spec, params, **{"trials": TRIALS, **changes})


@pytest.mark.parametrize(
    ("name", "params"),
    [
        pytest.param(name, params, marks=() if params == "all" and name in USUALLY else pytest.mark.slow)
        for name in SPECS for params in PARAMS if name in EACH or params in ("T1", "all")
    ],
)  # fmt: skip
def test_texts_are_distributed_as_the_targets(name: str, params: str) -> None:
    """Parameters act before a scheme sees a row: one of each kind of scheme meets each, every other all at once."""
    result = run(SPECS[name], PARAMS[params])
    assert result.p_value > THRESHOLD, result


@pytest.mark.parametrize("name", mostly_slow(SPECS, often=("topk-3x8",)))
def test_an_end_of_text_token_changes_no_law(name: str) -> None:
    target = table(2, eos_ids=(3,))
    assert conformance(DRAFT, target, SPECS[name], SamplingParams(), trials=TRIALS, draft_length=3).p_value > THRESHOLD


@pytest.mark.parametrize("name", mostly_slow(SPECS, often=("dense-block",)))
def test_a_draft_that_resembles_the_target_changes_no_law(name: str) -> None:
    """Most drafts are accepted here, which tests the law of bonus tokens."""
    result = conformance(alike(TARGET, 9, 0.2), TARGET, SPECS[name], SamplingParams(), trials=TRIALS)
    assert result.p_value > THRESHOLD, result


# ---- Broken on purpose -----------------------------------------------------------------------------------------------


class SwappedResidual:
    """Replaces a rejected token by a draw from max(0, draft - target)."""

    def replace(self: Any, path: tuple[int, ...], target_probs: Any, draft: Drafted) -> Ruling:
        residual = -target_probs
        residual[draft.ids] += draft.probs()
        return Ruling(path, draw(np.maximum(residual, 0.0), self._rng))


class PassesIfKept:
    """A block whose prefixes all pass with the chance that only the whole of it has."""

    def _verify_block(self: Any, drafts: Any, rows: Any, at: Place) -> Ruling:
        rng, kept, taken, after = self._coins(at), 1.0, 0, None
        for length, (_, following) in enumerate(prefixes(self._law, drafts, rows, at)):
            if rng.random() < kept:
                taken, after = length, following
            if length < len(drafts):
                draft = drafts.said[length]
                target_probs = self._law.probs(rows[length], Place(at.position + length))
                kept = min(1.0, kept * target_probs[draft.token] / draft.prob())
        return Ruling(tuple(range(taken)), draw(after, rng))


class SameRound:
    """A device that draws a token as it did in the round before, where the edge saw it and judged by it."""

    def _use(self: Any, at: Place) -> int:
        return 0


class NextRow:
    """Judges each draft by the target's row for the token after it."""

    def verify(self: Any, drafts: Any, rows: Any, at: Place) -> Ruling:
        return Rejection.verify(self, drafts, np.roll(rows, -1, axis=0), at)


class NoParams:
    """Forgets the sampling parameters at the edge."""

    def verify(self: Any, drafts: Any, rows: Any, at: Place) -> Ruling:
        self._law = Law(SamplingParams(), self._law.seed, self._law.vocab_size)
        return Rejection.verify(self, drafts, rows, at)


class WithReplacement:
    """Judges a further candidate as if it could have been the rejected one again."""

    def replace(self: Any, path: tuple[int, ...], target_probs: Any, draft: Drafted) -> Ruling:
        left = target_probs
        for token in draft.others:
            residual = left.copy()
            residual[draft.ids] -= draft.probs()
            left = np.maximum(residual, 0.0) / np.maximum(residual, 0.0).sum()
            if self._rng.random() * draft.probs()[np.searchsorted(draft.ids, token)] < left[token]:
                return Ruling(path, token)
        return Rejection.replace(self, path, left, draft)


class ForgetsRejection:
    """Judges a further candidate by the target, and not by what a rejection leaves of it."""

    def replace(self: Any, path: tuple[int, ...], target_probs: Any, draft: Drafted) -> Ruling:
        for token in draft.others:
            if self._rng.random() * draft.probs()[np.searchsorted(draft.ids, token)] < target_probs[token]:
                return Ruling(path, token)
        return Rejection.replace(self, path, target_probs, replace(draft, others=()))


class AlwaysAccepts:
    def accepts(self: Any, target_probs: Any, draft: Drafted) -> bool:
        return True


class LastRow:
    """A `split` device that recovers with the row of its last draft, not with the rejected draft's."""

    def draw(self: Any, guess: Guess, at: Place) -> Drafted:
        self._last = Split.draw(self, guess, at)
        return self._last

    def recover(self: Any, draft: Drafted, extra: bytes, at: Place) -> int | None:
        return Split.recover(self, self._last, extra, at)


class IgnoresDraft:
    """A `split` device that draws from the target's row, or takes the first candidate."""

    def recover(self: Any, draft: Drafted, extra: bytes, at: Place) -> int | None:
        _, ids, target_probs = self._decode_extra(extra)
        return int(ids[draw(target_probs, self._rng)])


class Stuck(Law):
    def choose(self, row: Any, at: Place) -> int:
        return super().choose(row, Place(0))


class OneNoise:
    """A `coupled` edge that uses the same noise at every position."""

    def __init__(self: Any, context: Context) -> None:
        Coupled.__init__(
            self, replace(context, law=Stuck(context.law.params, context.law.seed, context.law.vocab_size))
        )


ROW, CANDIDATES = SchemeSpec("split"), SchemeSpec("split", downlink="candidates")
MUTANTS: list[tuple[type, type, SchemeSpec]] = [
    (Inverted, Dense, SPECS["dense"]),
    (Inverted, TopK, SPECS["topk-3x8"]),
    (Inverted, Lattice, SPECS["lattice-3x9"]),
    (Inverted, Split, ROW),
    (RawSample, TopK, SchemeSpec("topk", k=5, bits=2)),
    (RawSample, Lattice, SchemeSpec("lattice", k=5, resolution=3)),
    (RawSample, Split, SchemeSpec("split", bits=2)),
    (NoResidual, Dense, SPECS["dense"]),
    (NoResidual, TopK, SPECS["topk-3x8"]),
    (NoResidual, Lattice, SPECS["lattice-3x9"]),
    (SwappedResidual, Dense, SPECS["dense"]),
    (SwappedResidual, TopK, SPECS["topk-3x8"]),
    (RawSample, Lattice, SchemeSpec("lattice", k=5, resolution=3, verify="block")),
    (RawSample, Lattice, SchemeSpec("lattice", k=5, resolution=3, mass=0.9, cut="conformal")),
    (Inverted, TopK, SPECS["topk-candidates"]),
    (NoResidual, TopK, SPECS["topk-candidates"]),
    (NoResidual, TopK, SPECS["topk-mass"]),
    (NoResidual, Lattice, SPECS["lattice-conformal"]),
    (WithReplacement, TopK, SPECS["topk-candidates"]),
    (ForgetsRejection, TopK, SPECS["topk-candidates"]),
    (NextRow, Dense, SPECS["dense"]),
    (NoParams, Dense, SPECS["dense"]),
    (AlwaysAccepts, Dense, SPECS["dense"]),
    (LastRow, Split, ROW),
    (LastRow, Split, CANDIDATES),
    (IgnoresDraft, Split, ROW),
    (IgnoresDraft, Split, CANDIDATES),
    (OneNoise, Coupled, SPECS["coupled"]),
]


@cache
def sound(draft: TableModel, target: TableModel, spec: SchemeSpec, params: SamplingParams, trials: int) -> float:
    """Compute the scheme's own p-value, once for all mutations."""
    return conformance(draft, target, spec, params, draft_length=3, trials=trials).p_value


def broken(monkeypatch: pytest.MonkeyPatch, mutation: type, scheme: type, name: str) -> None:
    monkeypatch.setitem(schemes.SCHEMES, name, type("Broken", (mutation, scheme), {}))


@pytest.mark.parametrize(
    ("mutation", "scheme", "spec"),
    [
        pytest.param(
            m, c, s, id=f"{m.__name__}-{s.name}{i}",
            marks=() if m is Inverted and s == SPECS["topk-3x8"] else pytest.mark.slow,
        )
        for i, (m, c, s) in enumerate(MUTANTS)
    ],
)  # fmt: skip
def test_a_broken_scheme_is_caught(
    monkeypatch: pytest.MonkeyPatch,
    mutation: type,
    scheme: type,
    spec: SchemeSpec,
) -> None:
    params = SamplingParams(0.5 if mutation is NoParams else 1.0)
    # A token's source matters most if the draft is sure and the target is not.
    draft, target = (table(2, scale=2.5), table(12, scale=0.8)) if mutation is LastRow else (DRAFT, TARGET)
    # Rounding errors are small, so they need more texts to show.
    trials = 3 * TRIALS if mutation is RawSample else TRIALS
    assert sound(draft, target, spec, params, trials) > THRESHOLD
    broken(monkeypatch, mutation, scheme, spec.name)
    result = conformance(draft, target, spec, params, draft_length=3, trials=trials)
    _log.info("%s with %s: p = %.1e", mutation.__name__, spec, result.p_value)
    assert result.p_value < BROKEN, result


def flat(*probs: float) -> TableModel:
    """A model that says the same after everything."""
    row = np.log(np.array(probs)).astype(np.float32)
    return TableModel(lambda prefix: row, len(probs))


@pytest.mark.slow
@pytest.mark.parametrize("mutation", [None, PassesIfKept, SameRound])
@pytest.mark.parametrize(("scheme", "name"), [(Dense, "dense-block"), (TopK, "topk-3x8-block")])
def test_whole_blocks_are_distributed_as_the_targets(
    monkeypatch: pytest.MonkeyPatch, mutation: type | None, scheme: type, name: str
) -> None:
    """Texts of five tokens in rounds of four: a χ² over the tokens together, where the marginals could be right."""
    if mutation:
        broken(monkeypatch, mutation, scheme, SPECS[name].name)
    result = conformance(
        flat(0.5, 0.5), flat(0.75, 0.25), SPECS[name], SamplingParams(), depth=5, draft_length=4, trials=1500
    )
    _log.info("%s with %s: p = %.1e", mutation, name, result.p_value)
    assert result.p_value < BROKEN if mutation else result.p_value > THRESHOLD


class BehindTheChain:
    """Draws the token behind a further candidate from the row of the chain's draft that it replaced."""

    def _beyond(self: Any, ruling: Ruling, drafts: Any, rows: Any, at: Place) -> Ruling:
        return Rejection._beyond(self, ruling, drafts, np.roll(rows, drafts.trunk - 1 - len(ruling.path), axis=0), at)


def with_trees(draft: Any, target: Any) -> Pair:
    return Pair(draft, target, trees=True)


@pytest.mark.parametrize("mutation", [None, BehindTheChain, WithReplacement])
@pytest.mark.slow
def test_candidates_with_rows_of_their_own_change_no_law(
    monkeypatch: pytest.MonkeyPatch, mutation: type | None
) -> None:
    """At an edge whose engine runs trees a further candidate brings one token more."""
    if mutation:
        broken(monkeypatch, mutation, TopK, "topk")
    spec = SPECS["topk-candidates"]
    result = conformance(DRAFT, TARGET, spec, SamplingParams(), trials=1200, pair=with_trees)
    _log.info("%s: p = %.1e", mutation, result.p_value)
    assert result.p_value < BROKEN if mutation else result.p_value > THRESHOLD


def test_candidates_with_rows_of_their_own_save_forwards() -> None:
    forwards = {}
    for trees in (False, True):
        pair, forwards[trees] = Pair(DRAFT, TARGET, trees=trees), 0
        for seed in range(20):
            asked = request(SPECS["topk-candidates"], seed=seed, max_tokens=12)
            text = pair.write(asked)
            assert len(text.tokens) == 12
            assert asked.counts.accepted + asked.counts.forwards == 12
            forwards[trees] += asked.counts.forwards
    assert forwards[True] < 0.9 * forwards[False]


# ---- Texts in several sessions ---------------------------------------------------------------------------------------


class Torn(Pair):
    """Every session ends after its first commit, and the text goes on over new machines."""

    def write(self, request: Request) -> PairText:
        text, pair = Resumable(request), self
        while text.finished is None:
            text.take(Pair.write(pair, text.next_request()).commits[0])
            pair = Torn(self._draft, self._target)
        return PairText(text.tokens)


class Again:
    """Random numbers from the seed and the side only, so a resumed text meets those of its first part again."""

    def __init__(self, context: Context, *position: int) -> None:
        self._rng = np.random.default_rng([context.law.seed, context.side, *position])

    def __call__(self, at: Place, use: int = 0) -> np.random.Generator:
        return self._rng


class FromTheStart:
    """Random numbers that also depend on the start of the session. A rejected draft is forgotten with its session, and
    its token is drawn as if nothing had been rejected. `split` can be cut off between the two."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._coins: Again | None = None

    def __call__(self, at: Place, use: int = 0) -> np.random.Generator:
        self._coins = self._coins or Again(self._context, at.position)
        return self._coins(at)


def tossing(monkeypatch: pytest.MonkeyPatch, coins: Any) -> None:
    """Use `coins`, made from the context, in each session."""
    monkeypatch.setattr(Context, "coins", property(coins))


def fitful(target: TableModel) -> TableModel:
    """A draft that is right about every second token only: accepted, rejected, accepted, …"""
    wrong = table(1, scale=3.0)
    return TableModel(lambda prefix: (target if len(prefix) % 2 else wrong).row(prefix), target.vocab_size)


FITFUL = fitful(TARGET)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("draft", "name", "coins"),
    [
        (DRAFT, "dense", None),
        (DRAFT, "dense", Again),
        (DRAFT, "topk-3x8", None),
        (DRAFT, "topk-3x8", Again),
        (DRAFT, "lattice-3x9", None),
        (DRAFT, "lattice-3x9", Again),
        (DRAFT, "lattice-conformal", None),
        (DRAFT, "topk-candidates", None),
        (DRAFT, "dense-block", None),
        (DRAFT, "dense-block", Again),
        (FITFUL, "split-row-16", None),
        (FITFUL, "split-row-16", FromTheStart),
        (FITFUL, "split-candidates-6", None),
        (FITFUL, "split-candidates-6", FromTheStart),
    ],
)
def test_texts_in_many_sessions_are_distributed_as_the_targets_but_with_other_coins(
    monkeypatch: pytest.MonkeyPatch, draft: TableModel, name: str, coins: type | None
) -> None:
    if coins:
        tossing(monkeypatch, coins)

    def p_value(pair: type[Pair]) -> float:
        return conformance(draft, TARGET, SPECS[name], SamplingParams(), trials=400, pair=pair).p_value

    torn = p_value(Torn)
    _log.info("%s under %s: p = %.1e", coins, name, torn)
    if coins is None:
        assert torn > THRESHOLD
    else:
        assert torn < BROKEN
        assert p_value(Pair) > THRESHOLD  # it takes a second session to tell


MODES = [
    Mode("topk", 2), Mode("stream", 3, "off"), Mode("split", 1), Mode("server", 0), Mode("dense", 2),
    Mode("stream", 4, "always"), Mode("lattice", 2), Mode("coupled", 1), Mode("split", 2),
    Mode("stream", 2, "idle", 2, 2),
]  # fmt: skip


class SameForAll:
    """Random numbers that ignore the position."""

    def __init__(self, context: Context) -> None:
        self._seed = [context.law.seed, context.side]

    def __call__(self, at: Place, use: int = 0) -> np.random.Generator:
        return np.random.default_rng([*self._seed, use])


@pytest.mark.slow
@pytest.mark.parametrize("coins", [None, SameForAll])
def test_every_pair_of_schemes_may_follow_each_other_and_the_text_keeps_its_distribution(
    monkeypatch: pytest.MonkeyPatch, coins: type | None
) -> None:
    """A text whose scheme changes after every commit, also to schemes with random numbers of their own."""
    monkeypatch.setattr(session, "REVIEW_S", 0.0)  # ask the policy every time
    if coins:
        tossing(monkeypatch, coins)
    followed = set()

    class Restless(Pair):
        def write(self, request: Request) -> PairText:
            policy = Fickle(random.Random(request.seed).choices(MODES, k=9))  # noqa: S311
            text = super().write(replace(request, policy=policy))
            followed.update(pairwise(mode.scheme for mode in policy.modes[: policy.asked]))
            return text

    target = table(11, vocab=4, scale=1.0)
    draft, spec = alike(target, 12, 0.8), SchemeSpec("stream")
    result = conformance(draft, target, spec, SamplingParams(), depth=4, trials=1500, pair=Restless)
    _log.info("%s: p = %.1e", coins, result.p_value)
    assert len(followed) == len({mode.scheme for mode in MODES}) ** 2
    assert result.p_value < BROKEN if coins else result.p_value > THRESHOLD


RUNGS = [
    SchemeSpec("lattice", k=4, resolution=9), SchemeSpec("lattice", k=4, resolution=9, mass=0.8, cut="conformal"),
    SchemeSpec("lattice", k=1, resolution=3), SchemeSpec("lattice", k=1, resolution=4),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("peeks", [False, True])
def test_a_ladder_may_follow_the_link_but_not_the_random_numbers_to_come(
    monkeypatch: pytest.MonkeyPatch, peeks: bool
) -> None:
    """Options change with every commit. A choice that knows what will be drawn biases the text."""
    monkeypatch.setattr(session, "REVIEW_S", 0.0)

    class Climbing(Pair):
        def write(self, request: Request) -> PairText:
            law, blind = Law(request.params, request.seed, 5), random.Random(request.seed)  # noqa: S311

            class Rungs(Fickle):
                def choose(self, facts: Any, now: float) -> Mode:
                    at = Place(len(request.prompt) + request.counts.committed)
                    u = law.coins(schemes.DEVICE, at).random() if peeks else blind.random()
                    return Mode("lattice", 2, options=RUNGS[int(u * len(RUNGS))])

            return super().write(replace(request, policy=Rungs([])))

    result = conformance(DRAFT, TARGET, RUNGS[0], SamplingParams(), trials=2500, pair=Climbing)
    _log.info("peeking %s: p = %.1e", peeks, result.p_value)
    assert result.p_value < BROKEN if peeks else result.p_value > THRESHOLD


# ---- `coupled`: the device cannot bias the text ----------------------------------------------------------------------


def acceptance(spec: SchemeSpec, draft: Any, target: Any, texts: int = 150) -> tuple[float, list[list[int]]]:
    pair, accepted, drafted, written = Pair(draft, target), 0, 0, []
    for seed in range(texts):
        asked = request(spec, seed=seed, max_tokens=6)
        written.append(pair.write(asked).tokens)
        accepted, drafted = accepted + asked.counts.accepted, drafted + asked.counts.drafted
    return accepted / drafted, written


class WrongPosition:
    def draw(self: Any, guess: Any, at: Place) -> Drafted:
        return Drafted(self._law.choose(guess, Place(at.position + 1)))


class OwnNoise:
    def draw(self: Any, guess: Any, at: Place) -> Drafted:
        return Drafted(choose(guess, self._law.params, self._law.seed + 1_000_003, at.position))


@pytest.mark.parametrize("mutation", mostly_slow([WrongPosition, OwnNoise], often=(WrongPosition,)))
def test_a_device_with_other_noise_is_still_exact_but_accepted_less(
    monkeypatch: pytest.MonkeyPatch, mutation: type
) -> None:
    spec, target = SPECS["coupled"], table(2)
    draft = alike(target, 9, 0.3)
    rate, texts = acceptance(spec, draft, target)
    broken(monkeypatch, mutation, Coupled, "coupled")
    worse, same = acceptance(spec, draft, target)
    assert same == texts
    assert worse < rate - 0.2, (worse, rate)


def test_coupled_acceptance_is_close_to_the_optimum() -> None:
    """Acceptance is at least (1 - TV)/(1 + TV), averaged over the judged positions."""
    target = table(2, vocab=20)
    draft = alike(target, 9, 0.5)
    bounds, agreed = [], []
    for seed in range(400):
        prefix = (0, seed % 20)
        a, b = (distribution(model.row(prefix), SamplingParams()) for model in (target, draft))
        tv = 0.5 * float(np.abs(a - b).sum())
        bounds.append(((1 - tv) / (1 + tv), 1 - tv))
        agreed.append(
            choose(target.row(prefix), SamplingParams(), seed, 2)
            == choose(draft.row(prefix), SamplingParams(), seed, 2)
        )
    low, high = np.mean(bounds, axis=0)
    error = 4 * np.sqrt(0.25 / len(agreed))
    assert low - error < np.mean(agreed) < high + error


def test_an_adversary_cannot_move_a_coupled_text() -> None:
    target = table(2)
    for seed in range(60):
        truth = list(alone.write(target, (0, 1), SamplingParams(), seed, 6))
        for draft in (table(77), table(78, scale=9.0)):
            assert Pair(draft, target).write(request(seed=seed, max_tokens=6)).tokens == truth


# ---- Temperature 0 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", mostly_slow(SPECS, often=OFTEN))
def test_greedy_texts_equal_the_targets_token_for_token(name: str) -> None:
    target = table(2, vocab=40, eos_ids=(7,))
    greedy = SamplingParams(0.0)
    for draft in (alike(target, 9, 0.6), table(3, vocab=40)):
        pair = Pair(draft, target)
        for prompt in range(25):
            truth = list(alone.write(target, (prompt, 1), greedy, 5, 12))
            text = pair.write(request(SPECS[name], greedy, seed=prompt, max_tokens=12, prompt=(prompt, 1)))
            assert text.tokens == truth
            assert text.reason == ("stop" if truth[-1] == 7 else "length")
