"""`python -m training.channel_nets`: trains networks for one task each, which the channel model is measured beside.

All learn from channels drawn as the channel model's, each for as much CPU time, and are shown what the bench shows.
They are written as ONNX graphs that say themselves what they are; `airdraft channel bench --nets` takes their folder.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from airdraft.channel import bench
from airdraft.channel.baselines import Comb
from airdraft.channel.nets import About, metadata
from training import runtime
from training.channel import CPU, HELD_OUT, SEED, Batch, on, steps
from training.channel_4cast import Forecast
from training.channel_export import export
from training.channel_fortitran import FortiTran
from training.channel_masks import Mask, batches
from training.channel_mixture import Mixture
from training.channel_model import ChannelModel, Shape
from training.errors import UserError
from training.export_onnx import OPSET
from training.steps import main as finished

FLOOR = 1e-3
"""Error below which a slot counts no more: -30 dB."""


class Alone(nn.Module):
    """The channel model for one task alone."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.model = ChannelModel(shape)

    def forward(self, observed: Tensor, snr_db: Tensor) -> Tensor:
        """See `ChannelModel.forward`: its first result."""
        return self.model(observed, snr_db)[0]


@dataclass(frozen=True)
class Net:
    """A network and what it is for."""

    name: str
    title: str
    task: str
    """`estimate` or `predict`."""
    make: Callable[[Shape], nn.Module]
    told: str
    """What it knows beside what it has learned and what is observed."""
    antennas: int
    """At once, while it is trained; 1 for a network that sees each alone."""
    batch: int
    rate: float


def comb(shape: Shape, task: str) -> Comb:
    """What the bench shows of a channel."""
    return bench.comb(task, shape.slots, shape.subcarriers)


def _mixture(task: str) -> Callable[[Shape], nn.Module]:
    return lambda shape: Mixture(shape, comb(shape, task))


NETS = (
    Net("mixture-estimate", "mixture of filters", bench.ESTIMATE, _mixture(bench.ESTIMATE), "SNR", 4, 64, 3e-3),
    Net("mixture-predict", "mixture of filters", bench.PREDICT, _mixture(bench.PREDICT), "SNR", 4, 64, 3e-3),
    Net(
        "fortitran", "AdaFortiTran's kind", bench.ESTIMATE, lambda shape: FortiTran(shape, comb(shape, bench.ESTIMATE)),
        "SNR", 1, 32, 1e-3,
    ),
    Net(
        "4cast", "CSI-4CAST's kind", bench.PREDICT, lambda shape: Forecast(shape, shape.slots // 2),
        "nothing", 1, 32, 1e-3,
    ),
    Net("alone-estimate", "our network, for this alone", bench.ESTIMATE, Alone, "SNR", 4, 32, 1.5e-3),
    Net("alone-predict", "our network, for this alone", bench.PREDICT, Alone, "SNR", 4, 32, 1.5e-3),
)  # fmt: skip


def masked(task: str) -> Mask:
    """What the bench shows, as a mask."""

    def found(shape: Shape, rng: np.random.Generator) -> NDArray[np.bool_]:
        known, at = np.zeros((shape.slots, shape.subcarriers, shape.antennas), np.bool_), comb(shape, task)
        known[np.ix_(at.slots, at.subcarriers)] = True
        return known

    return found


def slot_errors(model: nn.Module, task: str, batch: Batch) -> Tensor:
    """Error power over power in each slot that is asked for, [n, slots]."""
    observed, values, snr_db = batch
    power = values.square().mean((1, 2, 3, 4))[:, None]
    errors = (model(observed, snr_db) - values).square().mean((2, 3, 4)) / power
    return errors[:, values.shape[1] // 2 :] if task == bench.PREDICT else errors


def train(net: Net, work: Path, minutes: float, device: torch.device = CPU) -> dict[str, float]:
    """Trains a network until its budget is spent, from its last checkpoint, and writes it."""
    torch.manual_seed(SEED)
    shape = Shape(antennas=net.antennas, patch=(*Shape.patch[:2], net.antennas))
    model, mask = net.make(shape).to(device), masked(net.task)
    test = on(device, next(batches(shape, 128, SEED, HELD_OUT, mask)))

    @torch.no_grad()
    def measured() -> dict[str, float]:
        errors = slot_errors(model, net.task, test)
        return {"db": float(10 * errors.log10().mean()), "first_db": float(10 * errors[:, 0].log10().mean())}

    facts = steps(
        model, lambda first: batches(shape, net.batch, SEED, first, mask),
        lambda batch: (slot_errors(model, net.task, batch) + FLOOR).log().mean(), measured, work / net.name, minutes,
        net.rate,
    )  # fmt: skip
    write(net, model.cpu(), facts, work / f"{net.name}.onnx")
    return facts


def write(net: Net, model: nn.Module, facts: dict[str, float], path: Path) -> None:
    """Write the graph, and in it what it is."""
    parameters = sum(each.numel() for each in model.parameters())
    about = About(net.title, (net.task,), net.told, parameters, int(facts["seen"]), facts["spent"] / 60)
    if isinstance(model, Alone):
        export(model.model, path, about)
        return
    _trace(model.eval(), path)
    graph = onnx.load(path)
    onnx.helper.set_model_props(graph, dict(metadata(about)))
    if len(graph.graph.input) == 1:  # a network that does not look at the SNR is given it all the same
        graph.graph.input.append(onnx.helper.make_tensor_value_info("snr_db", onnx.TensorProto.FLOAT, ["batch"]))
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, path)


def _trace(model: nn.Module, path: Path) -> None:
    shape, names = Shape(), ["observed", "snr_db"]
    observed = torch.zeros(2, shape.slots, shape.subcarriers, 3, shape.antennas)
    with warnings.catch_warnings():  # the exporter of torch that needs no package more is the older one
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (observed, torch.zeros(2)), str(path), input_names=names, output_names=["values"],
            opset_version=OPSET, dynamo=False, dynamic_axes={name: {0: "batch"} for name in [*names, "values"]},
        )  # fmt: skip


def main() -> None:
    """Read the options and train."""
    parser = argparse.ArgumentParser(prog="python -m training.channel_nets", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of the graphs, the checkpoints and the logs")
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="CPU time for each, over all runs, those before too"
    )
    parser.add_argument("--only", choices=[net.name for net in NETS], nargs="+", help="train these alone")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    given = parser.parse_args()
    sys.exit(finished(lambda: run(given), (UserError, OSError)))


def run(given: argparse.Namespace) -> None:
    """Train the chosen networks. Raises: `UserError`."""
    if not (given.minutes > 0 and given.threads > 0):
        raise UserError("--minutes and --threads must be more than 0")
    device = runtime.device_of(given.device)
    torch.set_num_threads(given.threads)
    given.work.mkdir(parents=True, exist_ok=True)
    for net in NETS:
        if given.only is None or net.name in given.only:
            print(f"{net.name}: {net.title}, to {net.task}", flush=True)
            train(net, given.work, given.minutes, device)


if __name__ == "__main__":
    main()
