"""Cuts of a distribution: what is kept, what is lost in the mean, what may be known of drafts that died, and bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.core import schemes
from airdraft.core.bits import BitWriter
from airdraft.core.law import Law, Place
from airdraft.core.messages import SchemeSpec
from airdraft.core.sampling import SamplingParams
from airdraft.core.schemes import DEVICE, EDGE, Drafts
from airdraft.core.schemes.cuts import FIRST, STEP, ByMass, Conformal
from airdraft.errors import BadParameterError, RemoteProtocolError

from ..suites import examples

VOCAB = 40
MASS = SchemeSpec("topk", k=12, bits=8, mass=0.8)
CONFORMAL = SchemeSpec("lattice", k=12, resolution=20, mass=0.8, cut="conformal")


def distribution(seed: int, scale: float, vocab: int = VOCAB) -> np.ndarray:
    weights = np.exp(np.random.default_rng(seed).normal(0, scale, vocab))
    return np.asarray(weights / weights.sum())


@given(st.integers(0, 1000), st.floats(0, 6), st.floats(0.05, 0.99), st.integers(1, VOCAB))
@examples(100)
def test_a_mass_takes_the_fewest_tokens(seed: int, scale: float, mass: float, most: int) -> None:
    probs = distribution(seed, scale)
    size = ByMass(most, mass).size(probs, Place(0))
    likely = np.sort(probs)[::-1]
    assert 1 <= size <= most
    assert size == most or likely[:size].sum() >= mass - 1e-12
    assert size == 1 or likely[: size - 1].sum() < mass + 1e-12


@given(st.lists(st.tuples(st.integers(0, 99), st.floats(0, 8)), min_size=1, max_size=200), st.floats(0.5, 0.99))
@examples(50)
def test_conformal_prediction_bounds_what_is_lost_in_the_mean(rows: list[tuple[int, float]], mass: float) -> None:
    """Whatever the rows are, and not only if they resemble each other."""
    cut, lost = Conformal(VOCAB, mass), 0.0
    for at, (seed, scale) in enumerate(rows):
        probs = distribution(seed, scale)
        lost += 1 - np.sort(probs)[::-1][: cut.size(probs, Place(at))].sum()
    assert lost / len(rows) <= 1 - mass + (FIRST + STEP) / (STEP * len(rows)) + 1e-9


def test_conformal_prediction_comes_close_to_the_share_it_is_given() -> None:
    cut, sizes, lost = Conformal(VOCAB, 0.9), [], 0.0
    for at in range(3000):
        probs = distribution(at, 1 + at % 3)
        sizes.append(cut.size(probs, Place(at)))
        lost += 1 - np.sort(probs)[::-1][: sizes[-1]].sum()
    assert lost / 3000 == pytest.approx(0.1, abs=0.01)
    assert len(set(sizes)) > 10


@pytest.mark.parametrize("spec", [MASS, CONFORMAL])
def test_what_was_drafted_and_died_changes_nothing_that_follows(spec: SchemeSpec) -> None:
    """The next round meets the random numbers of a dead draft's position again; a cut that knew the draft would bias
    the text."""
    law = Law(SamplingParams(), 5, VOCAB)

    def row(*prefix: int) -> np.ndarray:
        return np.random.default_rng(prefix).normal(0, 2, VOCAB)

    with_, without = (schemes.make(spec, law, DEVICE) for _ in range(2))
    for scheme in (with_, without):
        for at in range(3):
            scheme.draw(row(at), Place(at))
    for at in range(2, 9):  # judged: the third token is another
        with_.draw(row(7, at), Place(at))
    for scheme in (with_, without):
        scheme.draw(row(2), Place(2))
    for at in range(3, 20):
        one, other = with_.draw(row(at), Place(at)), without.draw(row(at), Place(at))
        assert one.token == other.token
        assert one.row()[0].tolist() == other.row()[0].tolist()


@pytest.mark.parametrize("spec", [MASS, CONFORMAL])
def test_sizes_travel(spec: SchemeSpec) -> None:
    law = Law(SamplingParams(), 5, VOCAB)
    device, edge = schemes.make(spec, law, DEVICE), schemes.make(spec, law, EDGE)
    rows = [np.random.default_rng(at).normal(0, 1 + at % 4, VOCAB) for at in range(16)]
    drafts = Drafts(tuple(device.draw(row, Place(at)) for at, row in enumerate(rows)))
    assert len({draft.row()[0].size for draft in drafts.said}) > 3
    body = device.encode(drafts)
    assert 8 * len(body) < 16 * device.draft_bits  # fewer than if all had k tokens
    for ours, theirs in zip(drafts.said, edge.decode(16, body).said, strict=True):
        assert ours.token == theirs.token
        assert ours.row()[0].tolist() == theirs.row()[0].tolist()
        assert ours.row()[1].tolist() == theirs.row()[1].tolist()


@pytest.mark.parametrize("spec", [MASS, CONFORMAL])
def test_a_size_beyond_k_is_refused(spec: SchemeSpec) -> None:
    edge = schemes.make(spec, Law(SamplingParams(), 5, VOCAB), EDGE)
    out = BitWriter()
    if spec.name == "topk":
        out.write([3], 6)
    out.write([12], 4)  # thirteen tokens
    out.write(range(13), 6)
    out.write([255] + [0] * 12, 8)
    with pytest.raises(RemoteProtocolError, match="malformed" if spec.name == "topk" else "13 tokens, more than 12"):
        edge.decode(1, out.bytes())


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"mass": 0.0}, "mass is 0.0; give the share"),
        ({"mass": 1.5}, "mass is 1.5; give the share"),
        ({"mass": float("nan")}, "mass is nan; give the share"),
        ({"mass": 0.9, "cut": "knife"}, "cut is 'knife'; choose mass or conformal"),
        ({"cut": "conformal"}, "mass is 1, which leaves conformal prediction nothing to choose"),
    ],
)
def test_what_is_no_cut_is_refused(changes: dict[str, object], what: str) -> None:
    spec = SchemeSpec("coupled", **changes)  # type: ignore[arg-type]
    with pytest.raises(BadParameterError, match=what):
        schemes.make(spec, Law(SamplingParams(), 5, VOCAB), DEVICE)
