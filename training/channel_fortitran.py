"""An estimator of AdaFortiTran's kind and size (Guler and Jafarkhani, 2025, arXiv 2505.09076), for one antenna at once.

A linear map takes the pilots to the whole grid, convolutions look around each place, a transformer over patches adds
what is far, and convolutions refine the sum. Each patch is told the SNR by a small network; the paper's is told the
delay spread and the Doppler shift as well, which nobody has. Other than in the paper, real and imaginary parts are
seen together, patches are larger, and four layers of the width of six there have as many parameters.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from airdraft.channel.baselines import Comb
from training.channel_model import Layer, Shape

PATCH, WIDTH, LAYERS, HEADS = (4, 8), 128, 4, 4
TOLD = 2
"""Numbers that each patch has of the SNR."""


def enhancer() -> nn.Sequential:
    """Convolutions over slots and subcarriers, of as many channels as the paper's."""
    sizes, parts = (2, 8, 32, 8, 2), list[nn.Module]()
    for before, after in itertools.pairwise(sizes):
        parts += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


class FortiTran(nn.Module):
    """What `ChannelModel` takes, observed on one comb, in; all values out."""

    def __init__(self, shape: Shape, comb: Comb) -> None:
        super().__init__()
        self.slots, self.subcarriers = comb.slots.tolist(), comb.subcarriers.tolist()
        self.grid = shape.slots // PATCH[0], shape.subcarriers // PATCH[1]
        patches, values = self.grid[0] * self.grid[1], 2 * PATCH[0] * PATCH[1]
        self.upsample = nn.Linear(len(comb.slots) * len(comb.subcarriers), shape.slots * shape.subcarriers)
        self.first, self.last = enhancer(), enhancer()
        self.loudness = nn.Sequential(
            nn.Linear(1, 7), nn.ReLU(), nn.Linear(7, 42), nn.ReLU(), nn.Linear(42, TOLD * patches)
        )
        self.embed = nn.Linear(values + TOLD, WIDTH)
        self.place = nn.Parameter(0.02 * torch.randn(patches, WIDTH))
        self.layers = nn.ModuleList([Layer(WIDTH, HEADS) for _ in range(LAYERS)])
        self.norm, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, values)

    def forward(self, observed: Tensor, snr_db: Tensor) -> Tensor:
        """See `ChannelModel.forward`: its first result."""
        n, slots, subcarriers, _, antennas = observed.shape
        seen = observed[:, self.slots][:, :, self.subcarriers, :2].permute(0, 4, 3, 1, 2)
        whole = self.upsample(seen.reshape(n * antennas, 2, -1)).reshape(-1, 2, slots, subcarriers)
        near = self.first(whole)
        (gt, gf), (pt, pf) = self.grid, PATCH
        patches = near.reshape(-1, 2, gt, pt, gf, pf).permute(0, 2, 4, 1, 3, 5).reshape(n * antennas, gt * gf, -1)
        told = self.loudness(0.1 * snr_db[:, None]).repeat_interleave(antennas, 0).reshape(n * antennas, gt * gf, TOLD)
        x = self.embed(torch.cat([patches, told], 2)) + self.place
        for layer in self.layers:
            x = layer(x)
        far = self.out(self.norm(x)).reshape(-1, gt, gf, 2, pt, pf).permute(0, 3, 1, 4, 2, 5)
        found = self.last(near + far.reshape(-1, 2, slots, subcarriers))
        return found.reshape(n, antennas, 2, slots, subcarriers).permute(0, 3, 4, 2, 1)
