"""Checkpoints in the format compressed-tensors: what they hold is what was compared, and a real vLLM serves it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airdraft.compress.layers import Run, normed
from airdraft.compress.whole import CHECKPOINT, Recipe, Texts, compress, windows
from airdraft.errors import BadParameterError, ModelError
from airdraft.models.base import FloatArray, Part
from airdraft.models.engines.vllm import VllmTarget
from airdraft.models.files.folder import shipped
from airdraft.models.gguf import write_gguf
from airdraft.models.imports.decoder import decoder_of
from airdraft.models.imports.read import GgufFile
from airdraft.models.llama import MATRIX_NAMES, NORM_NAMES, read_llama
from airdraft.models.registry import load
from airdraft.models.text import Tokenizer

from ..models.http_engine import log_softmax
from ..models.vllm_server import python_with_vllm, vllm_server

pytest.importorskip("gguf", reason="writing the files takes the gguf package")

from tests.models.imports.made import Made

safetensors = pytest.importorskip("safetensors.numpy", reason="reading checkpoints takes safetensors")
VARIANTS: list[dict[str, Any]] = [
    {}, {"family": "qwen2", "biased": True}, {"family": "qwen3"}, {"tied": False}, {"biased": True},
]  # fmt: skip


def texts_of(made: Made) -> Texts:
    return windows(np.random.default_rng(0).integers(0, len(made.tokens), (8, 32)).tolist(), 32, 8)


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    """All tensors, by way of the index."""
    places = json.loads((folder / "model.safetensors.index.json").read_text("utf-8"))["weight_map"]
    files = {name: safetensors.load_file(folder / name) for name in set(places.values())}
    assert sorted(places) == sorted(name for file in files.values() for name in file)
    return {name: files[place][name] for name, place in places.items()}


def unpacked(packed: np.ndarray, columns: int, bits: int) -> np.ndarray:
    """Codes [rows, columns] from whole numbers, by shifting one code after the other out."""
    left, found = packed.view(np.uint32).copy(), []
    for _ in range(32 // bits):
        found.append((left & (1 << bits) - 1).astype(np.int64) - (1 << bits - 1))
        left >>= np.uint32(bits)
    return np.stack(found, -1).reshape(len(packed), columns)


def plain(found: dict[str, np.ndarray], name: str, bits: int) -> np.ndarray:
    """A matrix as its codes and scales say."""
    if f"{name}.weight" in found:
        return found[f"{name}.weight"].astype(np.float32) * found[f"{name}.weight_scale"]
    rows, columns = found[f"{name}.weight_shape"]
    codes = unpacked(found[f"{name}.weight_packed"], columns, bits)
    scales = found[f"{name}.weight_scale"].astype(np.float32)
    return (codes.reshape(*scales.shape, -1) * scales[..., None]).reshape(rows, columns)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("method", "bits"), [("token", "W8A8"), ("outliertune", "W8A8"), ("rtn", "W4"), ("rtn", "W8")])
def test_what_it_holds_is_the_model(method: Any, bits: str, variant: dict[str, Any], tmp_path: Path) -> None:
    """Every matrix, with its norm's fold undone and its rows in the order of checkpoints, is the model's but for
    rounding."""
    made = Made(**variant)
    source, out = made.write(tmp_path / "model.gguf"), tmp_path / "out"
    compress(source, out, Recipe(method, bits, "F16", form=CHECKPOINT), texts_of(made))
    file = GgufFile(source)
    decoder, found = decoder_of(file), tensors_of(out)
    config = json.loads((out / "config.json").read_text("utf-8"))
    scheme = config["quantization_config"]
    assert json.loads((out / "report.json").read_text("utf-8"))["method"] == method
    for i in range(decoder.layers):
        for own, there in MATRIX_NAMES.items():
            name = f"model.layers.{i}.{own}"
            weights = plain(found, name, 4 if bits == "W4" else 8)
            norm = {"q": "input_layernorm", "k": "input_layernorm", "v": "input_layernorm"}.get(own[10], "")
            norm = norm if own.startswith("self_attn") else "post_attention_layernorm" if own != "mlp.down_proj" else ""
            tensor = file.tensors[f"blk.{i}.{there}.weight"]
            wanted = tensor.format.dense(file.raw(tensor))
            if there in ("attn_q", "attn_k") and decoder.paired:  # rows in the order of checkpoints: halves, not pairs
                rows = np.arange(len(wanted)).reshape(-1, decoder.head_dim // 2, 2).swapaxes(1, 2).reshape(-1)
                wanted = wanted[rows]
            fixed = bits == "W8A8" and method != "token" and bool(norm)
            assert (f"{name}.input_scale" in found) == fixed
            if norm:
                before = f"blk.{i}.{'attn_norm' if norm == 'input_layernorm' else 'ffn_norm'}.weight"
                gamma = file.tensors[before].format.dense(file.raw(file.tensors[before]))[0]
                weights = weights * found[f"model.layers.{i}.{norm}.weight"].astype(np.float32)
                wanted = wanted * gamma
            assert np.abs(weights - wanted).max() < (0.2 if bits == "W4" else 0.03) * np.abs(wanted).max(), name
    assert scheme["format"] == ("int-quantized" if bits == "W8A8" else "pack-quantized")
    assert config["tie_word_embeddings"] == decoder.tied
    assert ("lm_head.weight" in found) != decoder.tied


def test_the_config_says_which_model_it_is(tmp_path: Path) -> None:
    """Written from a file that was written from a checkpoint, it says of the model what the checkpoint's says."""
    source = tmp_path / "target.gguf"
    write_gguf(shipped("target"), source)
    tokenizer = Tokenizer(shipped("target"))
    texts = windows([tokenizer.encode(Path(json.__file__).read_text("utf-8")) * 2], 32, 8)
    out = tmp_path / "out"
    compress(source, out, Recipe("rtn", "W4", "F16", form=CHECKPOINT), texts)
    config = out / "config.json"
    found = json.loads(config.read_text("utf-8"))
    assert found.pop("quantization_config")["config_groups"]["group_0"]["weights"]["group_size"] == 32
    found["rope_parameters"] = None
    config.write_text(json.dumps(found), "utf-8")
    made, wanted = read_llama(out), read_llama(shipped("target"))
    assert {name: getattr(made, name) for name in vars(wanted) if name not in ("facts", "bos")} == {
        name: getattr(wanted, name) for name in vars(wanted) if name not in ("facts", "bos")
    }
    assert made.facts.eos_ids == wanted.facts.eos_ids
    assert Tokenizer(out).digest == tokenizer.digest


def test_what_vllm_cannot_run_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for method, bits, head, why in (
        ("outliertune", "W4A4", "F16", "no kernel"), ("mergequant", "W8A8", "F16", "splits"),
        ("osplus", "W8A8", "F16", "shifts"),
        ("gptq", "W4", "W8", "F16"),
    ):  # fmt: skip
        with pytest.raises(BadParameterError, match=why):
            Recipe(method, bits, head, form=CHECKPOINT)
    made = Made(factors=True)
    source = made.write(tmp_path / "model.gguf")
    with pytest.raises(ModelError, match="no words"):
        compress(source, tmp_path / "out", Recipe("rtn", "W4", "F16", form=CHECKPOINT), texts_of(made))
    assert [file.name for file in tmp_path.iterdir()] == ["model.gguf"]


K, TOLERANCE, HALF = 20, 0.02, 5
"""Likely tokens that vLLM is asked for, and how far log-probabilities may be from ours in the mean: activations between
two codes fall to either side. In bfloat16 so many times as far."""


def has(feature: str) -> bool:
    """Whether this CPU says that it can do something.

    With `vnni` it adds up products of 8 bits in 32. Others add pairs of them in 16, and cut off what is beyond those,
    so that oneDNN's sums there are not those of the integers. With `amx_tile` vLLM has integers multiplied by a kernel
    that takes activations in bfloat16 alone.
    """
    try:
        return feature in Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return False


def of_codes(folder: Path, text: list[int], cut_off: bool) -> np.ndarray:
    """Logits of a checkpoint of integers, by what its tensors and its config say. cut_off: as without VNNI."""
    found = tensors_of(folder)
    source = folder.parent / "target.gguf"
    decoder = replace(decoder_of(GgufFile(source)), paired=False)
    run = Run(decoder, found["model.embed_tokens.weight"].astype(np.float32)[[text]])

    def product(name: str, x: np.ndarray) -> np.ndarray:
        step = found.get(f"{name}.input_scale", np.abs(x).max(-1, keepdims=True) / np.float32(127))
        codes, weights = np.clip(np.rint(x / step), -128, 127), found[f"{name}.weight"].astype(np.float32)
        pairs = [(codes[..., i::2] + 128)[..., None, :] * weights[:, i::2] for i in (0, 1)] if cut_off else []
        sums = np.clip(sum(pairs), -32768, 32767).sum(-1) - 128 * weights.sum(-1) if cut_off else codes @ weights.T
        return (sums * found[f"{name}.weight_scale"][:, 0] * step).astype(np.float32)

    for i in range(decoder.layers):
        prefix = f"model.layers.{i}."
        names = {f"{there}.weight": f"{prefix}{own}" for own, there in MATRIX_NAMES.items()}
        layer = {f"{there}.weight": found[f"{prefix}{own}.weight"] for own, there in NORM_NAMES.items()}
        run.x = run.through(layer | {there: Product(partial(product, own)) for there, own in names.items()})
    x = normed(run.x[0], found["model.norm.weight"], decoder.eps)
    return x @ found["lm_head.weight"].astype(np.float32).T


@pytest.mark.slow
def test_the_engine_here_and_the_checkpoint_are_one_model(tmp_path: Path) -> None:
    """Both give the same rows, also where activations exceed all that was calibrated with.

    One activation that lies between two codes may fall to either side, and every later row differs by it. So texts
    are short, and most must agree, not all.
    """
    source, out, here = (tmp_path / name for name in ("target.gguf", "served", "here"))
    write_gguf(shipped("draft"), source)
    code = Tokenizer(shipped("draft")).encode(Path(json.__file__).read_text("utf-8"))
    texts = windows([code[:128], *(code[at : at + 8] for at in range(128, 1000, 40))], 8, 32)
    compress(source, out, Recipe("outliertune", "W8A8", "F16", form=CHECKPOINT), texts)
    compress(source, here, Recipe("outliertune", "W8A8", "F16"), texts)
    model, _ = load(str(here))
    apart = []
    for text in texts.held_out.tolist():
        ours = model.forward(model.new_cache(), 0, text, len(text))
        apart.append(np.abs(log_softmax(of_codes(out, text, cut_off=False)) - log_softmax(ours)).max())
    assert np.median(apart) < 1e-3


class Product:
    """What stands for a matrix where `x @ matrix.T` is to be another product."""

    __array_ufunc__ = None

    def __init__(self, product: Callable[[np.ndarray], np.ndarray]) -> None:
        self._product = product

    @property
    def T(self) -> Product:
        return self

    def __rmatmul__(self, x: np.ndarray) -> np.ndarray:
        return self._product(x)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("method", ["outliertune", "token"])
def test_vllm_serves_it(method: Any, tmp_path: Path) -> None:
    """Rows of the shipped target in integers, from vLLM, are those of its files' codes, and not the whole one's."""
    python = python_with_vllm()
    source, out = tmp_path / "target.gguf", tmp_path / "served"
    write_gguf(shipped("target"), source)
    texts = windows([Tokenizer(shipped("target")).encode(Path(json.__file__).read_text("utf-8"))], 64, 32)
    written = source if method == "token" else shipped("target")  # each has its own way to a tokenizer
    compress(written, out, Recipe(method, "W8A8", "F16", form=CHECKPOINT), texts)
    text = texts.held_out[0].tolist()
    ours = log_softmax(of_codes(out, text, cut_off=not has("vnni")))
    with vllm_server(python, out, "bfloat16" if has("amx_tile") else "float32") as server:
        served = VllmTarget(out, [server.url], top_k=K)
        (found,) = served.verify([Part(served.new_cache(), 0, text, len(text))])
    assert isinstance(found, np.ndarray), found
    given = np.isfinite(found)
    near, far = (np.abs(found - rows)[given].mean() for rows in (ours, log_softmax(of_engine("target", text))))
    assert near < (HALF if has("amx_tile") else 1) * TOLERANCE
    assert has("amx_tile") or near < 0.5 * far  # bfloat16 moves rows as far as integers do


def of_engine(name: str, text: list[int]) -> FloatArray:
    model, _ = load(name)
    return model.forward(model.new_cache(), 0, text, len(text))
