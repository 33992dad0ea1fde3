"""The payload ladder: finer where the uplink carries it, kept while that is nearly true, and heard by the edge."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.control.facts import wire_of
from airdraft.control.ladder import LOSS, RUNGS, Ladder, usual
from airdraft.control.plan import plan
from airdraft.control.predict import best_rounds
from airdraft.core.messages import SchemeSpec
from airdraft.core.policy import Facts, Mode
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams
from airdraft.errors import BadParameterError
from airdraft.link.markov2 import Markov2Link
from airdraft.sim import alone

from ..core.tables import alike, table
from ..sim.test_virtual import world

VOCAB = 32000
FACTS = Facts(0.005, 0.03, 0.02, 1e6, 100e6, 0.8)
LATTICE = usual(SchemeSpec("lattice"), VOCAB)


def rung(ladder: Ladder, uplink_bps: float) -> int:
    options = ladder.choose(replace(FACTS, uplink_bps=uplink_bps), 0.0).options
    assert options is not None
    return LATTICE.index(options)


def test_a_slower_uplink_takes_a_coarser_rung() -> None:
    found = [rung(Ladder(LATTICE, VOCAB), rate) for rate in (1e9, 1e7, 5e6, 2e6, 1e6, 5e5, 2e5, 1e5, 1e4)]
    assert found[0] == 0
    assert found[-1] == len(LATTICE) - 1
    assert found == sorted(found)
    assert len(set(found)) > 3


@given(st.floats(1e3, 1e9), st.floats(0, 0.2), st.floats(0.1, 0.99))
def test_no_rung_costs_more_than_it_may(uplink_bps: float, rtt_s: float, acceptance: float) -> None:
    facts = replace(FACTS, uplink_bps=uplink_bps, rtt_s=rtt_s, acceptance=acceptance).rounded()
    mode = Ladder(LATTICE, VOCAB).choose(facts, 0.0)
    assert mode.options is not None
    speeds = [best_rounds(facts, wire_of(spec, VOCAB), 64).tokens_per_s for spec in LATTICE]
    at = LATTICE.index(mode.options)
    assert speeds[at] >= (1 - LOSS) * speeds[-1]
    assert all(speed < (1 - LOSS) * speeds[-1] for speed in speeds[:at])


def test_a_rung_is_kept_while_it_costs_little_more() -> None:
    rates = [10 ** (4 + at / 50) for at in range(200)]
    at = next(at for at, rate in enumerate(rates) if rung(Ladder(LATTICE, VOCAB), rate) < len(LATTICE) - 2)
    ladder = Ladder(LATTICE, VOCAB)
    held = rung(ladder, rates[at])
    below = rates[at] * 0.95
    assert rung(Ladder(LATTICE, VOCAB), below) > held
    assert rung(ladder, below) == held
    assert rung(ladder, rates[at] / 10) > held


def test_k_0_asks_for_the_ladder() -> None:
    asked = Request((0, 1), SchemeSpec("topk", k=0, verify="block"), SamplingParams(), 1, 8, 4)
    mode = plan(asked, VOCAB, 32).choose(FACTS, 0.0)
    assert mode.options is not None
    assert mode.options in [SchemeSpec("topk", k, bits, "row", "always", r, "block") for k, r, bits in RUNGS]
    assert mode.length == 4


def test_a_ladder_is_of_one_scheme_with_rounds() -> None:
    for specs in ([], [SchemeSpec("topk"), SchemeSpec("lattice")], [SchemeSpec("stream")]):
        with pytest.raises(BadParameterError, match="rungs of one scheme"):
            Ladder(specs, VOCAB)


def test_rungs_that_take_too_many_bits_are_left_out() -> None:
    assert len(usual(SchemeSpec("lattice"), 152_000)) == len(RUNGS)
    assert usual(SchemeSpec("lattice", mass=0.9), 152_000)[-1].mass == 0.9
    with pytest.raises(BadParameterError, match="verify is"):
        usual(SchemeSpec("lattice", verify="nope"), VOCAB)


@pytest.mark.parametrize("name", ["lattice", "topk"])
def test_the_edge_follows_every_change_in_the_middle_of_a_text(name: str) -> None:
    """An uplink that switches between 6 kbit/s and 6 Mbit/s. Greedy, so that the text is the target's own."""
    target = table(3, vocab=300, scale=2.0)
    here = world(Markov2Link(6e3, 6e6, seed=3, block_s=2.0), draft=alike(target, 4, 0.3), target=target)
    chosen: list[Mode] = []

    class Told(Ladder):
        def choose(self, facts: Facts, now: float) -> Mode:
            chosen.append(super().choose(facts, now))
            return chosen[-1]

    policy = Told(usual(SchemeSpec(name), 300), 300)
    asked = Request((0, 1), SchemeSpec(name), SamplingParams(0.0), 1, 200, policy=policy)
    text = here.write(asked)
    assert text.tokens == list(alone.write(target, (0, 1), SamplingParams(0.0), 1, 200))
    assert len({mode.options for mode in chosen}) > 1
