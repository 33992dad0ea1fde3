"""The choice: the fastest, but not for little, not for a moment, and no drafting in vain."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from airdraft.control import lengths
from airdraft.control.auto import Auto, Steady, preferred
from airdraft.control.facts import wire
from airdraft.control.predict import Prediction
from airdraft.core.policy import Facts, Given, Mode
from airdraft.errors import BadParameterError

NEAR = Facts(0.005, 0.03, 0.004, 20e6, 100e6, 0.8)
FAR = replace(NEAR, rtt_s=0.3)
POOR = replace(FAR, acceptance=0.05)


def test_it_takes_the_fastest() -> None:
    assert Auto(32000).choose(NEAR, 0).scheme == "stream"
    assert Auto(32000, ("server", "coupled")).choose(NEAR, 0).scheme == "coupled"
    assert Auto(32000, ("server", "coupled")).choose(FAR, 0).scheme == "server"
    assert Auto(32000, ("stream",), races=("off", "always")).choose(FAR, 0).race == "always"


def test_it_drafts_nothing_where_that_is_no_slower() -> None:
    slow_draft = replace(NEAR, draft_s=0.04)
    assert Auto(32000, ("server", "coupled")).choose(slow_draft, 0).scheme == "server"


def test_equals_are_told_by_what_the_device_spends() -> None:
    server, stream = (
        Prediction(Mode("server"), 99.5, 1, 0, 9),
        Prediction(Mode("stream", 8), 100, 1, 9, 9),
    )
    assert preferred([stream, server]) is server
    assert preferred([stream, replace(server, tokens_per_s=98)]) is stream


HELPED = replace(NEAR, edge_draft_s=0.003, acceptance=0.75, streamed=1.5)
HELPED_FAR = replace(HELPED, rtt_s=0.15)


def test_a_device_is_silent_beside_an_edge_that_drafts_unless_it_adds_something() -> None:
    slow = replace(HELPED, draft_s=0.015)
    busy = replace(HELPED, draft_s=0.01, verify_s=0.06, edge_draft_s=0.006, rtt_s=0.05)

    def soon(facts: Facts) -> str:
        auto = Auto(32000)
        return [auto.choose(facts, at).scheme for at in (0.0, 0.25)][-1]

    assert [soon(HELPED), soon(HELPED_FAR), soon(slow), soon(busy)] == ["stream", "server", "server", "server"]
    assert soon(replace(busy, beside=0.6)) == "stream"
    assert soon(replace(HELPED_FAR, edge_draft_s=0.0)) == "stream"
    assert soon(replace(HELPED_FAR, drafted=False)) == "stream"  # to find out how fast it drafts
    assert soon(replace(HELPED_FAR, streamed=None)) == "stream"  # and how often it is right


def test_beside_an_edge_that_drafts_a_text_begins_with_drafts_and_goes_by_predictions() -> None:
    auto = Auto(32000)
    assert [auto.choose(HELPED_FAR, at).scheme for at in (0.0, 0.25, 0.5, 1.0)] == ["stream", *["server"] * 3]
    assert auto.choose(HELPED, 1.25).scheme == "server"  # a change must last
    mode = auto.choose(HELPED, 1.75)
    assert mode == Auto(32000).choose(HELPED, 0)


def test_a_silent_device_tries_its_drafts_again_ever_more_rarely() -> None:
    auto = Auto(32000)
    ways = [auto.choose(HELPED_FAR, at / 4).scheme for at in range(4 * 60)]
    tries = [at / 4 for at in range(1, 4 * 60) if (ways[at - 1], ways[at]) == ("server", "stream")]
    waits = [later - sooner for sooner, later in pairwise(tries)]
    assert waits == sorted(waits)
    assert len(waits) >= 3
    assert waits[-1] > 3 * waits[0]
    assert ways.count("stream") < 12


def test_a_change_must_last() -> None:
    auto = Auto(32000, ("server", "coupled"), dwell_s=0.5)
    assert auto.choose(FAR, 0.0).scheme == "server"
    assert auto.choose(NEAR, 1.0).scheme == "server"
    assert auto.choose(NEAR, 1.4).scheme == "server"
    assert auto.choose(FAR, 1.45).scheme == "server"  # a moment only: the wait begins anew
    assert auto.choose(NEAR, 1.6).scheme == "server"
    assert auto.choose(NEAR, 2.05).scheme == "server"
    assert auto.choose(NEAR, 2.15).scheme == "coupled"


def test_little_is_not_worth_a_change() -> None:
    schemes = ("server", "coupled")
    rtts_s = [rtt_ms / 1000 for rtt_ms in range(120)]
    even = next(
        rtt_s for rtt_s in rtts_s if Auto(32000, schemes).choose(replace(NEAR, rtt_s=rtt_s), 0).scheme == "server"
    )
    for margin, after in ((0.05, "server"), (0.0, "coupled")):
        auto = Auto(32000, schemes, margin=margin, dwell_s=0.0)
        auto.choose(NEAR, 0)
        assert auto.choose(replace(NEAR, rtt_s=even), 1).scheme == "server"  # no slower, and spares the device
        assert auto.choose(replace(NEAR, rtt_s=even - 0.002), 2).scheme == after


def test_drafting_in_vain_ends_under_a_stream_too() -> None:
    auto = Auto(32000, ("server", "stream"))
    in_vain = replace(POOR, streamed=1.005)
    assert auto.choose(POOR, 0).scheme == "stream"
    assert auto.choose(replace(POOR, streamed=1.2), 1.0).scheme == "stream"  # better than anybody would think
    ways = {at: auto.choose(in_vain, at / 10).scheme for at in range(11, 600)}
    changes = [at for at in range(12, 600) if ways[at] != ways[at - 1]]
    served = [until - since for since, until in zip(changes[::2], changes[1::2], strict=False)]
    tried = [until - since for since, until in zip(changes[1::2], changes[2::2], strict=False)]
    assert ways[changes[0]] == "server"
    assert changes[0] in range(30, 33)  # two seconds in vain
    assert set(tried) <= {20, 21, 22}
    assert [each // 10 for each in served[:4]] == [2, 4, 8, 16]  # and half a second each to make up its mind


BESIDE = replace(NEAR, rtt_s=0.001, streamed=1.4)
SLOWED, SPED = replace(BESIDE, raced_s=0.04, silent_s=0.03), replace(BESIDE, raced_s=0.02, silent_s=0.03)


@pytest.mark.parametrize("edge_draft_s", [0.0, 0.003])
def test_near_an_edge_the_clock_decides_whatever_is_predicted(edge_draft_s: float) -> None:
    beside, slowed, sped = (replace(facts, edge_draft_s=edge_draft_s) for facts in (BESIDE, SLOWED, SPED))
    auto = Auto(32000)
    assert auto.choose(beside, 0.0).scheme == "stream"
    assert auto.choose(replace(beside, raced_s=0.04), 0.25).scheme == "server"  # to measure that, too
    assert auto.choose(slowed, 0.5).scheme == "server"
    assert auto.why() == "server: 25.0 tokens/s measured with drafts, 33.3 without"
    assert auto.choose(sped, 0.75).scheme == "stream"
    assert Auto(32000).choose(slowed, 0.0).scheme == "server"  # and from the next text's start
    assert Auto(32000).choose(sped, 0.0).scheme == "stream"
    equal = replace(sped, silent_s=sped.raced_s)
    assert Auto(32000).choose(equal, 0.0).scheme == "server"  # which spares the device
    assert Auto(32000).choose(replace(slowed, edge_draft_s=0.0, rtt_s=0.005), 0.0).scheme == "stream"


def test_the_clock_decides_only_between_a_race_and_server() -> None:
    assert Auto(32000, ("server", "coupled")).choose(SLOWED, 0.0).scheme == "coupled"
    assert Auto(32000, ("stream",)).choose(SLOWED, 0.0).scheme == "stream"
    assert Auto(32000, races=("off",)).choose(SLOWED, 0.0).race == "off"


def test_lengths_follow_at_once() -> None:
    auto = Auto(32000, ("coupled",))
    assert auto.choose(NEAR, 0.0).length < auto.choose(FAR, 0.1).length


def test_tk_slts_switch_is_one_row() -> None:
    for facts in (NEAR, FAR, POOR, replace(NEAR, uplink_bps=50e3), replace(NEAR, uplink_bps=200e3, acceptance=0.4)):
        switch = Auto(32000, ("server", "topk"), rounds=lengths.tk_slt, margin=0.0, dwell_s=0.0)
        speculates = lengths.TkSlt(wire("topk", 32000)).speculate(facts)
        assert (switch.choose(facts, 0).scheme == "topk") == speculates
    aware = Auto(32000, ("server", "topk"), margin=0.0, dwell_s=0.0)
    assert aware.choose(FAR, 0).scheme == "server"  # where TK-SLT's own switch says topk


def test_it_says_why() -> None:
    auto = Auto(32000)
    assert auto.why() == "nothing chosen yet"
    auto.choose(NEAR, 0)
    assert "stream" in auto.why()
    assert "with server" in auto.why()
    assert "\n" not in auto.why()


def test_given() -> None:
    undecided = Mode("topk", 0)
    assert Given(undecided).choose(NEAR, 0) is undecided
    assert Given(Mode("server")).why() == "server: as asked for"


def test_steady() -> None:
    fixed = Mode("coupled", 5)
    policy = Steady(fixed, wire("coupled", 32000))
    assert policy.choose(NEAR, 0) == policy.choose(FAR, 1) == fixed
    free = Steady(Mode("stream", race="off"), wire("stream", 32000))
    near, far = free.choose(NEAR, 0), free.choose(FAR, 1)
    assert near.race == far.race == "off"
    assert 0 < near.length < far.length
    assert Steady(Mode("topk"), wire("topk", 32000)).choose(NEAR, 0).length > 0
    assert free.why() == "stream: as asked for"


def test_mistakes() -> None:
    with pytest.raises(BadParameterError, match="nothing to choose from"):
        Auto(32000, ())
    with pytest.raises(BadParameterError, match="margin is -1"):
        Auto(32000, margin=-1)
