"""The league has every scheme, its intervals hold, and energy is what the model says."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.core import schemes
from airdraft.errors import BadParameterError
from airdraft.lab import energy
from airdraft.lab.energy import EnergyModel, Used, capacity_bps
from airdraft.lab.record import synthetic
from airdraft.lab.results import EXACT, HELPED
from airdraft.lab.virtual import league as lab
from airdraft.lab.virtual.league_page import blocks, draw
from airdraft.lab.virtual.luck import Luck
from airdraft.link.const import ConstLink
from airdraft.link.presets import preset

RECORDING = synthetic(0.8, 3, 16, 3, 500)
LUCKS = {
    spec: [
        Luck([0.8] * n, [0.4] * n, [20] * n, [100 if spec.mass == 1 else 50] * n)
        for n in (len(text.tokens) for text in RECORDING.texts)
    ]
    for spec in lab.varied(RECORDING.vocab_size)
}
OVER = [lab.Track("const", preset(lab.LINKS["const"]), 5e6, 1e8)]
TRACE = "time_s,uplink_mbps,rtt_ms\n0,5,30\n2,8,30\n4,8,30\n"


def test_every_scheme_enters_by_its_traits(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = [each.label for each in lab.entrants()]
    assert labels == [*EXACT, *lab.VARIED, *HELPED, "auto"]
    monkeypatch.setitem(schemes.SCHEMES, "newcomer", schemes.SCHEMES[schemes.COUPLED])
    entered = {each.label: each for each in lab.entrants()}
    assert entered["newcomer"].lengths == lab.LENGTHS


def test_the_links_are_the_presets_and_the_traces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(energy, "PROBE_S", 3.0)
    path = tmp_path / "a" / "b" / "trace.csv"
    path.parent.mkdir(parents=True)
    path.write_text(TRACE)
    over = lab.tracks([path])
    names = [track.name for track in over]
    assert len(names) == 3 + 2 * 4 + 1
    assert names[:3] == ["const", "markov2", "rayleigh"]
    assert {f"nr {snr} dB, {grant}" for snr in (0, 5, 10, 20) for grant in ("request", "configured")} < set(names)
    assert names[-1] == "trace a/b/trace.csv"
    full = {track.name: track.uplink_bps for track in over}
    assert full["const"] == pytest.approx(5e6, rel=0.01)
    assert full["markov2"] == pytest.approx(4e6, rel=0.25)
    assert full["nr 0 dB, request"] < full["nr 20 dB, request"]
    with pytest.raises(BadParameterError, match="twice"):
        lab.tracks([path, path])


def test_a_link_without_a_limit_costs_the_cell_nothing() -> None:
    assert capacity_bps(ConstLink(math.inf, math.inf, 0.0).uplink()) == math.inf


@given(st.lists(st.tuples(st.integers(1, 200), st.floats(0.1, 50)), min_size=1, max_size=12))
def test_an_interval_lies_among_the_texts(texts: list[tuple[int, float]]) -> None:
    tokens, seconds = zip(*texts, strict=True)
    low, high = lab.interval(tokens, seconds)
    speeds = [count / took for count, took in texts]
    assert min(speeds) * (1 - 1e-9) <= low <= high <= max(speeds) * (1 + 1e-9)
    assert (low, high) == lab.interval(tokens, seconds)  # by its seed


def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Texts of 2 kinds: the speed of the whole population is known."""
    import numpy as np

    rng, held = np.random.default_rng(5), 0
    for trial in range(200):
        seconds = rng.choice([1.0, 3.0], size=24)
        low, high = lab.interval([30] * 24, seconds.tolist(), seed=trial)
        held += low <= 15.0 <= high
    assert 0.88 <= held / 200 <= 1


def test_energy_is_the_models_sum() -> None:
    model = EnergyModel()
    nothing = Used(0, 0, 0, 0, 0, 1e6, 1e6)
    assert model.joules(nothing).total == 0

    def spent(**changes: float) -> tuple[float, float, float]:
        found = model.joules(Used(**{**vars(nothing), **changes}))
        return found.device, found.cell, found.edge

    assert spent(draft_s=2) == (8, 0, 0)
    assert spent(target_s=4) == (0, 0, 4 * 300 / 8)
    assert spent(connected_s=10) == (pytest.approx(12.8804), 0, 0)
    assert spent(uplink_bits=1e6) == (pytest.approx(0.43839), pytest.approx(2 * 56 / 2), 0)
    assert spent(downlink_bits=1e6) == (pytest.approx(0.05197), pytest.approx(2 * (56 / 2 + 2.6 * 6.3)), 0)
    assert model.alone(0.015).total == pytest.approx(0.06)


@pytest.fixture(scope="module")
def rows() -> list[lab.LeagueRow]:
    """Everything over one link."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lab, "LENGTHS", (None, 2))
        return lab.league(RECORDING, LUCKS, OVER)


def test_rows_are_exact_and_complete(rows: list[lab.LeagueRow]) -> None:
    assert [row.scheme for row in rows] == [*EXACT, *lab.VARIED, *HELPED, "auto", "device"]
    assert not lab.unheld(rows)
    for row in rows:
        assert row.low <= row.tokens_per_s <= row.high
        assert row.joule_per_token == pytest.approx(row.device_joule + row.cell_joule + row.edge_joule)
    by_name = {row.scheme: row for row in rows}
    assert by_name["device"].uplink_bits_per_token == by_name["device"].edge_joule == 0
    assert by_name["dense"].uplink_bits_per_token > by_name["topk"].uplink_bits_per_token
    assert by_name["topk/several"].edge_joule < by_name["topk"].edge_joule  # fewer forwards
    assert by_name["lattice/conformal"].uplink_bits_per_token < by_name["lattice"].uplink_bits_per_token
    assert not by_name["lattice/ladder"].published
    assert by_name["dense"].cell_joule > by_name["coupled"].cell_joule
    assert by_name["coupled"].edge_joule < by_name["server"].edge_joule  # fewer forwards
    record = json.loads(json.dumps(lab.record_of(RECORDING, OVER, rows, EnergyModel())))
    wanted = {"scheme", "link", "tokens_per_s", "low", "high", "uplink_bits_per_token", "joule_per_token"}
    assert wanted <= set(record["rows"][0])
    made = blocks(record, rows, str(EnergyModel()))
    assert set(made) == {"conclusion", "league", "speeds", "uplinks", "energy"}
    assert "| const | 5.0 | `" in made["league"]


@pytest.mark.slow
def test_figures_are_drawn(rows: list[lab.LeagueRow], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert [path.name for path in draw(rows, ["const"], "tables", tmp_path)] == ["league.svg", "league-energy.svg"]
