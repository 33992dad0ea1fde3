"""The channel model learns, goes on from its checkpoint, and is the same as an ONNX graph."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from airdraft.channel import nets  # noqa: E402
from airdraft.channel.baselines import Comb  # noqa: E402
from airdraft.channel.bench import Seen  # noqa: E402
from airdraft.channel.generate import ChannelRecipe, channels  # noqa: E402
from airdraft.channel.learned import LearnedChannel  # noqa: E402
from airdraft.errors import ModelError  # noqa: E402
from training import channel, channel_card, channel_export, channel_masks  # noqa: E402
from training.channel_model import ChannelModel, Shape  # noqa: E402
from training.errors import UserError  # noqa: E402

from .ticks import ticking  # noqa: E402

SMALL = Shape(8, 8, 4, (2, 4, 2), width=16, layers=1, heads=2)


def scrambled() -> ChannelModel:
    """A small model none of whose weights are 0, as some are before training."""
    torch.manual_seed(0)
    model = ChannelModel(SMALL)
    for each in model.parameters():
        torch.nn.init.normal_(each, std=0.2)
    return model.eval()


def test_patches_and_back_lose_nothing() -> None:
    torch.manual_seed(0)
    values, model = torch.randn(3, 8, 8, 2, 4), ChannelModel(SMALL)
    assert torch.equal(model.whole(model.patched(values)), values)


def test_an_untrained_model_is_an_average_of_what_is_observed_and_sees_nothing_else() -> None:
    observed, values, snr_db = next(channel_masks.batches(SMALL, 16, 0, 0))
    known = observed[:, :, :, 2:]
    assert (observed[:, :, :, :2] * (1 - known)).abs().max() == 0
    assert 0.05 < known.mean() < 0.9
    nothing = torch.cat([torch.zeros(1, 8, 8, 3, 4)])
    assert ChannelModel(SMALL)(nothing, torch.zeros(1))[0].abs().max() == 0
    whole = torch.cat([values, torch.ones_like(values[:, :, :, :1])], 3)
    flat = torch.cat([torch.ones(1, 8, 8, 2, 4), torch.ones(1, 8, 8, 1, 4)], 3)
    assert torch.allclose(ChannelModel(SMALL)(flat, snr_db[:1])[0], torch.ones(1, 8, 8, 2, 4), atol=1e-3)
    assert ChannelModel(SMALL)(whole, snr_db)[0].shape == values.shape


def test_training_goes_on_from_its_checkpoint_and_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticking(monkeypatch, 60)
    batch = next(channel_masks.batches(SMALL, 16, 1, 0))
    before = channel.loss_of(ChannelModel(SMALL), batch).item()
    channel.train(SMALL, tmp_path, 2 / 60, 16, 3e-3)
    state = torch.load(tmp_path / "channel.state", weights_only=True)["facts"]
    model, said = channel.train(SMALL, tmp_path, 4 / 60, 16, 3e-3)
    again = torch.load(tmp_path / "channel.state", weights_only=True)["facts"]
    assert again["step"] > state["step"] > 0
    assert again["seen"] == 16 * again["step"] == said.channels
    assert channel.loss_of(model, batch).item() < before - 0.05


def test_the_card_says_what_the_checkpoint_and_the_scores_say(tmp_path: Path) -> None:
    _, said = channel.train(Shape(), tmp_path, 0.5 / 60, 2, 1e-3)
    rows = [
        {"task": "estimate", "method": name, "snr_db": 10.0, "speed_kmh": 3.0, "horizon": 0, "nmse_db": -12.3}
        for name in (nets.LEARNED, "another")
    ]
    (tmp_path / "scores.json").write_text(json.dumps({"rows": rows}))
    channel_card.write(tmp_path, tmp_path / "scores.json", tmp_path / "card")
    card = json.loads((tmp_path / "card" / "card.json").read_text())
    assert (card["seen"], card["parameters"], card["scores"]) == (said.channels, said.parameters, rows[:1])
    assert "| pilots at 10 dB | 3 | another | -12.3 |" in (tmp_path / "card" / "README.md").read_text()
    assert nets.described(LearnedChannel(tmp_path / "card" / "channel.onnx")) == replace(
        said, minutes=pytest.approx(said.minutes, abs=1e-3)
    )
    (tmp_path / "scores.json").write_text('{"rows": []}')
    with pytest.raises(UserError, match="no row of a learned model"):
        channel_card.write(tmp_path, tmp_path / "scores.json", tmp_path / "card")
    with pytest.raises(UserError, match="no training in"):
        channel_card.write(tmp_path / "card", None, tmp_path / "card")


def test_the_graph_computes_what_the_model_does(tmp_path: Path) -> None:
    model = scrambled()
    channel_export.export(model, tmp_path / "channel.onnx")
    recipe = ChannelRecipe(("CDL-C",), slots=8, subcarriers=8, antennas=4)
    drawn = next(channels(recipe, 0))
    seen = Seen(drawn.observed(np.random.default_rng(0)), Comb(np.arange(0, 8, 2), np.arange(1, 8, 4)), 10.0, drawn)
    found = LearnedChannel(tmp_path / "channel.onnx").filled(seen)
    observed = torch.zeros(1, 8, 8, 3, 4)
    for slot in range(0, 8, 2):
        for subcarrier in (1, 5):
            at = torch.from_numpy(seen.observed[slot, subcarrier])
            observed[0, slot, subcarrier] = torch.stack([at.real, at.imag, torch.ones(4)])
    with torch.no_grad():
        wanted = model(observed, torch.tensor([10.0]))[0][0].numpy()
    np.testing.assert_allclose(found, wanted[:, :, 0] + 1j * wanted[:, :, 1], rtol=1e-3, atol=1e-4)
    _, embedding = LearnedChannel(tmp_path / "channel.onnx").run(seen.observed[None], seen.comb, np.array([10.0]))
    with torch.no_grad():
        np.testing.assert_allclose(embedding, model(observed, torch.tensor([10.0]))[1].numpy(), rtol=1e-3, atol=1e-4)
    other = Seen(seen.observed[:4], seen.comb, 10.0, drawn)
    with pytest.raises(ModelError, match="this model is for"):
        LearnedChannel(tmp_path / "channel.onnx").filled(other)
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(ModelError, match="no channel model"):
        LearnedChannel(tmp_path / "text.onnx")
