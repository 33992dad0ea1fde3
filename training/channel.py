"""`python -m training.channel`: trains the channel model for some CPU time, resumes it, writes it as ONNX."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from airdraft.channel.bench import TASKS
from airdraft.channel.nets import LEARNED, About
from training import channel_recorded, runtime
from training.channel_export import export
from training.channel_masks import Source, batches, simulated
from training.channel_model import ChannelModel, Shape
from training.errors import UserError
from training.steps import main as finished

Batch = tuple[Tensor, Tensor, Tensor]
"""What is observed, all values, and SNRs, as `ChannelModel` takes them."""
CPU = torch.device("cpu")
SEED = 1
HELD_OUT = 1 << 40
"""Number of the first channel that is never trained on."""
FLOOR = 3e-3
"""Error below which a channel counts no more: -25 dB."""


def optimisers(model: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """AdamW. Muon, which trains the language models, takes more time than the rest of a step of a model this small."""
    result: list[torch.optim.Optimizer] = [torch.optim.AdamW(model.parameters(), rate, (0.9, 0.95), weight_decay=0.01)]
    for group in result[0].param_groups:
        group["peak"] = group["lr"]
    return result


def errors(model: ChannelModel, observed: Tensor, values: Tensor, snr_db: Tensor) -> tuple[Tensor, Tensor]:
    """Error power over power, [n] each: of what is unknown, and of what is known but noisy. 0 where there is none."""
    known = observed[:, :, :, 2:]
    wrong, power = (model(observed, snr_db)[0] - values).square(), values.square().mean((1, 2, 3, 4), keepdim=True)
    share = wrong / power
    return tuple((share * at).sum((1, 2, 3, 4)) / (2 * at.sum((1, 2, 3, 4)) + 1e-9) for at in (1 - known, known))  # type: ignore[return-value]


def loss_of(model: ChannelModel, batch: Batch) -> Tensor:
    """Mean logarithm of the error, so that a decibel counts the same whatever the SNR."""
    unknown, known = errors(model, *batch)
    return 0.75 * (unknown + FLOOR).log().mean() + 0.25 * (known + FLOOR).log().mean()


@torch.no_grad()
def held_out(model: ChannelModel, batch: Batch) -> dict[str, float]:
    """Mean error in dB of what is unknown and of what is known, over a batch that is never trained on."""
    unknown, known = errors(model, *batch)
    decibels = {"unknown_db": unknown[unknown > 0], "known_db": known[known > 0]}
    return {name: float(10 * each.log10().mean()) for name, each in decibels.items()}


def train(
    shape: Shape, work: Path, minutes: float, size: int, rate: float, recorded: tuple[Source, Source] | None = None,
    device: torch.device = CPU,
) -> tuple[ChannelModel, About]:  # fmt: skip
    """Trains until the budget is spent, from the last checkpoint in `work` if there is one; logs in channel.jsonl.

    `recorded`: channels to learn from and others to test, instead of simulated ones.
    """
    torch.manual_seed(SEED)
    model = ChannelModel(shape).to(device)
    learned, others = recorded or (simulated, simulated)
    test = on(device, next(batches(shape, 128, SEED, HELD_OUT, source=others)))
    facts = steps(
        model, lambda first: batches(shape, size, SEED, first, source=learned), lambda batch: loss_of(model, batch),
        lambda: held_out(model, test), work / "channel", minutes, rate, recorded=recorded is not None,
    )  # fmt: skip
    return model, about(model, facts)


def on(device: torch.device, batch: Batch) -> Batch:
    """Bring a batch to where the model is."""
    observed, values, snr_db = (each.to(device) for each in batch)
    return observed, values, snr_db


def about(model: ChannelModel, facts: dict[str, float]) -> About:
    """What the graph says of itself, by the facts of a checkpoint."""
    parameters = sum(each.numel() for each in model.parameters())
    return About(LEARNED, TASKS, "SNR", parameters, int(facts["seen"]), facts["spent"] / 60)


def steps(
    model: nn.Module, drawn: Callable[[int], Iterator[Batch]], loss_of: Callable[[Batch], Tensor],
    measured: Callable[[], dict[str, float]], path: Path, minutes: float, rate: float, save_s: float = 60.0,
    recorded: bool = False,
) -> dict[str, float]:  # fmt: skip
    """Trains until the budget is spent, from the checkpoint `path`.state if there is one; logs in `path`.jsonl.

    `drawn` gives batches from a channel's number on. Returns how many steps, how many channels, how many `recorded`
    ones of them, and seconds spent.
    """
    device = next(model.parameters()).device
    opts, state, log = optimisers(model, rate), path.with_suffix(".state"), runtime.Log(path.with_suffix(".jsonl"))
    facts = runtime.load_state(state, model, opts)  # type: ignore[arg-type]
    step, seen, real = (int(facts.get(each, 0)) for each in ("step", "seen", "recorded"))
    clock = runtime.Clock(minutes, facts.get("spent", 0.0), time.process_time)
    saved = clock.spent
    for batch in drawn(seen):
        over = clock.done >= 1.0
        if over or clock.spent - saved > save_s:
            saved = clock.spent
            facts = {"step": step, "seen": seen, "recorded": real, "spent": saved}
            runtime.save_state(state, model, opts, facts)  # type: ignore[arg-type]
            log.write(step=step, seen=seen, minutes=saved / 60, **measured())
        if over:
            return facts
        runtime.set_rates(opts, clock.done)
        loss = loss_of(on(device, batch))
        for optimiser in opts:
            optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in opts:
            optimiser.step()
        step, seen, real = step + 1, seen + len(batch[0]), real + recorded * len(batch[0])
    raise AssertionError("channels have no end")


def main() -> None:
    """Read the options and train."""
    parser = argparse.ArgumentParser(prog="python -m training.channel", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of the checkpoint and the log")
    parser.add_argument("--minutes", type=float, default=240.0, help="CPU time over all runs, those before too")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1.5e-3, help="AdamW's peak rate")
    parser.add_argument("--width", type=int, default=Shape.width)
    parser.add_argument("--layers", type=int, default=Shape.layers)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--csi", type=Path, action="append", metavar="FILE", help="learn from recorded channels; may be repeated"
    )
    parser.add_argument("--axes", help="their axes, one letter each: n channels, t slots, f subcarriers, a antennas")
    parser.add_argument("--key", help="the array's name in a file of several")
    given = parser.parse_args()
    sys.exit(finished(lambda: run(given), (UserError, OSError)))


def run(given: argparse.Namespace) -> None:
    """Check the options and train. Raises: `UserError`."""
    if given.width < 1 or given.width % Shape.heads:
        raise UserError(f"--width is {given.width}; give a multiple of {Shape.heads}, the number of heads")
    for name in ("layers", "batch", "threads", "minutes", "rate"):
        if not getattr(given, name) > 0:
            raise UserError(f"--{name} is {getattr(given, name):g}; give more than 0")
    if not given.csi and (given.axes or given.key):
        raise UserError("--axes and --key are of recorded channels; give --csi FILE, or leave them out")
    shape, device = Shape(width=given.width, layers=given.layers), runtime.device_of(given.device)
    torch.set_num_threads(given.threads)
    recorded = channel_recorded.read(given.csi, given.axes, given.key, shape) if given.csi else None
    given.work.mkdir(parents=True, exist_ok=True)
    model, said = train(shape, given.work, given.minutes, given.batch, given.rate, recorded, device)
    export(model.cpu(), given.work / "channel.onnx", said)


if __name__ == "__main__":
    main()
