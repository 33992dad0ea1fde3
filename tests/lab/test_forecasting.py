"""What forecasts are worth: over a link with outages drafts are saved, the text is the same, and scores are right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from airdraft.cli import options
from airdraft.control.forecast import HORIZONS_S, LinkSample
from airdraft.errors import BadParameterError
from airdraft.lab.record import synthetic
from airdraft.lab.virtual.forecasting import NONE, ORACLE, cases, names_of, score, verdicts, weigh


def written(path: Path, *steps: tuple[float, float]) -> Path:
    path.write_text("time_s,uplink_mbps\n" + "".join(f"{at:g},{mbps:g}\n" for at, mbps in steps))
    return path


@pytest.mark.slow
def test_outages_cost_fewer_drafts_in_vain_and_no_speed(tmp_path: Path) -> None:
    steps = [(2.0 * at + after, mbps) for at in range(6) for after, mbps in ((0.0, 10.0), (1.2, 0.0))]
    case = cases([str(written(tmp_path / "up.csv", *steps))], 30.0, 15.0, 30.0, 10.0)[0]
    found = weigh(synthetic(0.8, 3, 64, 1, 4096), case, ["ewma", "ridge", ORACLE])
    assert found.outage == pytest.approx(0.4, abs=0.02)
    assert [row.forecast for row in found.rows] == [NONE, "ewma", "ridge", ORACLE]
    assert all(row.exact for row in found.rows)
    found_of = {verdict["forecast"]: verdict for verdict in verdicts([found])}
    for verdict in found_of.values():
        assert verdict["worst_speed"] > 0.98
        assert verdict["saved"] > 0.1
    assert all(found_of[name]["saved"] > 0.8 * found_of[ORACLE]["saved"] for name in ("ewma", "ridge"))


@pytest.mark.slow
def test_a_modem_that_measures_the_channel_saves_drafts_over_a_cell_with_outages(tmp_path: Path) -> None:
    cell = cases(["nr:outages=2"], 20.0, 15.0, 30.0, 12.0)[0]
    trace = cases([str(written(tmp_path / "up.csv", (0.0, 10.0), (9.0, 10.0)))], 20.0, 15.0, 30.0, 2.0)[0]
    texts = synthetic(0.8, 3, 64, 1, 4096)
    found = [weigh(texts, case, ["ridge", "snr", "model"]) for case in (cell, trace)]
    assert [row.forecast for row in found[0].rows] == [NONE, "ridge", "snr", "model"]
    assert [row.forecast for row in found[1].rows] == [NONE, "ridge"]  # a recorded rate is no channel
    assert all(row.exact for each in found for row in each.rows)
    assert all(found[0].of(name).in_vain < found[0].of(NONE).in_vain for name in ("snr", "model"))
    assert [(each["forecast"], each["links"]) for each in verdicts(found)] == [("ridge", 2), ("snr", 1), ("model", 1)]


def test_what_was_down_before_the_text_began_is_no_outage_of_it(tmp_path: Path) -> None:
    late = written(tmp_path / "late.csv", (0.0, 0.0), (0.6, 10.0), (9.0, 10.0))
    found = weigh(synthetic(0.8, 3, 64, 1, 4096), cases([str(late)], 30.0, 15.0, 30.0, 3.0)[0], [])
    assert found.outage == 0.0


def test_scores_know_a_link_that_never_changes_from_one_that_does() -> None:
    calm = score("ewma", [LinkSample(False, 0.02, 1e7)] * 200)
    assert [each.horizon_s for each in calm] == list(HORIZONS_S)
    assert all(each.rate_off == pytest.approx(1.0) and each.constant == 0.0 for each in calm)
    rng = np.random.default_rng(2)
    wild = score("ewma", [LinkSample(bool(rng.random() < 0.5), 0.02, 10 ** rng.uniform(5, 8)) for _ in range(400)])
    assert all(each.rate_off > 1.5 for each in wild)
    assert wild[0].brier == pytest.approx(0.25, abs=0.05)  # nobody can foresee the toss of a coin


def test_bad_names_and_numbers_are_refused(tmp_path: Path) -> None:
    assert names_of("all") == ["ewma", "ridge", "snr", "guard", "model", "oracle"]
    with pytest.raises(
        BadParameterError, match="no forecaster 'crystal'; give one of ewma, ridge, snr, guard, model, oracle, or all"
    ):
        names_of("ewma,crystal")
    with pytest.raises(
        BadParameterError, match="--forecast model needs what a modem measures of the channel; give --csi FILE"
    ):
        options.forecast("model")
    with pytest.raises(BadParameterError, match="give none, ewma, ridge, or with --csi FILE snr, guard, model"):
        options.forecast("crystal")
    with pytest.raises(BadParameterError, match="no link 'wires'"):
        cases(["wires"], 20.0, 15.0, 30.0, 10.0)
    with pytest.raises(BadParameterError, match="cannot be read"):
        cases([str(tmp_path / "none.csv")], 20.0, 15.0, 30.0, 10.0)
    with pytest.raises(BadParameterError, match="seconds is nan"):
        cases(["nr"], 20.0, 15.0, 30.0, float("nan"))
