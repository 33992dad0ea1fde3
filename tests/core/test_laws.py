"""Laws of the parts: messages, frames, bits, lattice, bodies, sampling."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from airdraft.core import messages as m
from airdraft.core import schemes
from airdraft.core.bits import BitReader, BitWriter, id_width, lattice
from airdraft.core.choosing import choose, plainly
from airdraft.core.law import Law, Place
from airdraft.core.messages import MOST_LIKELY
from airdraft.core.sampling import SamplingParams, candidates, distribution, draw, draws, softmax
from airdraft.core.schemes import DEVICE, EDGE
from airdraft.errors import BadParameterError, RemoteProtocolError

from ..suites import examples
from .tables import SPECS

count = st.integers(0, (1 << 64) - 1)
number = st.floats(allow_nan=False)
params = st.builds(
    SamplingParams,
    st.one_of(st.just(0.0), st.floats(0.1, 4.0)),
    st.integers(0, 12),
    st.floats(0.01, 1.0),
    st.floats(0.0, 1.0),
)
spec = st.builds(
    m.SchemeSpec, st.sampled_from(list(schemes.SCHEMES)), st.integers(1, 99), st.integers(1, 24),
    mass=st.floats(0.01, 1.0), cut=st.sampled_from(["mass", "conformal"]), candidates=st.integers(1, 8),
)  # fmt: skip
TO_EDGE = [
    st.builds(m.Hello, count, st.text(), st.text(), st.binary(), count),
    st.builds(
        m.Open,
        count,
        spec,
        params,
        st.integers(0, (1 << 63) - 1),
        count,
        count,
        count,
        st.binary(),
        count,
        st.none() | st.integers(0, MOST_LIKELY),
    ),
    st.builds(m.Draft, count, count, count, count, count, count, st.binary(), st.none() | count),
    st.builds(m.More, count, count),
    st.builds(m.Switch, count, spec, st.none() | count),
]
TO_DEVICE = [
    st.builds(
        m.Welcome,
        count,
        st.text(),
        st.text(),
        count,
        count,
        count,
        count,
        st.floats(0.01, 3600),
        st.tuples(count, count),
        st.floats(0, 3600),
    ),
    st.builds(m.Opened, count, count, count),
    st.builds(m.Verdict, count, count, count, st.none() | count, count, count, st.binary()),
    st.builds(m.Extra, count, count, st.binary()),
    st.builds(m.Tokens, count, count, st.lists(count, max_size=5).map(tuple), count, count, count),
    st.builds(m.Logprobs, count, count, count, st.binary()),
]
EITHER = [
    st.builds(m.Close, count, st.text()),
    st.builds(m.Ping, number, st.binary(), st.integers(0, m.MAX_FILLER)),
    st.builds(m.Pong, number, st.binary(), st.floats(0, 3600)),
    st.builds(m.Error, st.none() | count, st.text(max_size=32), st.text()),
]


def test_every_message_has_a_strategy() -> None:
    assert len(TO_EDGE) + len(TO_DEVICE) + len(EITHER) == len(m.Message.__subclasses__())


@pytest.mark.parametrize(("side", "kinds"), [(m.ToEdge, TO_EDGE + EITHER), (m.ToDevice, TO_DEVICE + EITHER)])
@given(data=st.data())
@examples(120)
def test_messages_survive_the_wire_however_it_is_cut(side: object, kinds: list[object], data: st.DataObject) -> None:
    sent = data.draw(st.lists(st.one_of(kinds), max_size=5))  # type: ignore[arg-type]
    stream = b"".join(m.encode(message) for message in sent)
    decoder, got, at = m.Decoder(side), [], 0
    while at < len(stream):
        size = data.draw(st.integers(1, 40))
        got += list(decoder.feed(stream[at : at + size]))
        at += size
    assert got == sent


@given(st.lists(st.tuples(st.integers(1, 32), st.lists(st.integers(0, (1 << 32) - 1), max_size=9)), max_size=6))
@examples(150)
def test_bits_come_back_as_they_were_written(runs: list[tuple[int, list[int]]]) -> None:
    runs = [(width, [value & ((1 << width) - 1) for value in values]) for width, values in runs]
    out = BitWriter()
    for width, values in runs:
        out.write(values, width)
    data = out.bytes()
    text = "".join(f"{value:0{width}b}" for width, values in runs for value in values)
    assert data == int((text + "0" * (-len(text) % 8)) or "0", 2).to_bytes((len(text) + 7) // 8, "big")
    reader = BitReader(data)
    assert [reader.read(len(values), width).tolist() for width, values in runs] == [values for _, values in runs]
    reader.finish()
    for wrong in (data + b"\0", data + b"\1"):
        reader = BitReader(wrong)
        for width, values in runs:
            reader.read(len(values), width)
        with pytest.raises(RemoteProtocolError):
            reader.finish()
    with pytest.raises(RemoteProtocolError):
        BitReader(data).read(len(data) * 8 + 1, 1)


@pytest.mark.parametrize(("vocab", "width"), [(1, 1), (2, 1), (3, 2), (256, 8), (257, 9), (32000, 15), (151936, 18)])
def test_ids_take_the_fewest_bits(vocab: int, width: int) -> None:
    assert id_width(vocab) == width


weights = arrays(np.float64, st.integers(1, 40), elements=st.floats(0.0, 1.0)).filter(lambda w: w.sum() > 1e-3)


@given(weights, st.integers(1, (1 << 24) - 1))
@examples(200)
def test_the_lattice_rounds_to_the_nearest_point(raw: np.ndarray, total: int) -> None:
    probs = raw / raw.sum()
    counts = lattice(probs, total)
    assert counts.sum() == total
    assert (counts >= 0).all()
    error = counts - probs * total
    assert (np.abs(error) < 1 + 1e-6).all()
    # No unit moved from one entry to another would bring the whole nearer.
    up, down = np.argmax(error), np.argmin(error)
    moved = counts.copy()
    moved[up] -= 1
    moved[down] += 1
    assert np.abs(error).sum() <= np.abs(moved - probs * total).sum() + 1e-6


@pytest.mark.parametrize("name", [name for name in SPECS if name != "server"])
@given(data=st.data(), vocab=st.integers(2, 40), seed=st.integers(0, 1000), given_params=params)
@examples(60)
def test_what_is_decoded_is_what_was_drawn_from(
    name: str, data: st.DataObject, vocab: int, seed: int, given_params: SamplingParams
) -> None:
    device = schemes.make(SPECS[name], Law(given_params, seed, vocab), DEVICE)
    edge = schemes.make(SPECS[name], Law(given_params, seed, vocab), EDGE)
    rng = np.random.default_rng(seed)
    drafts = [
        device.draw(rng.normal(0, 3, vocab).astype(np.float32), Place(at)) for at in range(data.draw(st.integers(0, 4)))
    ]
    body = device.encode(schemes.Drafts(tuple(drafts)))
    assert len(body) <= (device.draft_bits * len(drafts) + 7) // 8
    decoded = edge.decode(len(drafts), body)
    assert edge.encode(decoded) == body
    for ours, theirs in zip(drafts, decoded.said, strict=True):
        assert ours.token == theirs.token
        assert ours.total == theirs.total
        if name == "coupled":
            continue
        assert ours.prob() == theirs.prob() > 0
        if not name.startswith("split"):  # whose edge knows no more than that
            assert np.array_equal(ours.row()[0], theirs.row()[0])
            assert np.array_equal(ours.row()[1], theirs.row()[1])
            assert math.isclose(ours.probs().sum(), 1.0)


@given(
    arrays(np.float64, st.integers(1, 40), elements=st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.7])).filter(
        lambda p: p.any()
    ),
    st.integers(1, 50),
)
@examples(200)
def test_the_most_likely_tokens_are_sent_and_of_equals_the_lower_id(raw: np.ndarray, k: int) -> None:
    scheme = schemes.make(m.SchemeSpec("topk", k=k), Law(SamplingParams(), 1, raw.size), DEVICE)
    ids, _ = scheme.quantise(raw / raw.sum(), Place(0))  # type: ignore[attr-defined]
    assert ids.tolist() == sorted(sorted(range(raw.size), key=lambda token: (-raw[token], token))[:k])


# ---- Sampling --------------------------------------------------------------------------------------------------------

rows = arrays(np.float32, st.integers(1, 30), elements=st.floats(-20, 20, width=32))
tied = arrays(np.float32, st.integers(1, 30), elements=st.sampled_from([-1.0, 0.0, 1.0, 2.0]))


def slow_candidates(logits: np.ndarray, given_params: SamplingParams) -> list[int]:
    """The rule of docs/protocol.md, word for word."""
    scaled = [float(x) / given_params.temperature for x in logits]
    kept = sorted(range(len(scaled)), key=lambda v: (-scaled[v], v))
    if given_params.top_k:
        kept = kept[: given_params.top_k]
    if given_params.top_p < 1:
        highest = max(scaled)
        weight = [math.exp(scaled[v] - highest) for v in kept]
        mass, reached = 0.0, 0
        while reached < len(kept) and mass < given_params.top_p:
            mass += weight[reached] / math.fsum(weight)
            reached += 1
        kept = kept[:reached]
    if given_params.min_p:
        kept = [v for v in kept if scaled[v] >= scaled[kept[0]] + math.log(given_params.min_p)]
    return sorted(kept)


@given(rows | tied, params.filter(lambda p: p.temperature > 0))
@examples(300)
def test_candidates_follow_the_rule(logits: np.ndarray, given_params: SamplingParams) -> None:
    ids, kept = candidates(logits, given_params)
    assert (np.diff(ids) > 0).all()
    assert np.array_equal(kept, logits[ids].astype(np.float64) / given_params.temperature)
    expected = slow_candidates(logits, given_params)
    if ids.tolist() != expected:  # a sum that rounds to the other side of top-p decides one token
        loose = [
            slow_candidates(logits, SamplingParams(given_params.temperature, given_params.top_k, p, given_params.min_p))
            for p in (given_params.top_p * (1 - 1e-12), min(1.0, given_params.top_p * (1 + 1e-12)))
        ]
        assert ids.tolist() in loose
    if given_params.top_k:
        assert 1 <= ids.size <= given_params.top_k


@given(rows | tied, params)
@examples(200)
def test_a_distribution_sums_to_one_over_the_candidates(logits: np.ndarray, given_params: SamplingParams) -> None:
    probs = distribution(logits, given_params)
    assert math.isclose(probs.sum(), 1.0)
    assert set(np.flatnonzero(probs)) <= set(candidates(logits, given_params)[0].tolist())
    token = choose(logits, given_params, 3, 4)
    assert token in candidates(logits, given_params)[0]
    if given_params.temperature == 0:
        assert token == int(np.argmax(logits))
        assert probs[token] == 1


@pytest.mark.parametrize("temperature", [-1.0, 1e-7, 1e-310, float("nan"), float("inf")])
def test_a_temperature_that_is_none_is_refused(temperature: float) -> None:
    with pytest.raises(BadParameterError, match="temperature"):
        SamplingParams(temperature)


@pytest.mark.parametrize("bad", [{"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}, {"min_p": -0.1}, {"min_p": 1.5}])
def test_parameters_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(BadParameterError, match=next(iter(bad)).replace("_", "-")):
        SamplingParams(**bad)  # type: ignore[arg-type]


def test_the_lowest_temperature_overflows_nothing() -> None:
    logits = np.array([3e38, -3e38, 1.0, 2e38], np.float32)
    probs = distribution(logits, SamplingParams(1e-6, top_p=0.9, min_p=0.5))
    assert probs.tolist() == [1, 0, 0, 0]


def test_draws_follow_the_weights() -> None:
    weights = np.array([0.0, 3.0, 0.0, 1.0, 4.0, 0.0])
    rng = np.random.default_rng(1)
    seen = np.bincount(draws(weights, 40_000, rng), minlength=6)
    assert seen[weights == 0].sum() == 0
    assert np.allclose(seen / 40_000, weights / 8, atol=0.015)
    one, other = np.random.default_rng(2), np.random.default_rng(2)
    assert [draw(weights, one) for _ in range(20)] == draws(weights, 20, other).tolist()

    class Edge:  # the largest number a generator gives, and rounding on top
        def random(self, count: int) -> np.ndarray:
            return np.full(count, 1.0)

    assert draw(weights, Edge()) == 4  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given_params", [SamplingParams(0.8), SamplingParams(1.0, top_k=4), SamplingParams(1.2, top_p=0.8)]
)
def test_choices_over_seeds_follow_the_distribution(given_params: SamplingParams) -> None:
    logits = np.random.default_rng(4).normal(size=8)
    probs = distribution(logits, given_params)
    seen = np.bincount([choose(logits, given_params, seed, 5) for seed in range(6000)], minlength=8)
    assert seen[probs == 0].sum() == 0
    wanted = 6000 * probs[probs > 0]
    statistic = float(((seen[probs > 0] - wanted) ** 2 / wanted).sum())
    assert statistic < 30, statistic  # 7 degrees of freedom: beyond 30 once in 10 000


def test_softmax_is_the_definition() -> None:
    assert np.allclose(softmax(np.log(np.array([1.0, 2.0, 5.0]))), [0.125, 0.25, 0.625])


LARGE = 9000
"""A vocabulary that is large enough to be chosen from without computing every token's noise."""


@given(
    st.integers(0, 2**32),
    st.sampled_from((0.01, 0.3, 3.0, 30.0)),
    st.sampled_from((np.float16, np.float32, np.float64)),
    st.sampled_from((1e-6, 0.3, 0.7, 1.0, 2.5)),
    st.sampled_from((1.0, 0.95, 0.5, 1e-9)),
    st.sampled_from((0.0, 0.1, 1.0)),
    st.sampled_from(("normal", "steps", "masked", "peak", "all alike")),
    st.integers(0, 1 << 40),
)
def test_a_choice_is_the_same_without_the_noise_of_those_ruled_out(
    seed: int,
    spread: float,
    dtype: type[np.floating[Any]],
    temperature: float,
    top_p: float,
    min_p: float,
    shape: str,
    position: int,
) -> None:
    row = np.random.default_rng(seed).standard_normal(LARGE) * spread
    if shape == "steps":  # many ties
        row = np.round(row)
    elif shape == "masked":
        row[: LARGE - 3] = -np.inf
    elif shape == "peak":
        row[seed % LARGE] = 40 * spread
    elif shape == "all alike":
        row[:] = 1.5
    params = SamplingParams(temperature, top_p=top_p, min_p=min_p)
    found = choose(row.astype(dtype), params, seed, position)
    assert found == plainly(row.astype(dtype), params, seed, position)
