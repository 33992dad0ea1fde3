"""Probing: a link of known delay and rates, exactly where answers are computed, loosely over real sockets."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.core.events import Echo
from airdraft.device import probe
from airdraft.device.probe import Pinger, measure
from airdraft.edge.server import EdgeServer
from airdraft.errors import LinkError
from airdraft.link.const import ConstLink
from airdraft.link.relay import Relay
from airdraft.models.base import OneByOne

from ..edge.loopback import HOST, TOKENIZER, VOCAB, Table, device, request, run, serving, truth, write

FRAME = 14
"""Bytes of a ping, roughly, around its filler."""


class Linear:
    """Answers pings as an ideal link would, late by `late_s` in turn, and keeps what was asked."""

    def __init__(self, rtt_s: float, up_bps: float, down_bps: float, late_s: tuple[float, ...] = (0.0,)) -> None:
        self.asked: list[tuple[int, int]] = []
        self._rtt_s, self._up_bps, self._down_bps, self._late_s = rtt_s, up_bps, down_bps, late_s

    async def __call__(self, filler: int, want: int) -> Echo:
        late_s = self._late_s[len(self.asked) % len(self._late_s)]
        self.asked.append((filler, want))
        out, back = FRAME + filler, FRAME + want
        seconds = self._rtt_s + 8 * out / self._up_bps + 8 * back / self._down_bps + late_s
        return Echo(seconds, out, back)


RATES = st.floats(1e5, 5e8)


@given(rtt_s=st.floats(0, 0.5), up_bps=RATES, down_bps=RATES)
def test_an_ideal_link_is_measured_as_it_is(rtt_s: float, up_bps: float, down_bps: float) -> None:
    found = asyncio.run(measure(Linear(rtt_s, up_bps, down_bps), 1 << 18, 1 << 16))
    framed_s = 8 * FRAME * (1 / up_bps + 1 / down_bps)
    assert found == pytest.approx((rtt_s + framed_s, up_bps, down_bps), rel=1e-6)


def test_an_edge_that_gives_back_less_than_is_asked_for_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "PATIENCE_S", 0.1)

    async def main() -> None:
        pinger = Pinger(lambda filler, want: pinger.take(Echo(0.01, FRAME + filler, FRAME)), AssertionError)
        async with pinger.turn:
            assert (await pinger.ask(100, 0)).bytes_out == FRAME + 100
            with pytest.raises(LinkError, match=r"did not answer a ping of 0 bytes with 1024 within 0.1 s"):
                await pinger.ask(0, 1024)

    asyncio.run(main())


def test_a_link_without_limits_has_none() -> None:
    link = Linear(0.02, math.inf, math.inf)
    assert asyncio.run(measure(link, 1 << 18, 1 << 16)) == (0.02, math.inf, math.inf)
    assert max(link.asked) == (1 << 18, 0)
    assert max(want for _, want in link.asked) == 1 << 16


@pytest.mark.parametrize(("rate_bps", "most"), [(1e5, 1 << 10), (1e6, 1 << 13), (1e7, 1 << 16)])
def test_a_slow_link_is_asked_for_no_more_than_tells(rate_bps: float, most: int) -> None:
    link = Linear(0.05, rate_bps, rate_bps)
    asyncio.run(measure(link, 1 << 18, 1 << 16))
    assert max(filler for filler, _ in link.asked) == max(want for _, want in link.asked) == most


def test_pings_that_are_late_in_turn_move_no_median() -> None:
    late_s = (0.0, 0.004, 0.002, 0.001, 0.003)
    rtt_s, up_bps, down_bps = asyncio.run(measure(Linear(0.02, 5e6, 2e7, late_s), 1 << 18, 1 << 16))
    assert rtt_s == pytest.approx(0.022, abs=1e-4)
    assert up_bps == pytest.approx(5e6, rel=0.1)
    assert down_bps == pytest.approx(2e7, rel=0.1)


@pytest.mark.parametrize(("up_mbps", "down_mbps", "rtt_s"), [(1, 4, 0.03), (20, 10, 0.01)])
def test_an_emulated_link(up_mbps: float, down_mbps: float, rtt_s: float) -> None:
    """A busy machine delays pings, and makes a link look slow. It gets other chances; what is wrong stays so."""

    async def main() -> bool:
        async with EdgeServer(OneByOne(Table(1, seconds=0.005)), TOKENIZER, VOCAB) as server:
            await server.start(HOST, 0)
            model = ConstLink(up_mbps * 1e6, down_mbps * 1e6, rtt_s)
            async with (
                await Relay.start(model, HOST, 0, HOST, server.port) as relay,
                await device(f"ws://{HOST}:{relay.port}", Table(1, 2)) as client,
            ):
                found = await client.probe()
        assert found.rtt_s >= rtt_s
        assert found.verify_s >= 0.005
        return (
            found.rtt_s < rtt_s + 0.05
            and 0.4 * up_mbps * 1e6 < found.uplink_bps < 2 * up_mbps * 1e6
            and 0.4 * down_mbps * 1e6 < found.downlink_bps < 2 * down_mbps * 1e6
            and found.verify_s < 0.1
        )

    assert any(run(main) for _ in range(20))


def test_texts_are_written_before_beside_and_after_a_probe() -> None:
    async def main() -> None:
        target, draft = Table(1, eos_ids=()), Table(1, 2, eos_ids=())
        asked = request("stream", max_tokens=60)
        async with serving(target) as url, await device(url, draft) as client:
            beside = asyncio.create_task(write(client, asked))
            first, second = await asyncio.gather(client.probe(), client.probe())
            assert await beside == truth(target, asked)
            assert min(first.verify_s, second.verify_s) > 0
            forwards = target.forwards
            await client.probe()
            assert target.forwards == forwards  # the edge knew how fast it is
            assert await write(client, asked) == truth(target, asked)

    run(main)


def test_an_edge_that_goes_away_amid_a_probe() -> None:
    async def main() -> None:
        async with EdgeServer(OneByOne(Table(1)), TOKENIZER, VOCAB) as server:
            await server.start(HOST, 0)
            model = ConstLink(1e5, 1e5, 0.05)
            async with (
                await Relay.start(model, HOST, 0, HOST, server.port) as relay,
                await device(f"ws://{HOST}:{relay.port}", Table(1, 2)) as client,
            ):
                probing = asyncio.create_task(client.probe())
                await asyncio.sleep(0.1)
                await server.close()
                with pytest.raises(LinkError, match="went away"):
                    await probing
                with pytest.raises(LinkError):
                    await client.probe()

    run(main)
