"""The layers of a Llama in NumPy, one at a time, to see what its matrices are applied to.

Weights have the names and the order of rows that GGUF files give them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from airdraft.compress.rounding import Reals
from airdraft.models.imports.decoder import DecoderFacts
from airdraft.models.imports.read import GgufFile

Layer = dict[str, Reals]
"""A layer's tensors by their names within it, `attn_q.weight` for example."""
MATRICES = {
    "attn_norm": ("attn_q", "attn_k", "attn_v"), "attn_output": ("attn_output",), "ffn_norm": ("ffn_gate", "ffn_up"),
    "ffn_down": ("ffn_down",),
}  # fmt: skip
"""The matrices of a layer by what they are applied to: what two norms give, and what two matrices take."""

_SAMPLE = 4096
"""Positions that are kept as they are."""
_TOGETHER = 1024
"""Positions that go through a layer together, so that what is between its matrices takes less room than they."""
At = Callable[[str, Reals], Reals]
"""A change of what matrices are applied to, by the kinds that are keys of `MATRICES`."""


@dataclass
class Applied:
    """What matrices are applied to, over all positions of the calibration text."""

    gram: Reals
    """X'X, [channels, channels]: all that the squared error of a matrix depends on."""
    total: Reals
    """Sum of |x| over positions, [channels]."""
    sum: Reals
    """Of x, [channels]."""
    least: Reals
    """Smallest x, [channels]."""
    most: Reals
    """Largest x, [channels]."""
    positions: int = 0
    every: int = 1
    """Of so many positions one is in the sample."""
    sample: Reals = field(default_factory=lambda: np.zeros((0, 1), np.float32))
    """Some positions, [positions, channels]."""

    @classmethod
    def nothing(cls, channels: int, positions: int) -> Applied:
        """Before any position. positions: how many there will be."""
        total, signed, least, most = np.zeros((4, channels))
        return cls(np.zeros((channels, channels)), total, signed, least, most, every=-(-positions // _SAMPLE))

    @property
    def largest(self) -> Reals:
        """Largest |x|, [channels]."""
        return np.maximum(self.most, -self.least)

    def add(self, x: Reals) -> Reals:
        """Add positions, [..., channels]. Returns: them."""
        rows = x.reshape(-1, x.shape[-1])
        self.gram += rows.T @ rows
        self.total += np.abs(rows).sum(0)
        self.sum += rows.sum(0)
        self.least, self.most = np.minimum(self.least, rows.min(0)), np.maximum(self.most, rows.max(0))
        some = rows[-self.positions % self.every :: self.every].astype(np.float32)
        self.sample = np.concatenate([self.sample.reshape(-1, len(self.sum)), some])
        self.positions += len(rows)
        return x


@dataclass
class Run:
    """A forward of many texts of one length, layer by layer."""

    decoder: DecoderFacts
    x: Reals
    """What goes into the next layer, [texts, positions, width]."""
    _turns: tuple[Reals, Reals] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        angles = np.outer(np.arange(self.x.shape[1]), self.decoder.frequencies)
        self._turns = np.cos(angles).astype(self.x.dtype), np.sin(angles).astype(self.x.dtype)

    def through(self, layer: Layer, at: At = lambda kind, x: x) -> Reals:
        """What comes out of `layer`. at: given what matrices are to be applied to, gives what they are applied to."""
        few = max(1, _TOGETHER // self.x.shape[1])
        return np.concatenate([
            self._through(layer, at, self.x[first : first + few]) for first in range(0, len(self.x), few)
        ])  # fmt: skip

    def _through(self, layer: Layer, at: At, x: Reals) -> Reals:
        """The same of some of the texts."""
        d, [texts, n, _] = self.decoder, x.shape
        h = normed(x, layer["attn_norm.weight"], d.eps)
        h = at("attn_norm", h)
        q, k, v = (linear(layer, f"attn_{part}", h).reshape(texts, n, -1, d.head_dim).swapaxes(1, 2) for part in "qkv")
        q, k = (self._turned(self._head_normed(layer, part, each)) for part, each in (("q", q), ("k", k)))
        group = d.heads // d.kv_heads
        q = q.reshape(texts, d.kv_heads, group, n, d.head_dim) * np.float32(d.head_dim**-0.5)
        scores = q @ k[:, :, None].swapaxes(-1, -2)
        scores = np.where(np.tri(n, dtype=bool), scores, -np.inf)
        share = np.exp(scores - scores.max(-1, keepdims=True))
        share /= share.sum(-1, keepdims=True)
        y = (share @ v[:, :, None]).reshape(texts, d.heads, n, d.head_dim).swapaxes(1, 2).reshape(texts, n, -1)
        y = at("attn_output", y)
        x = x + linear(layer, "attn_output", y)
        h = normed(x, layer["ffn_norm.weight"], d.eps)
        h = at("ffn_norm", h)
        gate = linear(layer, "ffn_gate", h)
        inner = gate / (1 + np.exp(-gate)) * linear(layer, "ffn_up", h)
        inner = at("ffn_down", inner)
        found: Reals = x + linear(layer, "ffn_down", inner)
        return found

    def _head_normed(self, layer: Layer, part: str, x: Reals) -> Reals:
        norm = layer.get(f"attn_{part}_norm.weight")
        return x if norm is None else normed(x, norm, self.decoder.eps)

    def _turned(self, x: Reals) -> Reals:
        """Queries or keys, [texts, heads, n, head_dim], turned by their positions."""
        cos, sin = self._turns
        made, half = np.empty_like(x), self.decoder.head_dim // 2
        first, second = (
            (slice(0, None, 2), slice(1, None, 2)) if self.decoder.paired else (slice(half), slice(half, None))
        )
        made[..., first] = x[..., first] * cos - x[..., second] * sin
        made[..., second] = x[..., second] * cos + x[..., first] * sin
        return made


def normed(x: Reals, weight: Reals, eps: float) -> Reals:
    """The root-mean-square norm of the last axis."""
    found: Reals = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + np.float32(eps)) * weight
    return found


def linear(layer: Mapping[str, Reals], name: str, x: Reals) -> Reals:
    """x [..., columns] times a matrix [rows, columns], with its bias if it has one."""
    found: Reals = x @ layer[f"{name}.weight"].T
    bias = layer.get(f"{name}.bias")
    return found if bias is None else found + bias


def layers(file: GgufFile, count: int, first: int = 0) -> Iterator[Layer]:
    """The layers of a file from `first` on, one after the other."""
    for i in range(first, count):
        prefix = f"blk.{i}."
        yield {name.removeprefix(prefix): file.numbers(name) for name in file.tensors if name.startswith(prefix)}
