"""The channel model: a transformer over patches of time, subcarriers and antennas, which fills in what is not observed.

Before the patches are embedded, a few pairs of learned kernels, one over time and one over subcarriers, average the
observed values around each place. The transformer mixes these averages patch by patch and corrects them, so that it
begins as an interpolation and not at zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KERNELS = ((1.0, 1.0), (4.0, 2.0), (16.0, 6.0))
"""Reach of the kernels at the start, in slots and subcarriers."""
LEAST = 1e-4
"""Added to the kernels' weights, so that what no kernel reaches is 0."""
SPREAD = 1e-6
"""Added to variances over patches."""


@dataclass(frozen=True)
class Shape:
    """The window that the model looks at, its patches, and its size. 0.9 million parameters."""

    slots: int = 40
    subcarriers: int = 32
    antennas: int = 4
    patch: tuple[int, int, int] = (4, 8, 4)
    width: int = 128
    layers: int = 4
    heads: int = 4

    @property
    def grid(self) -> tuple[int, int, int]:
        """Patches along time, subcarriers and antennas."""
        return self.slots // self.patch[0], self.subcarriers // self.patch[1], self.antennas // self.patch[2]


class Layer(nn.Module):
    """Attention over all patches, then a network on each."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_in, self.norm_mid = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.merge = nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        for last in (self.merge, self.down):
            nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[n, patches, width] to the same."""
        n, patches, width = x.shape
        parts = self.query_key_value(self.norm_in(x)).view(n, patches, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*parts.unbind(0)).transpose(1, 2).reshape(n, patches, width)
        x = x + self.merge(mixed)
        return x + self.down(F.relu(self.up(self.norm_mid(x))).square())


class ChannelModel(nn.Module):
    """Observed values in, all values out, and an embedding of the whole."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        pt, pf, pa = shape.patch
        self.patch_values = pt * pf * pa
        time, frequency = torch.arange(shape.slots), torch.arange(shape.subcarriers)
        apart_t, apart_f = (time[:, None] - time).abs().float(), (frequency[:, None] - frequency).abs().float()
        self.over_time = nn.Parameter(torch.stack([-apart_t / reach for reach, _ in KERNELS]))
        self.over_frequency = nn.Parameter(torch.stack([-apart_f / reach for _, reach in KERNELS]))
        patches = shape.grid[0] * shape.grid[1] * shape.grid[2]
        self.embed = nn.Linear((3 + 2 * len(KERNELS)) * self.patch_values, shape.width)
        self.place = nn.Parameter(0.02 * torch.randn(patches, shape.width))
        self.loudness = nn.Linear(1, shape.width)
        self.layers = nn.ModuleList([Layer(shape.width, shape.heads) for _ in range(shape.layers)])
        self.norm = nn.LayerNorm(shape.width)
        self.correct = nn.Linear(shape.width, 2 * self.patch_values)
        self.mix = nn.Linear(shape.width, len(KERNELS))
        nn.init.zeros_(self.correct.weight)
        nn.init.zeros_(self.correct.bias)
        nn.init.zeros_(self.mix.weight)
        nn.init.constant_(self.mix.bias, 1 / len(KERNELS))

    def patched(self, x: Tensor) -> Tensor:
        """[n, slots, subcarriers, parts, antennas] to [n, patches, values of a patch]."""
        n, _, _, parts, _ = x.shape
        (gt, gf, ga), (pt, pf, pa) = self.shape.grid, self.shape.patch
        x = x.reshape(n, gt, pt, gf, pf, parts, ga, pa).permute(0, 1, 3, 6, 5, 2, 4, 7)
        return x.reshape(n, gt * gf * ga, parts * self.patch_values)

    def whole(self, x: Tensor) -> Tensor:
        """The other way, for values of two parts, real and imaginary."""
        (gt, gf, ga), (pt, pf, pa) = self.shape.grid, self.shape.patch
        x = x.reshape(-1, gt, gf, ga, 2, pt, pf, pa).permute(0, 1, 5, 2, 6, 4, 3, 7)
        return x.reshape(-1, self.shape.slots, self.shape.subcarriers, 2, self.shape.antennas)

    def averaged(self, observed: Tensor) -> Tensor:
        """The kernels' averages, [n, slots, subcarriers, 2 · kernels, antennas]."""
        n, slots, subcarriers, _, antennas = observed.shape
        flat = observed.reshape(n, 1, slots, subcarriers * 3 * antennas)
        sums = (self.over_time.exp() @ flat).reshape(n, len(KERNELS), slots, subcarriers, 3 * antennas)
        sums = self.over_frequency.exp()[:, None] @ sums
        sums = sums.reshape(n, len(KERNELS), slots, subcarriers, 3, antennas)
        means = sums[:, :, :, :, :2] / (sums[:, :, :, :, 2:] + LEAST)
        return means.permute(0, 2, 3, 1, 4, 5).reshape(n, slots, subcarriers, 2 * len(KERNELS), antennas)

    def forward(self, observed: Tensor, snr_db: Tensor) -> tuple[Tensor, Tensor]:
        """Observed: [n, slots, subcarriers, 3, antennas], real, imaginary, and 1 where known; the others must be 0.

        Returns all values [n, slots, subcarriers, 2, antennas], and an embedding [n, 2 · width]: mean and standard
        deviation over the patches.
        """
        averages = self.averaged(observed)
        tokens = self.embed(self.patched(torch.cat([observed, averages], 3))) + self.place
        x = tokens + self.loudness(0.1 * snr_db[:, None])[:, None]
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        offered = self.patched(averages).reshape(len(x), -1, len(KERNELS), 2 * self.patch_values)
        values = (self.mix(x)[:, :, None] @ offered)[:, :, 0] + self.correct(x)
        spread = (x.var(1, correction=0) + SPREAD).sqrt()
        return self.whole(values), torch.cat([x.mean(1), spread], 1)
