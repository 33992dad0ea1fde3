"""Attention for transformers that looks at a beginning which all texts of a call share, and at each text's own keys.

Registered under a name, as transformers' AttentionInterface asks. Queries of all texts meet the beginning as rows of
one product; both parts are merged as in `splice`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any

NAME = "airdraft_spliced"
Layers = dict[int, tuple[Any, Any]]
"""Keys and values of a beginning by the index of their layer, each [segments, kv_heads, 64, head_dim]."""

_beginning: ContextVar[Layers | None] = ContextVar("beginning", default=None)


@contextmanager
def behind(layers: Layers | None) -> Iterator[None]:
    """Let the forwards within look at a beginning; None: there is none."""
    before = _beginning.set(layers)
    try:
        yield
    finally:
        _beginning.reset(before)


def use(model: Any) -> None:
    """Let `model` attend so."""
    utils, masks = import_module("transformers.modeling_utils"), import_module("transformers.masking_utils")
    utils.ALL_ATTENTION_FUNCTIONS.register(NAME, attend)
    masks.ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, masks.eager_mask)
    model.set_attn_implementation(NAME)


def attend(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float | None = None, **more: Any
) -> tuple[Any, None]:
    """See transformers' AttentionInterface.

    query: [batch, heads, n, head_dim]; key and value: [batch, kv_heads, own, head_dim]; attention_mask: added to
    scores, [batch, 1, n, own]. Returns: [batch, n, heads, head_dim], and no weights.
    """
    torch = import_module("torch")
    unknown = sorted(name for name in ("softcap", "position_bias", "s_aux") if more.get(name) is not None)
    if unknown:
        raise ValueError(f"attention with {', '.join(unknown)} cannot be spliced")
    batch, heads, n, width = query.shape
    kv_heads = key.shape[1]
    # Heads that share keys are rows of one product.
    query = query.reshape(batch, kv_heads, -1, width) * (width**-0.5 if scaling is None else scaling)
    scores = (query @ key.transpose(-1, -2)).float()
    if attention_mask is not None:
        scores = scores + attention_mask[..., : key.shape[2]].repeat(1, 1, heads // kv_heads, 1)
    found = scores.softmax(-1).to(value.dtype) @ value
    layers = _beginning.get()
    if layers is not None:
        keys, values = layers[module.layer_idx]
        stacked = query.transpose(0, 1).reshape(kv_heads, -1, width)
        before = (stacked @ keys.transpose(-1, -2)).float()  # [segments, kv_heads, batch * rows, 64]
        top = before.amax((0, 3), keepdim=True)
        weights = (before - top).exp()
        total = weights.sum((0, 3))[..., None]
        shared = (weights.to(values.dtype) @ values).sum(0) / total
        log_sum = total.log() + top[0]
        shared, log_sum = (
            each.reshape(kv_heads, batch, -1, each.shape[-1]).transpose(0, 1) for each in (shared, log_sum)
        )
        share = torch.sigmoid(log_sum - scores.logsumexp(-1, keepdim=True))  # of the weight that the beginning has
        found = found + share.to(found.dtype) * (shared.to(found.dtype) - found)
    return found.reshape(batch, heads, n, width).transpose(1, 2), None
