"""A predictor of CSI-4CAST's kind (arXiv 2510.12996), at a size for a CPU, for one antenna at once.

Convolutions take noise away. Two branches, one over subcarriers and one over delays, correct each course over time
and go through shuffle blocks with attention to their channels. Their sum is embedded slot by slot, and a transformer
says the slots to come. As in the paper it is not told the SNR, and it is scaled by the power that it sees. Other than
there, nothing is normalised over a batch or over time.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from training.channel_model import Layer, Shape

WIDTH, LAYERS, HEADS = 128, 3, 4
CHANNELS, GROUPS, BLOCKS = 32, 4, 2
LEAST = 1e-6
"""Added to the power of what is observed."""


def delays(subcarriers: int) -> Tensor:
    """The transform from subcarriers to delays, real and imaginary parts one after the other, [2 · f, 2 · f]."""
    angles = 2 * math.pi * torch.outer(torch.arange(subcarriers), torch.arange(subcarriers)) / subcarriers
    real, imaginary = angles.cos() / math.sqrt(subcarriers), angles.sin() / math.sqrt(subcarriers)
    return torch.cat([torch.cat([real, imaginary], 1), torch.cat([-imaginary, real], 1)], 0)


class Shuffle(nn.Module):
    """Convolutions in groups, whose channels are shuffled between them, and a weight for each channel; added."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(CHANNELS, CHANNELS, 1, groups=GROUPS)
        self.around = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS)
        self.then = nn.Conv2d(CHANNELS, CHANNELS, 1, groups=GROUPS)
        self.weigh = nn.Sequential(nn.Linear(CHANNELS, CHANNELS), nn.ReLU(), nn.Linear(CHANNELS, CHANNELS))

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, slots, subcarriers] to the same."""
        n, channels, slots, subcarriers = x.shape
        found = self.first(x).relu().reshape(n, GROUPS, -1, slots, subcarriers).transpose(1, 2)
        found = self.then(self.around(found.reshape(n, channels, slots, subcarriers)))
        return (x + found * self.weigh(found.mean((2, 3))).sigmoid()[:, :, None, None]).relu()


class Branch(nn.Module):
    """A correction of each course over time, then shuffle blocks, over subcarriers or over delays."""

    def __init__(self, past: int) -> None:
        super().__init__()
        self.correct = nn.Sequential(nn.Linear(past, WIDTH), nn.GELU(), nn.Linear(WIDTH, past))
        self.blocks = nn.Sequential(
            nn.Conv2d(2, CHANNELS, 3, padding=1), *(Shuffle() for _ in range(BLOCKS)),
            nn.Conv2d(CHANNELS, 2, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """[n, 2, slots, values] to the same."""
        x = x + self.correct(x.transpose(2, 3)).transpose(2, 3)
        return x + self.blocks(x)


class Forecast(nn.Module):
    """What `ChannelModel` takes, of which the first `past` slots are known, in; all values out."""

    def __init__(self, shape: Shape, past: int) -> None:
        super().__init__()
        self.past, values = past, 2 * shape.subcarriers
        self.clean = nn.Sequential(
            nn.Conv2d(2, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 8, 3, padding=1), nn.Tanh(),
            nn.Conv2d(8, 2, 3, padding=1),
        )  # fmt: skip
        self.register_buffer("to_delays", delays(shape.subcarriers), persistent=False)
        self.over_subcarriers, self.over_delays = Branch(past), Branch(past)
        self.embed = nn.Linear(values, WIDTH)
        self.place = nn.Parameter(0.02 * torch.randn(past, WIDTH))
        self.ahead = nn.Linear(past, past)
        self.layers = nn.ModuleList([Layer(WIDTH, HEADS) for _ in range(LAYERS)])
        self.norm, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, values)
        self.to_future = nn.Linear(past, shape.slots - past)

    def forward(self, observed: Tensor, snr_db: Tensor) -> Tensor:
        """See `ChannelModel.forward`: its first result."""
        n, _, subcarriers, _, antennas = observed.shape
        seen = observed[:, : self.past, :, :2].permute(0, 4, 3, 1, 2).reshape(-1, 2, self.past, subcarriers)
        scale = (seen.square().mean((1, 2, 3), keepdim=True) * 2 + LEAST).sqrt()
        x = seen / scale
        x = x - self.clean(x)
        turned = (x.transpose(1, 2).flatten(2) @ self.to_delays).reshape(-1, self.past, 2, subcarriers).transpose(1, 2)
        x = self.over_subcarriers(x) + self.over_delays(turned)
        x = self.embed(x.transpose(1, 2).flatten(2)) + self.place
        x = self.ahead(x.transpose(1, 2)).transpose(1, 2)
        for layer in self.layers:
            x = layer(x)
        found = self.to_future(self.out(self.norm(x)).transpose(1, 2)).transpose(1, 2)
        found = found.reshape(n * antennas, -1, 2, subcarriers).transpose(1, 2) * scale
        whole = torch.cat([seen, found], 2).reshape(n, antennas, 2, -1, subcarriers)
        return whole.permute(0, 3, 4, 2, 1)
