"""`lattice`: the bits of the formula, and bodies that no honest device sends."""

from __future__ import annotations

import math

import numpy as np
import pytest

from airdraft.core import schemes
from airdraft.core.bits import BitWriter
from airdraft.core.law import Law, Place
from airdraft.core.messages import SchemeSpec
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams
from airdraft.core.schemes import DEVICE, EDGE, Drafts
from airdraft.core.schemes.base import check_length
from airdraft.core.schemes.lattice import MOST_BITS
from airdraft.errors import BadParameterError, RemoteProtocolError
from airdraft.sim.conformance import TableModel
from airdraft.sim.pair import Pair


def made(vocab: int, k: int, resolution: int, side: int = DEVICE) -> schemes.Scheme:
    return schemes.make(SchemeSpec("lattice", k=k, resolution=resolution), Law(SamplingParams(), 1, vocab), side)


def bits(count: int) -> int:
    """⌈log2 count⌉, in whole numbers."""
    return (count - 1).bit_length()


@pytest.mark.parametrize(("resolution", "known"), [(240, 1334), (720, 2925)])
def test_a_whole_vocabulary_takes_the_bits_of_quantize_and_sample(resolution: int, known: int) -> None:
    """⌈log2 C(ℓ+V-1, V-1)⌉ for the distribution, and the token's id."""
    formula = bits(math.comb(resolution + 4095, 4095))
    assert formula == known
    device, edge = made(4096, 4096, resolution), made(4096, 4096, resolution, EDGE)
    assert device.draft_bits == formula + 12
    rng = np.random.default_rng(0)
    drafts = Drafts(tuple(device.draw(rng.normal(0, 3, 4096).astype(np.float32), Place(at)) for at in range(8)))
    body = device.encode(drafts)
    assert len(body) == formula + 12  # eight drafts
    assert [draft.token for draft in edge.decode(8, body).said] == [draft.token for draft in drafts.said]


@pytest.mark.parametrize(("vocab", "k", "resolution"), [(32000, 8, 100), (32000, 32, 100), (152_000, 64, 240)])
def test_a_sparse_one_takes_the_bits_of_sqs(vocab: int, k: int, resolution: int) -> None:
    formula = bits(math.comb(vocab, k)) + bits(math.comb(resolution + k - 1, k - 1))
    device = made(vocab, k, resolution)
    assert device.draft_bits == formula + bits(k)
    row = np.random.default_rng(0).normal(0, 3, vocab).astype(np.float32)
    assert len(device.encode(Drafts((device.draw(row, Place(1)),)))) == -(-device.draft_bits // 8)


@pytest.mark.parametrize(("k", "resolution"), [(152_000, 720), (1 << 62, 300), (76_000, 1), (5000, 240), (900, 1)])
def test_what_would_take_long_to_decode_is_refused_before_anything_is_computed(k: int, resolution: int) -> None:
    with pytest.raises(BadParameterError, match=f"more than {MOST_BITS} bits with 152000 tokens; give a smaller k"):
        made(152_000, k, resolution)


def test_a_whole_vocabulary_of_152_000_is_taken_at_a_coarse_resolution() -> None:
    device, edge = made(152_000, 1 << 62, 240), made(152_000, 1 << 62, 240, EDGE)
    row = np.random.default_rng(0).normal(0, 3, 152_000).astype(np.float32)
    drafts = Drafts((device.draw(row, Place(1)),))
    assert edge.decode(1, device.encode(drafts)).tokens == drafts.tokens


@pytest.mark.parametrize("resolution", [0, -1, 1025, 1 << 40])
def test_a_resolution_out_of_range_is_refused_under_every_scheme(resolution: int) -> None:
    with pytest.raises(BadParameterError, match=f"resolution is {resolution}"):
        schemes.make(SchemeSpec("coupled", resolution=resolution), Law(SamplingParams(), 1, 5), DEVICE)


@pytest.mark.parametrize(
    ("numbers", "what"),
    [
        ((10, 0, 0), "beyond the last"),  # C(5, 3) sets
        ((0, 45, 0), "beyond the last"),  # C(10, 2) points
        ((0, 0, 3), "beyond the last"),
        ((0, 0, 1), "probability 0"),  # all units on the first id
    ],
)
def test_a_malformed_distribution_is_refused(numbers: tuple[int, int, int], what: str) -> None:
    edge = made(5, 3, 8, EDGE)
    out = BitWriter()
    for number, width in zip(numbers, (4, 6, 2), strict=True):
        out.write_long(number, width)
    with pytest.raises(RemoteProtocolError, match=what):
        edge.decode(1, out.bytes())
    assert edge.decode(1, bytes(2)).tokens == (0,)


def test_a_round_is_no_longer_than_an_edge_decodes_at_once() -> None:
    """Longer ones would hold up everybody's texts: the largest options take 5 ms a draft."""
    context, row = Law(SamplingParams(), 1, 4096), np.random.default_rng(0).normal(0, 3, 4096).astype(np.float32)
    spec = SchemeSpec("lattice", k=4096, resolution=720)
    device = schemes.make(spec, context, DEVICE)
    most = int(device.traits.body_bits) // device.draft_bits
    assert most == 11
    drafts = Drafts(tuple(device.draw(row, Place(at)) for at in range(most + 1)))
    check_length(device, most, device.encode(Drafts(drafts.said[:most])))
    with pytest.raises(RemoteProtocolError, match="too long"):
        check_length(device, most + 1, device.encode(drafts))


def test_a_device_drafts_no_longer_rounds() -> None:
    row = np.random.default_rng(0).normal(0, 3, 4096).astype(np.float32)
    model = TableModel(lambda _: row, 4096, 512, ())
    spec = SchemeSpec("lattice", k=4096, resolution=720)
    text = Pair(model, model).write(Request((1, 2), spec, SamplingParams(), 1, 40, 32))
    assert text.reason == "length"
    assert text.counts.drafted / text.counts.rounds > 6
    assert text.counts.drafted <= 11 * text.counts.rounds
