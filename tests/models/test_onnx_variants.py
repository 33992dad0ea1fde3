"""Exports that differ from the shipped pair: precision, inputs, layout, and what is no decoder at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
import pytest

from airdraft.errors import ModelError
from airdraft.models.base import Part
from airdraft.models.engines.onnx import OnnxModel, graph_path
from airdraft.models.files.folder import shipped

from ..pairs import copied

Decoder = Callable[..., Path]
TEXT = [0, 3, 96, 17, 17, 50, 8]


def scores(folder: Path) -> np.ndarray:
    """Rows [7, 97] of TEXT through a cache that was fed something else and rolled back."""
    model = OnnxModel(folder)
    cache = model.new_cache()
    model.forward(cache, 0, [*TEXT[:2], 60, 61], 0)
    first = model.forward(model.new_cache(), 0, TEXT[:2], 2)
    return np.concatenate([first, model.forward(cache, 2, TEXT[2:5], 3), model.forward(cache, 5, TEXT[5:], 2)])


def batched(model: OnnxModel, tokens: list[int]) -> float:
    """How far rows of one call for four sequences, each some way into `tokens`, are at most from those alone."""
    batch, expected = [], []
    for keep, n in ((2, 3), (5, 1), (0, 4), (1, 6)):
        for parts in (batch, expected):
            cache = model.new_cache()
            if keep:
                model.forward(cache, 0, tokens[:keep], 0)
            parts.append(Part(cache, keep, tokens[keep : keep + n], n))
    alone = [model.forward(part.cache, part.keep, part.tokens, part.rows) for part in expected]
    return max(float(np.abs(a - b).max()) for a, b in zip(model.verify(batch), alone, strict=True))


def test_grouped_key_value_heads(decoder: Decoder) -> None:
    model = OnnxModel(decoder(kv_heads=2))
    whole = model.forward(model.new_cache(), 0, TEXT, len(TEXT))
    np.testing.assert_allclose(scores(decoder(kv_heads=2)), whole, rtol=0, atol=1e-4)


def test_half_precision_caches_give_float32_rows(decoder: Decoder) -> None:
    half = scores(decoder(half=True))
    assert half.dtype == np.float32
    # fp16 has 11 bits: these logits, of up to 3.3, are off by 0.002.
    np.testing.assert_allclose(half, scores(decoder()), rtol=0, atol=0.02)
    bytes_of = [OnnxModel(decoder(half=each)).info.position_bytes or 0 for each in (False, True)]
    assert bytes_of[0] == 2 * bytes_of[1] > 0


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


@pytest.mark.parametrize(
    ("shape", "tolerance"),
    [({}, 1e-5), ({"kv_heads": 4}, 1e-5), ({"few_logits": True}, 1e-5), ({"half": True}, 0.01)],
)
def test_a_batch_has_the_rows_of_each_alone(decoder: Decoder, shape: dict[str, Any], tolerance: float) -> None:
    model = OnnxModel(decoder(**shape))
    assert model.info.max_batch > 1
    assert batched(model, TEXT) <= tolerance


@pytest.mark.parametrize(
    "shape",
    [
        {"batch": False},
        {"masked": False},
        {"position_ids": False},
        {"batch": False, "masked": False, "position_ids": False, "few_logits": True},
    ],
)
def test_a_graph_for_one_sequence_runs_one_by_one(decoder: Decoder, shape: dict[str, Any]) -> None:
    model = OnnxModel(decoder(**shape))
    assert model.info.max_batch == 1
    assert batched(model, TEXT) == 0


@pytest.mark.parametrize(
    ("said", "most"),
    [
        ({"sliding_window": 16}, 1),
        ({"window_size": 16}, 1),
        ({"sliding_window": 4096}, 64),
        ({"sliding_window": 16, "use_sliding_window": False}, 64),
        ({"sliding_window": None}, 64),
    ],
)
def test_a_graph_that_looks_back_a_limited_way_runs_one_by_one(decoder: Decoder, said: Any, most: int) -> None:
    folder = decoder()
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | said))
    assert OnnxModel(folder).info.max_batch == most


def converted(which: Literal["target", "draft"], kind: str, folder: Path) -> Path:
    """The shipped model in fp16, with dynamic 8-bit or with 4-bit products; returns `folder`."""
    onnx = pytest.importorskip("onnx", reason="converting ONNX files takes the onnx package")
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers.float16 import convert_float_to_float16

    from .graphs import to_int4

    copied(which, folder)
    graph = folder / "model.onnx"
    # Its weights pass through Concat and Transpose, and converters look for constants.
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / "folded")
    ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    if kind == "int8":
        # Weights of 7 bits: where a CPU has no VNNI, pairs of products of 8 bits overflow the 16 they are added in.
        quantize_dynamic(folder / "folded", graph, weight_type=QuantType.QInt8, reduce_range=True)
    else:
        model = onnx.load(folder / "folded")
        onnx.save(convert_float_to_float16(model) if kind == "fp16" else to_int4(model), graph)
    (folder / "model.safetensors").unlink()  # not the fp32 weights after all
    return folder


STORY = [0, 300, 17, 2049, 900, 31, 4000, 300, 300, 77, 1234, 5]


# Logits of the pair have a standard deviation of 3. Measured over 65 tokens of English and 60 batches:
#       of fp32   of n tokens at once and one by one   of a batch and alone
# fp16  0.019     0.008                                0.008
# int8  1.1       1.0                                  not batched: 0.9, as all sequences share scales
# int4  5.5       2e-5                                 2e-5 (only weights are rounded; models so small bear that badly)
@pytest.mark.parametrize("which", ["target", "draft"])
@pytest.mark.parametrize(
    ("kind", "from_fp32", "from_one_by_one", "in_a_batch", "most"),
    [("fp16", 0.05, 0.03, 0.03, 64), ("int8", 2.0, 2.0, 0, 1), ("int4", 8.0, 1e-4, 1e-4, 64)],
)
def test_the_pair_in_fewer_bits(
    which: Literal["target", "draft"],
    kind: str,
    from_fp32: float,
    from_one_by_one: float,
    in_a_batch: float,
    most: int,
    tmp_path: Path,
) -> None:
    model, exact = OnnxModel(converted(which, kind, tmp_path / "less")), OnnxModel(shipped(which))
    together = model.forward(model.new_cache(), 0, STORY, len(STORY))
    assert together.dtype == np.float32
    reference = exact.forward(exact.new_cache(), 0, STORY, len(STORY))
    assert 1e-4 < np.abs(together - reference).max() < from_fp32
    cache = model.new_cache()
    model.forward(cache, 0, [1, 2, 3], 0)
    alone = [model.forward(cache, i, [token], 1)[0] for i, token in enumerate(STORY)]
    np.testing.assert_allclose(together, alone, rtol=0, atol=from_one_by_one)
    assert model.info.max_batch == most
    assert batched(model, STORY) <= in_a_batch


def test_4_bit_products_are_those_of_the_rounded_weights(decoder: Decoder) -> None:
    """That the packing of the tests is ONNX Runtime's, so that the test above is of real 4-bit graphs."""
    import onnx
    from onnx import numpy_helper

    from .graphs import to_int4

    whole, packed = decoder(), decoder()
    model = onnx.load(whole / "model.onnx")
    onnx.save(to_int4(onnx.load(packed / "model.onnx")), packed / "model.onnx")
    factors = {node.input[1] for node in model.graph.node if node.op_type == "MatMul"}
    for tensor in model.graph.initializer:
        if tensor.name in factors:
            blocks = numpy_helper.to_array(tensor).T.reshape(tensor.dims[1], -1, 32)
            scales = np.abs(blocks).max(axis=2, keepdims=True) / 7
            rounded = (np.round(blocks / scales) * scales).reshape(tensor.dims[1], -1).T
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(rounded), tensor.name))
    onnx.save(model, whole / "model.onnx")
    np.testing.assert_allclose(scores(packed), scores(whole), rtol=0, atol=1e-4)


@pytest.mark.parametrize("at", ["model_q4.onnx", "onnx/model_fp16.onnx"])
def test_the_only_graph_is_taken_whatever_its_name(decoder: Decoder, at: str) -> None:
    folder = decoder()
    (folder / "onnx").mkdir()
    (folder / "model.onnx").rename(folder / at)
    assert graph_path(folder) == folder / at
    np.testing.assert_array_equal(scores(folder), scores(decoder()))


def test_several_graphs_and_none_called_model(decoder: Decoder) -> None:
    folder = decoder(hub_layout=True)
    shutil.copy(folder / "onnx" / "model.onnx", folder / "onnx" / "model_q4.onnx")
    assert graph_path(folder) == folder / "onnx" / "model.onnx"
    (folder / "onnx" / "model.onnx").rename(folder / "onnx" / "model_int8.onnx")
    with pytest.raises(
        ModelError,
        match=r"has no model\.onnx but onnx/model_int8\.onnx, onnx/model_q4\.onnx; name the one you mean",
    ):
        OnnxModel(folder)


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
