"""The channel model learns, goes on from its checkpoint, and is the same as an ONNX graph."""

from __future__ import annotations

import json
import subprocess
import sys
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
from training import channel, channel_card, channel_export, channel_masks, channel_recorded  # noqa: E402
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


def places(path: Path, channels: int, slots: int) -> None:
    """Write channels each of whose values says its channel and slot, by its phase."""
    where = np.arange(channels)[:, None] * slots + np.arange(slots)
    values = np.exp(2j * np.pi * where / where.size)[..., None, None] * np.ones((8, 4))
    np.save(path, (1e-9 * values).astype(np.complex64))


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


@pytest.mark.parametrize(("channels", "slots", "held"), [(1, 40, 8), (20, 9, 18)])
def test_recorded_channels_are_learned_from_and_others_held_out(
    channels: int, slots: int, held: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places(tmp_path / "own.npy", channels, slots)
    recorded = channel_recorded.read([tmp_path / "own.npy"], "ntfa", None, SMALL)
    seen = []
    for source in recorded:
        drawn = source(SMALL, 0, 0)
        windows = np.stack([next(drawn)[0] for _ in range(200)])
        np.testing.assert_allclose(np.abs(windows), 1, rtol=1e-5)
        seen.append(set((np.angle(windows[:, :, 0, 0]) / (2 * np.pi) % 1 * channels * slots).round().ravel()))
    assert not seen[0] & seen[1]
    assert max(seen[0]) < min(seen[1])
    assert len(seen[1]) == held
    ticking(monkeypatch, 60)
    model, said = channel.train(SMALL, tmp_path, 2 / 60, 16, 3e-3, recorded)
    batch = next(channel_masks.batches(SMALL, 64, 1, 0, source=recorded[1]))
    before, after = (channel.held_out(each, batch)["unknown_db"] for each in (ChannelModel(SMALL), model))
    assert after < before - 0.5
    facts = torch.load(tmp_path / "channel.state", weights_only=True)["facts"]
    assert facts["recorded"] == facts["seen"] == said.channels


def test_files_that_are_too_small_or_without_power_are_refused(tmp_path: Path) -> None:
    places(tmp_path / "short.npy", 1, 15)
    with pytest.raises(UserError, match="1 channel of 16 slots"):
        channel_recorded.read([tmp_path / "short.npy"], "ntfa", None, SMALL)
    values = np.zeros((2, 8, 8, 4), np.complex64)
    values[1] = 1
    np.save(tmp_path / "silent.npy", values)
    learned, _ = channel_recorded.read([tmp_path / "silent.npy"], "ntfa", None, SMALL)
    with pytest.raises(UserError, match="without power"):
        next(learned(SMALL, 0, 0))


def ended(monkeypatch: pytest.MonkeyPatch, *given: str) -> object:
    """Run the command here, with the exit code that it ends with."""
    monkeypatch.setattr(sys, "argv", ["training.channel", *given])
    with pytest.raises(SystemExit) as raised:
        channel.main()
    return raised.value.code


def test_the_command_learns_from_a_file_and_refuses_in_a_line_what_it_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = np.random.default_rng(0).standard_normal((3, 44, 34, 4, 2)).astype(np.float32).view(np.complex64)[..., 0]
    np.save(tmp_path / "own.npy", values)
    work = ["--work", str(tmp_path / "work")]
    own = ["--csi", str(tmp_path / "own.npy"), "--axes", "ntfa", "--minutes", "0.0005", "--batch", "2", "--layers", "1"]
    assert ended(monkeypatch, *work, *own, "--device", "cpu") == 0
    assert LearnedChannel(tmp_path / "work" / "channel.onnx").window == (40, 32, 4)
    capsys.readouterr()
    refused = {
        "multiple of 4": ["--width", "130"],
        "no checkpoint of this model": ["--width", "32", "--layers", "1"],
        "--device is 'tpu'": ["--device", "tpu"],
        "--minutes is 0": ["--minutes", "0"],
        "of recorded channels": ["--axes", "taf"],
    }
    if not torch.cuda.is_available():
        refused["no CUDA device"] = ["--device", "cuda"]
    for said, given in refused.items():
        assert ended(monkeypatch, *work, *given) == 2, said
        printed = capsys.readouterr()
        assert said in printed.err
        assert len(printed.err.strip().splitlines()) == 1
        assert not printed.out


@pytest.mark.slow
def test_a_file_with_nan_is_refused_before_training(tmp_path: Path) -> None:
    np.save(tmp_path / "nan.npy", np.full((3, 40, 32, 4), np.nan, np.complex64))
    ran = subprocess.run(
        [sys.executable, "-m", "training.channel", "--work", tmp_path, "--csi", tmp_path / "nan.npy", "--axes", "ntfa"],
        capture_output=True, text=True, check=False, timeout=110,
    )  # fmt: skip
    assert ran.returncode == 2
    assert "without NaN" in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1


def test_a_model_that_has_seen_recorded_channels_gets_no_card(tmp_path: Path) -> None:
    np.save(tmp_path / "own.npy", np.ones((3, 40, 32, 4), np.complex64))
    recorded = channel_recorded.read([tmp_path / "own.npy"], "ntfa", None, Shape())
    channel.train(Shape(), tmp_path, 0.001, 2, 1e-3, recorded)
    with pytest.raises(UserError, match="recorded channels"):
        channel_card.write(tmp_path, None, tmp_path / "card")


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
    seen = Seen(drawn.observed(np.random.default_rng(0)), Comb(np.arange(0, 8, 2), np.arange(1, 8, 4)), 10.0)
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
    other = Seen(seen.observed[:4], seen.comb, 10.0)
    with pytest.raises(ModelError, match="this model is for"):
        LearnedChannel(tmp_path / "channel.onnx").filled(other)
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(ModelError, match="no channel model"):
        LearnedChannel(tmp_path / "text.onnx")
