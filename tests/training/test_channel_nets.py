"""Networks for one task learn, say what they are in their graphs, and compute there what they do in torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from airdraft.channel import nets  # noqa: E402
from airdraft.channel.bench import Seen  # noqa: E402
from airdraft.errors import ModelError  # noqa: E402
from training import channel_export, channel_masks, channel_nets, runtime  # noqa: E402
from training.channel_4cast import delays  # noqa: E402
from training.channel_mixture import Mixture, filtered, gram  # noqa: E402
from training.channel_model import ChannelModel, Shape  # noqa: E402

from .ticks import ticking  # noqa: E402


@pytest.mark.parametrize("net", channel_nets.NETS, ids=lambda net: net.name)
def test_a_graph_computes_what_its_network_does_and_says_what_it_is(net: channel_nets.Net, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = net.make(Shape())
    for each in model.parameters():
        torch.nn.init.normal_(each, std=0.05)
    channel_nets.write(net, model, {"seen": 640.0, "spent": 90.0}, tmp_path / f"{net.name}.onnx")
    (found,) = nets.read(tmp_path)
    assert (found.about.tasks, found.about.channels, found.about.minutes) == ((net.task,), 640, 1.5)
    assert found.about.parameters == sum(each.numel() for each in model.parameters())
    observed, _, snr_db = next(channel_masks.batches(Shape(), 1, 3, 0, channel_nets.masked(net.task)))
    seen = (observed[0, :, :, 0] + 1j * observed[0, :, :, 1]).numpy()
    values = found.method(Seen(seen, channel_nets.comb(Shape(), net.task), float(snr_db[0])))
    with torch.no_grad():
        wanted = model(observed, snr_db)[0].numpy()
    np.testing.assert_allclose(values, wanted[:, :, 0] + 1j * wanted[:, :, 1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("net", [net for net in channel_nets.NETS if net.make is not channel_nets.Alone])
def test_a_network_looks_at_nothing_but_what_its_task_shows(net: channel_nets.Net) -> None:
    torch.manual_seed(0)
    shape = Shape(antennas=1, patch=(4, 8, 1))
    model, mask = net.make(shape), channel_nets.masked(net.task)(shape, np.random.default_rng(0))
    observed = torch.randn(2, 40, 32, 3, 1)
    observed[:, :, :, 2] = 1.0
    hidden = torch.from_numpy(mask)[None, :, :, None].float()
    assert 0 < hidden.mean() < 1
    assert torch.equal(model(observed, torch.zeros(2))[:, 20:], model(observed * hidden, torch.zeros(2))[:, 20:])


def test_training_goes_on_and_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticking(monkeypatch, 30)
    net = replace(channel_nets.NETS[0], batch=16)
    first = channel_nets.train(net, tmp_path, 3 / 60)
    then = channel_nets.train(net, tmp_path, 8 / 60)
    assert then["seen"] > first["seen"] > 0
    rows = runtime.Log(tmp_path / f"{net.name}.jsonl").rows()
    assert rows[-1]["db"] < min(rows[0]["db"], -3.0)


def test_complex_parts_are_complex_products() -> None:
    torch.manual_seed(0)
    rows = torch.randn(2, 3, 5, dtype=torch.complex64)
    real, imaginary = gram(torch.stack([rows.real, rows.imag], 1))
    assert torch.allclose(torch.complex(real, imaginary), rows @ rows.mH, atol=1e-5)
    filters = torch.randn(2, 4, 6, 3, dtype=torch.complex64)
    values = torch.randn(2, 1, 3, 5, dtype=torch.complex64)
    found = filtered(torch.stack([filters.real, filters.imag], 2), torch.stack([values.real, values.imag], 2))
    assert torch.allclose(torch.complex(found[:, :, 0], found[:, :, 1]), filters @ values, atol=1e-5)
    parts = torch.cat([rows.real, rows.imag], 2) @ delays(5)
    wanted = torch.fft.ifft(rows, norm="ortho")
    assert torch.allclose(parts, torch.cat([wanted.real, wanted.imag], 2), atol=1e-5)


def test_a_turned_channel_gives_a_turned_estimate() -> None:
    torch.manual_seed(0)
    model = Mixture(Shape(), channel_nets.comb(Shape(), "predict"))
    observed, _, snr_db = next(channel_masks.batches(Shape(), 2, 3, 0, channel_nets.masked("predict")))
    turned = torch.stack([-observed[:, :, :, 1], observed[:, :, :, 0], observed[:, :, :, 2]], 3)
    found, again = model(observed, snr_db), model(turned, snr_db)
    assert torch.allclose(again[:, :, :, 0], -found[:, :, :, 1], atol=1e-4)
    assert torch.allclose(again[:, :, :, 1], found[:, :, :, 0], atol=1e-4)


def test_folders_without_networks_are_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no network"):
        nets.read(tmp_path)
    channel_export.export(ChannelModel(Shape()), tmp_path / "channel.onnx")
    with pytest.raises(ModelError, match="does not say what it is for"):
        nets.read(tmp_path)
