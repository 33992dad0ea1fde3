"""Heads find what is linear and no more, tasks have right answers, and wrong graphs and channels are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from airdraft.channel import heads, tasks
from airdraft.channel.baselines import Comb
from airdraft.channel.features import modelled, silent
from airdraft.channel.learned import SHIPPED, LearnedChannel
from airdraft.channel.untrained import untrained
from airdraft.cli.channel import channel
from airdraft.errors import ModelError

WINDOW = (40, 32, 4)


def test_a_head_finds_what_is_linear_and_leaves_noise_alone() -> None:
    rng = np.random.default_rng(0)
    features, weights = rng.standard_normal((300, 6)), rng.standard_normal((6, 2))
    head = heads.fit(features[:200], features[:200] @ weights + 3.0)
    np.testing.assert_allclose(head(features[200:]), features[200:] @ weights + 3.0, atol=0.01)
    noise = heads.fit(rng.standard_normal((40, 30)), rng.standard_normal((40, 1)))
    assert np.std(noise(rng.standard_normal((200, 30)))) < 0.5
    assert np.isfinite(heads.fit(np.ones((5, 3)), np.arange(5.0)[:, None]).weights).all()


@pytest.mark.parametrize("rows", [8, 400])
def test_a_map_is_found_from_many_rows_and_stays_where_it_started_for_few(rows: int) -> None:
    rng = np.random.default_rng(1)
    real, imaginary = rng.standard_normal((2, rows + 50, 20))
    inputs, turned = real + 1j * imaginary, np.exp(0.3j) * np.eye(20)
    found = heads.mapped(inputs[:rows], inputs[:rows] @ turned, inputs[rows:], np.eye(20))
    error = tasks.nmse_db(found, inputs[rows:] @ turned)
    at_start = tasks.nmse_db(inputs[rows:], inputs[rows:] @ turned)
    assert error < (-60 if rows == 400 else at_start + 1)


def test_beams_and_f1() -> None:
    towards = np.exp(2j * np.pi * np.arange(4) * 3 / tasks.BEAMS)
    values = np.broadcast_to(towards, (1, 5, 6, 4)).astype(np.complex64)
    assert tasks.beam_powers(values).argmax() == 3
    yes = np.array([True, True, False, False])
    assert tasks.f1(yes, yes) == 1.0
    assert tasks.f1(yes, np.array([True, False, True, False])) == 0.5


@pytest.mark.slow
@pytest.mark.timeout(600)  # many cells, on a busy machine
def test_every_task_is_scored_and_the_shipped_model_beats_an_untrained_one() -> None:
    encoders = {"pre-trained": LearnedChannel(), "untrained": LearnedChannel(untrained(SHIPPED, 0))}
    rows = tasks.measure(encoders, 100, 60)
    assert {row.task for row in rows} == {task.name for task in tasks.TASKS}
    assert {row.labels for row in rows} == {0, 4, 10, 100}
    assert all(np.isfinite(row.score) for row in rows)
    score = {(row.task, row.method): row.score for row in rows if not row.labels}
    for task in (tasks.ESTIMATE, tasks.PREDICT):
        assert score[task.name, "pre-trained, no head"] < score[task.name, "untrained, no head"] - 1
    assert tasks.table(rows).count("\n") > 20


def test_the_shipped_model_is_small_and_an_untrained_one_says_something_else() -> None:
    assert SHIPPED.stat().st_size < 8_000_000
    rng = np.random.default_rng(2)
    observed = rng.standard_normal((1, *WINDOW)).astype(np.complex64)
    comb, snr_db = Comb(np.arange(20), np.arange(32)), np.array([10.0])
    model = LearnedChannel()
    (values, embedding), (others, _) = (
        each.run(observed, comb, snr_db) for each in (model, LearnedChannel(untrained(SHIPPED, 0)))
    )
    assert values.shape == (1, *WINDOW)
    assert embedding.ndim == 2
    assert np.abs(values - others).max() > 0.1


def test_bad_channels_and_graphs_are_refused_in_a_line(tmp_path: Path) -> None:
    model, comb = LearnedChannel(), Comb(np.arange(20), np.arange(32))
    with pytest.raises(ModelError, match=r"shape \(10, 32, 4\); this model is for \(40, 32, 4\)"):
        model.run(np.zeros((1, 10, 32, 4), np.complex64), comb, np.array([0.0]))
    with pytest.raises(ModelError, match="not finite"):
        model.run(np.full((1, *WINDOW), np.nan, np.complex64), comb, np.array([0.0]))
    with pytest.raises(ModelError, match="not finite"):
        silent(np.full((20, 32, 4), np.nan, np.complex64))
    with pytest.raises(ModelError, match=r"CSI has shape \(20, 32, 2\)"):
        modelled(model)(np.zeros((20, 32, 2), np.complex64))
    (tmp_path / "text.onnx").write_text("no graph")
    for make in (LearnedChannel, lambda path: untrained(path, 0)):
        with pytest.raises(ModelError, match="no channel model"):
            make(tmp_path / "text.onnx")


@pytest.mark.slow
@pytest.mark.timeout(600)  # many cells, on a busy machine
def test_the_command_writes_tables_figures_and_json(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    page, record = tmp_path / "page.md", tmp_path / "ch.json"
    names = ("channel-estimate", "channel-predict", "channel-nets", "channel-reached", "channel-tasks")
    page.write_text("\n".join(f"<!-- {name}:begin -->\n<!-- {name}:end -->" for name in names))
    small = ["bench", "--channels", "10", "--labels", "50", "--json", str(record), "--page", str(page)]
    small += ["--figures", str(tmp_path / "figures")]
    assert CliRunner().invoke(channel, small, catch_exceptions=False).exit_code == 0
    found = json.loads(record.read_text())
    assert "learned model" in {row["method"] for row in found["rows"]}
    assert len({row["task"] for row in found["tasks"]}) == 5
    assert page.read_text().count("| learned model |") in (6, 7)  # 7 where the graph says what it is
    assert page.read_text().count("*learned model*") == 2
    assert page.read_text().count("| mixture of filters |") == 3 + 3 + 2 + 2
    assert "| pre-trained, head |" in page.read_text()
    drawn = {path.name: path.read_text() for path in (tmp_path / "figures").iterdir()}
    assert set(drawn) == {"channel.svg", "channel-nmse.svg"}
    assert all("learned model" in each for each in drawn.values())
    refused = CliRunner().invoke(channel, ["bench", "--model", str(page)])
    assert isinstance(refused.exception, ModelError)
