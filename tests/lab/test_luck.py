"""What drafts meet under any options is what they meet between real machines, and is replayed so."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest

from airdraft.control.facts import wire_of
from airdraft.control.ladder import usual
from airdraft.core.messages import SchemeSpec
from airdraft.core.request import Counts, Request
from airdraft.core.sampling import SamplingParams
from airdraft.errors import BadParameterError
from airdraft.lab.record import Recording, record, synthetic
from airdraft.lab.virtual.cell import Setting, constant, run
from airdraft.lab.virtual.luck import Lucks, lucks
from airdraft.models.base import FloatArray
from airdraft.sim.conformance import TableModel
from airdraft.sim.pair import Pair

VOCAB, TEXTS, TOKENS, LENGTH = 120, 16, 40, 3
PARAMS = SamplingParams(1.0)
SPECS = {
    "several": SchemeSpec("topk", k=40, candidates=3),
    "by mass": SchemeSpec("topk", k=60, mass=0.8),
    "conformal": SchemeSpec("lattice", k=60, mass=0.8, cut="conformal"),
    "coarse": SchemeSpec("lattice", k=4, resolution=12),
}


@functools.cache
def _target(last: int) -> FloatArray:
    return np.random.default_rng([1, last]).normal(0.0, 1 + last % 4, VOCAB).astype(np.float32)  # flat and peaked ones


@functools.cache
def _draft(last: int) -> FloatArray:
    return (_target(last) + np.random.default_rng([2, last]).normal(0.0, 0.9, VOCAB)).astype(np.float32)


@pytest.fixture(scope="module")
def models() -> tuple[TableModel, TableModel]:
    """A draft and a target that often agree."""
    return TableModel(lambda text: _draft(text[-1]), VOCAB), TableModel(lambda text: _target(text[-1]), VOCAB)


@pytest.fixture(scope="module")
def recorded(models: tuple[TableModel, TableModel]) -> Recording:
    return record(*models, [(at,) for at in range(TEXTS)], PARAMS, TOKENS, 1, VOCAB, "tables")


@pytest.fixture(scope="module")
def lucky(recorded: Recording, models: tuple[TableModel, TableModel]) -> Lucks:
    usual_too = SchemeSpec("topk"), SchemeSpec("lattice")
    return lucks(recorded, *models, [*SPECS.values(), *usual_too])


def test_with_usual_options_it_is_as_recorded(recorded: Recording, lucky: Lucks) -> None:
    for text, luck in zip(recorded.texts, lucky[SchemeSpec("lattice")], strict=True):
        assert luck.accept == pytest.approx(text.accept_lattice, abs=1e-6)
        assert set(luck.other) == {0}
        assert set(luck.bits) == {wire_of(SchemeSpec("lattice"), VOCAB).draft_bits}
    for text, luck in zip(recorded.texts, lucky[SchemeSpec("topk")], strict=True):
        assert luck.accept == pytest.approx(text.accept_topk, abs=64 / 2**16)


@pytest.mark.parametrize("name", ["several", *(pytest.param(each, marks=pytest.mark.slow) for each in [*SPECS][1:])])
def test_a_replay_meets_what_real_machines_meet(
    name: str, recorded: Recording, models: tuple[TableModel, TableModel], lucky: Lucks
) -> None:
    """Tokens a round, and bits a draft: real texts of both models, and recorded ones with computed chances."""
    spec, real = SPECS[name], Counts()
    pair = Pair(*models, trees=spec.candidates > 1)
    for seed in range(2 * TEXTS):
        pair.write(Request([seed % TEXTS], spec, PARAMS, 1000 + seed, TOKENS, LENGTH, counts=real))
    replayed = run(recorded, constant(0, math.inf, 1, 1), spec, length=LENGTH, lucks=lucky)
    assert replayed.identical
    counts = replayed.counts
    for of in (lambda each: each.committed / each.rounds, lambda each: each.uplink_payload_bytes / each.drafted):
        assert of(counts) == pytest.approx(of(real), rel=0.08)  # three standard errors of so many rounds


def test_further_candidates_save_rounds_and_a_cut_saves_bits(recorded: Recording, lucky: Lucks) -> None:
    setting = constant(0, math.inf, 1, 1)
    one, three = (
        run(recorded, setting, spec, length=LENGTH, lucks=lucky).counts
        for spec in (SchemeSpec("topk"), SPECS["several"])
    )
    assert three.rounds < one.rounds
    assert three.accepted / three.rounds > 1.05 * one.accepted / one.rounds
    cut = lucky[SPECS["by mass"]]
    assert max(max(luck.bits) for luck in cut) <= wire_of(SPECS["by mass"], VOCAB).draft_bits
    assert len({size for luck in cut for size in luck.sizes}) > 10


@pytest.mark.slow
def test_a_ladder_meets_the_luck_of_each_rung(recorded: Recording, models: tuple[TableModel, TableModel]) -> None:
    """On a slow uplink it takes coarse ones, of which fewer drafts are accepted."""
    rungs = usual(SchemeSpec("lattice", k=0), VOCAB)
    lucky = lucks(recorded, *models, rungs)
    fast, slow = constant(10, 50, 2, 30), constant(10, 0.002, 2, 30)

    def rate(spec: SchemeSpec, setting: Setting = fast) -> float:
        found = run(recorded, setting, spec, length=LENGTH, lucks=lucky)
        assert found.identical
        return found.counts.acceptance_rate or 0.0

    ladder = SchemeSpec("lattice", k=0)
    assert rate(rungs[-1]) < rate(rungs[3]) < rate(rungs[0])
    assert rate(ladder) == rate(rungs[0])
    assert rate(ladder, slow) < rate(rungs[3])


def test_what_is_not_known_is_refused(recorded: Recording) -> None:
    for name in ("several", "by mass", "conformal"):
        with pytest.raises(BadParameterError, match="find their luck first"):
            run(recorded, constant(10, 5, 5, 30), SPECS[name], length=2)
    with pytest.raises(BadParameterError, match="record it again"):
        lucks(synthetic(0.8, 1, 8, 1, VOCAB), *(TableModel(lambda text: _draft(text[-1]), VOCAB),) * 2, [])
