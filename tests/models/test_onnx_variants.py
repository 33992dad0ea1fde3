"""Exports that differ from the shipped pair: precision, inputs, layout, and what is no decoder at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from airdraft.errors import ModelError
from airdraft.models.onnx import OnnxModel

Decoder = Callable[..., Path]
TEXT = [0, 3, 96, 17, 17, 50, 8]


def scores(folder: Path) -> np.ndarray:
    """Rows [7, 97] of TEXT through a cache that was fed something else and rolled back."""
    model = OnnxModel(folder)
    cache = model.new_cache()
    model.forward(cache, 0, [*TEXT[:2], 60, 61], 0)
    first = model.forward(model.new_cache(), 0, TEXT[:2], 2)
    return np.concatenate([first, model.forward(cache, 2, TEXT[2:5], 3), model.forward(cache, 5, TEXT[5:], 2)])


def test_grouped_key_value_heads(decoder: Decoder) -> None:
    model = OnnxModel(decoder(kv_heads=2))
    whole = model.forward(model.new_cache(), 0, TEXT, len(TEXT))
    np.testing.assert_allclose(scores(decoder(kv_heads=2)), whole, rtol=0, atol=1e-4)


def test_half_precision_caches_give_float32_rows(decoder: Decoder) -> None:
    half = scores(decoder(half=True))
    assert half.dtype == np.float32
    # fp16 has 11 bits: these logits, of up to 3.3, are off by 0.002.
    np.testing.assert_allclose(half, scores(decoder()), rtol=0, atol=0.02)


def test_half_precision_rolls_back(decoder: Decoder) -> None:
    folder = decoder(half=True)
    model = OnnxModel(folder)
    whole = model.forward(model.new_cache(), 0, TEXT, len(TEXT))
    np.testing.assert_allclose(scores(folder), whole, rtol=0, atol=0.02)


def test_a_graph_may_count_positions_itself(decoder: Decoder) -> None:
    np.testing.assert_allclose(scores(decoder(position_ids=False)), scores(decoder()), rtol=0, atol=1e-6)


def test_a_graph_may_score_the_last_tokens_only(decoder: Decoder) -> None:
    folder = decoder(few_logits=True)
    np.testing.assert_allclose(scores(folder), scores(decoder()), rtol=0, atol=1e-5)
    model = OnnxModel(folder)
    assert model.forward(model.new_cache(), 0, TEXT, 0).shape == (0, 97)


def test_the_layout_of_the_hub(decoder: Decoder) -> None:
    np.testing.assert_array_equal(scores(decoder(hub_layout=True)), scores(decoder()))


def test_unsupported_input(decoder: Decoder) -> None:
    with pytest.raises(ModelError, match=r"wants inputs airdraft cannot give \(beam_idx\); export it with"):
        OnnxModel(decoder(extra_input="beam_idx"))


def test_no_past(decoder: Decoder) -> None:
    with pytest.raises(ModelError, match=r"lacks past_key_values\.\*; export it with"):
        OnnxModel(decoder(layers=0))


def test_a_graph_that_fails_leaves_the_cache(decoder: Decoder) -> None:
    folder = decoder(context=8)
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"max_position_embeddings": 8', '"max_position_embeddings": 99'))
    model = OnnxModel(folder)
    cache = model.new_cache()
    model.forward(cache, 0, TEXT, 0)
    with pytest.raises(ModelError, match=r"cannot run 2 tokens after 7: ") as raised:
        model.forward(cache, 7, [1, 2], 1)
    assert "\n" not in str(raised.value)
    assert model.forward(cache, 7, [1], 1).shape == (1, 97)


def test_the_config_of_another_model(decoder: Decoder) -> None:
    folder = decoder()
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"vocab_size": 97', '"vocab_size": 98'))
    model = OnnxModel(folder)
    with pytest.raises(ModelError, match="scores 97 tokens, not the vocab_size"):
        model.forward(model.new_cache(), 0, TEXT, 1)
