"""A checkpoint in the format compressed-tensors, which vLLM serves, made of a smaller model's GGUF file.

The codes are the file's own, or those of its folded weights; nothing is calibrated here. Each layer is a file of its
own, so that one is in memory at a time. How codes lie in tensors, and the keys of `quantization_config`, are those of
the package compressed-tensors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airdraft.compress.integers import NORMS, Integers
from airdraft.compress.layers import MATRICES
from airdraft.errors import BadParameterError, ModelError
from airdraft.models.files.config import read_json
from airdraft.models.imports.decoder import DecoderFacts, decoder_of
from airdraft.models.imports.read import GgufFile
from airdraft.models.llama import MATRIX_NAMES, NORM_NAMES, LlamaRope, unpaired

METHODS = ("rtn", "awq", "gptq", "token", "tensor", "smoothquant", "outliertune", "repquant")
"""Methods whose activations are codes as vLLM makes them, or no codes."""
SERVED = ("W8A8", "W8", "W4")
"""Bits that vLLM has kernels for, on one machine or another."""
_GROUPS = (32, 64, 128)
_TOKEN, _FIXED = {"strategy": "token", "dynamic": True}, {"strategy": "tensor", "dynamic": False}
_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_OF_LAYER = {there: own for own, there in (MATRIX_NAMES | NORM_NAMES).items()} | {
    "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
}  # fmt: skip
_ELSEWHERE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192.0}
"""The numbers that Llama 3's models have, but for the factor. A GGUF file holds only what follows from them."""

Tensors = dict[str, NDArray[Any]]


def check_served(method: str, bits: str, head: str, group: int | None) -> None:
    """Refuse what vLLM would not run. Raises: `BadParameterError`, or `ModelError` where a package is missing."""
    if bits not in SERVED:
        raise BadParameterError(f"vLLM has no kernel for {bits}; choose {', '.join(SERVED)}, or another form", "bits")
    if method not in METHODS:
        raise BadParameterError(
            f"{method} splits or shifts channels, or scales them for each token, and vLLM does none of that; choose "
            f"{', '.join(METHODS)}", "method",
        )  # fmt: skip
    if head != "F16":
        raise BadParameterError(f"vLLM scores tokens in F16, not in {head}; choose --head F16", "head")
    if group not in (None, *_GROUPS):
        known = ", ".join(map(str, _GROUPS))
        raise BadParameterError(f"vLLM has no kernel for blocks of {group}; choose {known}", "group")
    try:
        import safetensors.numpy  # noqa: F401, PLC0415  # an extra
    except ImportError as problem:
        raise ModelError("writing a checkpoint needs safetensors; install airdraft[llamacpp]") from problem


def write_checkpoint(file: GgufFile, out: Path, integers: Integers | None) -> None:
    """Write the smaller model in `file` into the folder `out`, which holds its tokenizer: weights and config.

    integers: what a model in whole numbers is beside its folded weights; None: weights alone have few bits.
    Raises: `ModelError` if the model turns positions as no config can say; `OSError` if nothing can be written.
    """
    from safetensors.numpy import save_file  # noqa: PLC0415

    decoder = decoder_of(file)
    places: dict[str, str] = {}
    size = 0
    for i, tensors in enumerate(_files(file, decoder, integers)):
        name = f"model-{i + 1:05}-of-{decoder.layers + 1:05}.safetensors"
        save_file(tensors, out / name, {"format": "pt"})
        (out / name).chmod(0o644)  # the library writes 0600
        places |= dict.fromkeys(tensors, name)
        size += sum(each.nbytes for each in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), "utf-8")
    config = (
        read_json(out / "config.json") | config_of(file, decoder) | {"quantization_config": _scheme(file, integers)}
    )
    (out / "config.json").write_text(json.dumps(config, indent=1), "utf-8")


def _files(file: GgufFile, decoder: DecoderFacts, integers: Integers | None) -> Iterator[Tensors]:
    """The tensors of each file: of a layer, and at last all others."""
    matrices = {name: kind for kind, names in MATRICES.items() for name in names}
    for i in range(decoder.layers):
        found: Tensors = {}
        prefix = f"blk.{i}."
        for name in (name for name in file.tensors if name.startswith(prefix)):
            stem, _, what = name.removeprefix(prefix).rpartition(".")
            own = f"model.layers.{i}.{_OF_LAYER[stem]}"
            heads = {"attn_q": decoder.heads, "attn_k": decoder.kv_heads}.get(stem) if decoder.paired else None
            if what == "weight" and stem in matrices:
                parts = _integers(file, name, integers) if integers else _packed(file, name)
                rows = {part for part in parts if part != "weight_shape"}
                found |= {
                    f"{own}.{part}": unpaired(each, heads) if heads and part in rows else each
                    for part, each in parts.items()
                }
                if integers and integers.fixed and matrices[stem] in NORMS:
                    found[f"{own}.input_scale"] = np.ones(1, np.float32)
            else:
                plain = file.numbers(name)  # whole: a norm's output is the code, and half precision would change it
                found[f"{own}.{what}"] = unpaired(plain, heads) if heads else plain
        yield found
    others = {f"{own}.weight": file.numbers(f"{stem}.weight") for stem, own in _ELSEWHERE.items()
              if f"{stem}.weight" in file.tensors}  # fmt: skip
    yield {name: each.astype(np.float16) if each.ndim > 1 else each for name, each in others.items()}


def _integers(file: GgufFile, name: str, integers: Integers) -> Tensors:
    step = integers.parts[f"{name.removesuffix('.weight')}.step"][:, None]
    return {"weight": np.rint(file.numbers(name) / step).astype(np.int8), "weight_scale": step}


def _packed(file: GgufFile, name: str) -> Tensors:
    """Codes of a matrix as compressed-tensors packs them: several in a whole number, the first in its lowest bits."""
    there = file.tensors[name]
    found = there.format.split(file.raw(there))
    bits = there.format.bits
    together = found.codes.reshape(len(found.codes), -1, 32 // bits).astype(np.uint32)
    packed = np.bitwise_or.reduce(together << np.arange(0, 32, bits, dtype=np.uint32), -1)
    return {
        "weight_packed": packed.view(np.int32),
        "weight_scale": found.scales.astype(np.float16),
        "weight_shape": np.array(there.shape, np.int64),
    }


def _scheme(file: GgufFile, integers: Integers | None) -> dict[str, Any]:
    """What config.json says of the codes."""
    common = {"type": "int", "symmetric": True}
    groups: list[tuple[list[str], dict[str, Any], dict[str, Any] | None]]
    if integers is None:
        form = file.tensors["blk.0.ffn_down.weight"].format
        weights = {"num_bits": form.bits, **common, "strategy": "group", "group_size": form.block}
        groups, kind = [(["Linear"], weights, None)], "pack-quantized"
    else:
        weights = {"num_bits": 8, **common, "strategy": "channel", "dynamic": False}
        each, fixed = ({"num_bits": 8, **common, **kind} for kind in (_TOKEN, _FIXED))
        behind = [f"re:.*{_OF_LAYER[name]}$" for kind in NORMS for name in MATRICES[kind]]
        others = [f"re:.*{_OF_LAYER[name]}$" for kind in set(MATRICES) - set(NORMS) for name in MATRICES[kind]]
        groups, kind = [(["Linear"], weights, each)], "int-quantized"
        if integers.fixed:
            groups = [(behind, weights, fixed), (sorted(others), weights, each)]
    return {
        "quant_method": "compressed-tensors", "format": kind, "quantization_status": "compressed",
        "ignore": ["lm_head"], "kv_cache_scheme": None,
        "config_groups": {
            f"group_{i}": {"targets": targets, "weights": weights, "input_activations": activations}
            for i, (targets, weights, activations) in enumerate(groups)
        },
    }  # fmt: skip


def config_of(file: GgufFile, decoder: DecoderFacts) -> dict[str, Any]:
    """What config.json says of the model. Raises: `ModelError` if no words of a config give its frequencies."""
    biased = "blk.0.attn_q.bias" in file.tensors
    return {
        "architectures": [_CLASSES[decoder.family]], "model_type": decoder.family, "hidden_act": "silu",
        "hidden_size": decoder.width, "intermediate_size": decoder.hidden, "num_hidden_layers": decoder.layers,
        "num_attention_heads": decoder.heads, "num_key_value_heads": decoder.kv_heads, "head_dim": decoder.head_dim,
        "rms_norm_eps": float(str(np.float32(decoder.eps))), "tie_word_embeddings": decoder.tied,
        "vocab_size": decoder.vocab,
        "max_position_embeddings": decoder.context, "dtype": "float16", "torch_dtype": "float16",
        "attention_bias": biased, "mlp_bias": "blk.0.ffn_up.bias" in file.tensors,
        **_rope(file, decoder),
    }  # fmt: skip


def _rope(file: GgufFile, decoder: DecoderFacts) -> dict[str, Any]:
    theta = float(file.metadata.get(f"{decoder.family}.rope.freq_base", 10000.0))
    plain = theta ** -(np.arange(0, decoder.head_dim, 2) / decoder.head_dim)
    factors = plain / decoder.frequencies
    numbers = _LLAMA3 | {"factor": round(float(factors.max()), 4)}
    known: list[dict[str, Any]] = [
        {"rope_type": "default"}, {"rope_type": "linear", "factor": numbers["factor"]},
        {"rope_type": "llama3", **numbers},
    ]  # fmt: skip
    for said in known:
        made = LlamaRope(said["rope_type"], theta, {name: said[name] for name in said if name != "rope_type"})
        own = made.factors(decoder.head_dim)
        if np.allclose(factors, said.get("factor", 1.0) if own is None else own, rtol=1e-4):
            scaling = None if said["rope_type"] == "default" else said
            return {"rope_theta": theta, "rope_scaling": scaling, "rope_parameters": said | {"rope_theta": theta}}
    raise ModelError(f"{file.path} turns positions by factors that config.json has no words for; choose another form")
