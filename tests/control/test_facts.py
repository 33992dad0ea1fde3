"""Sizes are those of real messages; numbers out of range are refused by name."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from airdraft.control.facts import WEBSOCKET_DOWN_BYTES, WEBSOCKET_UP_BYTES, wire
from airdraft.core import schemes
from airdraft.core.bits import id_width
from airdraft.core.law import Law, Place
from airdraft.core.messages import Draft, SchemeSpec, Verdict, encode
from airdraft.core.policy import Facts, Mode
from airdraft.core.sampling import SamplingParams
from airdraft.errors import BadParameterError

FACTS = Facts(0.015, 0.03, 0.02, 20e6, 100e6, 0.8)


@pytest.mark.parametrize("name", ["dense", "topk", "lattice", "split", "coupled"])
@pytest.mark.parametrize("vocab_size", [400, 5000])
def test_a_packet_is_as_long_as_the_message_it_stands_for(name: str, vocab_size: int) -> None:
    device = schemes.make(SchemeSpec(name, k=8), Law(SamplingParams(), 1, vocab_size), schemes.DEVICE)
    logits = np.random.default_rng(1).normal(size=vocab_size)
    drafts = schemes.Drafts(tuple(device.draw(logits, Place(600 + at)) for at in range(4)))
    frame = encode(Draft(1, 200, 600, 600, 0xFFFFFFFF, 4, device.encode(drafts)))
    said = wire(name, vocab_size, k=8, header_bytes=40).packet_bits(4) / 8 - WEBSOCKET_UP_BYTES - 40
    assert 0 <= len(frame) - said <= 4  # long bodies take longer lengths


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("coupled", 15),
        ("stream", 15),
        ("split", 15 + 16),
        ("topk", 15 + 64 * (15 + 16)),
        ("lattice", 662 + 220 + 6),
        ("dense", 15 + 16 * 32000),
    ],
)
def test_bits_of_a_draft(name: str, bits: int) -> None:
    assert id_width(32000) == 15
    assert wire(name, 32000).draft_bits == bits


def test_an_answer_is_as_long_as_a_verdict() -> None:
    frame = encode(Verdict(1, 200, 4, 31999, 600, 0xFFFFFFFF))
    assert wire("coupled", 32000, header_bytes=0).answer_bytes == len(frame) + WEBSOCKET_DOWN_BYTES


def test_a_rejection_brings_the_row_in_single_precision() -> None:
    assert wire("split", 32000).reject_bytes == pytest.approx(32000 * 4, abs=16)
    assert wire("coupled", 32000).reject_bytes == 0


def test_headers_count_in_both_directions() -> None:
    bare, full = wire("coupled", 32000, header_bytes=0), wire("coupled", 32000, header_bytes=40)
    assert full.packet_bits(3) - bare.packet_bits(3) == full.answer_bits - bare.answer_bits == 320


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("draft_s", 0.0),
        ("verify_s", math.inf),
        ("rtt_s", -1.0),
        ("rtt_s", math.nan),
        ("uplink_bps", 0.0),
        ("downlink_bps", math.nan),
        ("acceptance", 1.1),
    ],
)
def test_facts_out_of_range(field: str, value: float) -> None:
    with pytest.raises(BadParameterError, match=f"{field} is .*; give"):
        replace(FACTS, **{field: value})


def test_modes_out_of_range() -> None:
    with pytest.raises(BadParameterError, match="draft length of coupled is -1"):
        Mode("coupled", -1)
    with pytest.raises(BadParameterError, match="race is 'often'; choose one of off, idle, always"):
        Mode("stream", 8, race="often")
    with pytest.raises(BadParameterError, match="packets of 0 and 1"):
        Mode("stream", 8, first=0)


def test_wires_out_of_range() -> None:
    with pytest.raises(BadParameterError, match="vocab-size is 1"):
        wire("coupled", 1)
    with pytest.raises(BadParameterError, match="header-bytes is -1"):
        wire("coupled", 100, header_bytes=-1)
    with pytest.raises(BadParameterError, match="scheme 'morse' is unknown"):
        wire("morse", 100)
