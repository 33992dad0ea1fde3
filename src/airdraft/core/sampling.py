"""The effect of the user's sampling parameters on a row of logits.

The parameters act in this order on both sides, before any scheme sees a row: temperature, top-k, top-p, min-p.
Ties at a cut go to the lower token id, so a cut always keeps the same tokens.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np

from airdraft import values
from airdraft.core.noise import FloatArray, IntArray
from airdraft.errors import BadParameterError

MIN_TEMPERATURE = 1e-6


class SamplingParams(msgspec.Struct, array_like=True, frozen=True):
    """The user's parameters for drawing the target's tokens. They are sent once per session."""

    temperature: float = 1.0
    """0 is greedy: always the most likely token."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of most likely tokens whose probability reaches p; 1 keeps all."""
    min_p: float = 0.0
    """Keep tokens at least min_p times as likely as the most likely one; 0 keeps all."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            plain = values.whole if name == "top_k" else values.number
            msgspec.structs.force_setattr(self, name, plain(name, getattr(self, name)))
        # At lower temperatures logits could overflow, and the text would be the greedy one anyway.
        if self.temperature != 0 and not MIN_TEMPERATURE <= self.temperature < math.inf:
            raise BadParameterError(
                f"temperature is {self.temperature}; give 0, which is greedy, or a number of at least "
                f"{MIN_TEMPERATURE}",
                field="temperature",
            )
        if not 0 <= self.top_k < 1 << 63:
            raise BadParameterError(
                f"top-k is {self.top_k}; give a whole number of at least 0, below 2^63 (0 keeps every token)",
                field="top_k",
            )
        if not 0 < self.top_p <= 1:
            raise BadParameterError(
                f"top-p is {self.top_p}; give a number above 0 and at most 1 (1 keeps every token)", field="top_p"
            )
        if not 0 <= self.min_p <= 1:
            raise BadParameterError(
                f"min-p is {self.min_p}; give a number from 0 to 1 (0 keeps every token)", field="min_p"
            )


def candidates(logits: np.ndarray, params: SamplingParams) -> tuple[IntArray, FloatArray]:
    """Find the tokens that may be drawn, and their logits after the temperature.

    Args: logits: any float dtype, [vocab].
    Returns: ids int64 [m] ascending, and logits float64 [m], not normalised.
    """
    if params.temperature == 0:
        return np.array([int(np.argmax(logits))]), np.zeros(1)
    scaled = logits.astype(np.float64) / params.temperature
    ids = np.arange(scaled.size)
    if 0 < params.top_k < scaled.size:
        kth = np.partition(scaled, -params.top_k)[-params.top_k]
        above = np.flatnonzero(scaled > kth)
        ties = np.flatnonzero(scaled == kth)[: params.top_k - above.size]
        ids = np.sort(np.concatenate([above, ties]))
    if params.top_p < 1:
        kept = scaled[ids]
        weights = np.exp(kept - kept.max())
        total = weights.sum()
        # Tokens less likely than this add up to less than 1 - p, so p is reached without them and few need sorting.
        likely = np.flatnonzero(weights >= (1 - params.top_p) * total / ids.size)
        order = likely[np.argsort(-kept[likely], kind="stable")]
        reached = int(np.searchsorted(np.cumsum(weights[order]), params.top_p * total)) + 1
        ids = np.sort(ids[order[:reached]])
    if params.min_p > 0:
        kept = scaled[ids]
        ids = ids[kept >= kept.max() + math.log(params.min_p)]
    return ids, scaled[ids]


def softmax(logits: FloatArray) -> FloatArray:
    """Turn one row of logits into probabilities. float64 [m] in, float64 [m] out."""
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum())


def distribution(logits: np.ndarray, params: SamplingParams) -> FloatArray:
    """Return the distribution that a row of logits [vocab] stands for. float64 [vocab], zero outside `candidates`."""
    ids, kept = candidates(logits, params)
    probs = np.zeros(logits.shape[-1])
    probs[ids] = softmax(kept)
    return probs


def draw(weights: FloatArray, rng: np.random.Generator) -> int:
    """Draw an index in proportion to `weights` [m], which need not be normalised but must not all be zero."""
    return int(draws(weights, 1, rng)[0])


def draws(weights: FloatArray, count: int, rng: np.random.Generator) -> IntArray:
    """Make `count` independent draws, each as in `draw`. int64 [count]."""
    cumulative = np.cumsum(weights)
    indices = np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right")
    # Rounding can put a point at the very end, which belongs to the last index with any weight.
    if indices.max() >= weights.size:
        indices = np.minimum(indices, np.flatnonzero(weights)[-1])
    return np.asarray(indices)
