"""Links by name."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from airdraft.errors import BadParameterError
from airdraft.link.base import LinkModel
from airdraft.link.const import ConstLink
from airdraft.link.markov2 import Markov2Link
from airdraft.link.nr import NrLink
from airdraft.link.presets import KEYS, OAI, PRESETS, listing, preset
from airdraft.link.rayleigh import RayleighLink
from airdraft.link.trace import TraceLink


@pytest.mark.parametrize(
    ("text", "link"),
    [
        ("const", ConstLink(math.inf, math.inf, 0.0)),
        ("const:rtt=20,up=10,down=100", ConstLink(10e6, 100e6, 0.02)),
        ("const:header=0", ConstLink(math.inf, math.inf, 0.0, header_bytes=0)),
        ("markov2", Markov2Link()),
        ("markov2:block=50,p=0.1,seed=7", Markov2Link(block_s=0.05, switch_probability=0.1, seed=7)),
        ("rayleigh:snr=12,bandwidth=10", RayleighLink(snr_db=12.0, bandwidth_hz=10e6)),
        ("nr:scenario=indoor-los,grant=configured", NrLink(scenario="indoor-los", grant="configured")),
        ("nr:tdd=FDD,core=5", NrLink(tdd="FDD", core_s=0.005)),
        ("nr-oai", OAI),
        ("dssd-20ms-50mbps", ConstLink(50e6, 50e6, 0.02)),
        ("dssd-0ms-100mbps:rtt=5", ConstLink(100e6, 100e6, 0.005)),
    ],
)
def test_a_text_names_a_link(text: str, link: LinkModel) -> None:
    assert preset(text) == link


def test_a_trace_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a,b=c.list"
    path.write_text("Run 1\n1,2\nRun 2\n3,4\n", encoding="utf-8")
    link = preset(f"trace:{path},run=2,rtt=50,end=hold,down=7")
    assert isinstance(link, TraceLink)
    assert link.run.uplink_bps.values == (3e6, 4e6)
    assert (link.rtt_s, link.downlink_bps, link.repeat) == (0.05, 7e6, False)
    assert preset(f"trace:{path}").uplink().send(0.0, 0) == 0.01


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nope", "no link 'nope': give one of const, markov2, rayleigh, nr, nr-oai, dssd-0ms-10mbps"),
        ("", "no link ''"),
        ("const:speed=3", "no key 'speed' in the link 'const:speed=3': give one of up, down, rtt, header"),
        ("const:rtt", "rtt is '' in the link"),
        ("const:rtt=5,rtt=6", "rtt is given twice"),
        ("const:rtt=nan", "rtt_s is nan: give"),
        ("const:up=0", "the link 'const:up=0': uplink_bps is 0.0: give"),
        ("const:header=1.5", "header is '1.5' in the link 'const:header=1.5': give a whole number"),
        ("const:header=-1", "header_bytes is -1: give"),
        ("markov2:p=1.5", "switch_probability is 1.5: give a probability from 0 to 1"),
        ("rayleigh:coherence=0", "coherence_s is 0.0: give"),
        ("rayleigh:seed=-1", "seed is -1: give 0 or more"),
        ("nr:scenario=moon", "scenario is 'moon' in the link 'nr:scenario=moon': give one of indoor-los"),
        ("nr:tdd=DDD", "tdd is 'DDD': give FDD"),
        ("nr:tdd=", "tdd is '': give FDD"),
        ("nr:distance=5000", "the uplink has a mean SNR of"),
        ("trace:nowhere.csv", "the trace nowhere.csv cannot be read"),
    ],
)
def test_a_mistake_is_told_with_its_remedy(text: str, words: str) -> None:
    with pytest.raises(BadParameterError) as refused:
        preset(text)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_run_that_the_file_lacks(tmp_path: Path) -> None:
    path = tmp_path / "one.list"
    path.write_text("Run 1\n1,2\n", encoding="utf-8")
    for number in (0, 2):
        with pytest.raises(BadParameterError, match="the file has runs 1 to 1"):
            preset(f"trace:{path},run={number}")


def test_the_listing_has_every_name_and_key() -> None:
    listed = listing()
    for name in PRESETS:
        assert f"\n{name} " in f"\n{listed}"
    for keys in KEYS.values():
        for key, meaning in keys.items():
            assert f"  {key} " in listed
            assert meaning.what in listed
