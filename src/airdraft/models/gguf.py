"""Writes a Llama as GGUF, the format of llama.cpp: metadata, byte-level BPE vocabulary, tensors.

Names and meanings are those of the GGUF specification (github.com/ggml-org/ggml, docs/gguf.md).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import tokenizers
from numpy.typing import NDArray

from airdraft.errors import ModelError
from airdraft.models.config import read_config, read_json
from airdraft.models.text import tokenizer_file

WeightType = Literal["f32", "f16", "q8_0"]
_ELSE = "convert it with llama.cpp's convert_hf_to_gguf.py"

_TENSORS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_LAYER_TENSORS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# llama.cpp knows pre-tokenizers by name only, and each name says as well whether a piece that is in the vocabulary
# is taken whole before any merge.
_PRE_TOKENIZERS = {(_LLAMA3_SPLIT, True): "llama-bpe", (None, False): "gpt-2"}


def write_gguf(folder: Path, out: Path, weights: WeightType = "f32") -> None:
    """Writes the Llama in `folder` (config.json, model.safetensors, tokenizer.json) to `out`.

    Matrices are stored as `weights`, norms always in fp32. Files that make a folder a model, tokenizer.json and the
    configs, are copied beside `out`, so that its folder can be loaded.
    Raises: `ModelError` if the extra or a file is missing, or the model is none that this writer knows.
    """
    try:
        import gguf  # noqa: PLC0415  # an extra
    except ImportError as problem:
        raise ModelError("writing GGUF needs the gguf package; install airdraft[llamacpp]") from problem
    if weights not in get_args(WeightType):
        raise ModelError(f"no weight type {weights!r}; there are {', '.join(get_args(WeightType))}")
    config = _config(folder)
    writer = gguf.GGUFWriter(None, "llama")
    writer.add_name(folder.resolve().name)
    _add_sizes(writer, folder, config)
    _add_tokenizer(writer, folder)
    kind = gguf.GGMLQuantizationType[weights.upper()]
    writer.add_file_type({"f32": 0, "f16": 1, "q8_0": 7}[weights])  # gguf.LlamaFileType
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for name, tensor in _tensors(folder, config).items():
        one = gguf.GGMLQuantizationType.F32 if tensor.ndim == 1 else kind
        try:
            writer.add_tensor(name, gguf.quantize(tensor, one), raw_dtype=one)
        except gguf.QuantError as problem:
            raise ModelError(f"{name} of {folder} cannot be {weights} ({problem}); choose f16") from problem
    try:
        beside = _beside(folder, out)
        writer.write_header_to_file(out)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        for file in beside:
            shutil.copyfile(file, out.parent / file.name)
    except OSError as problem:
        raise ModelError(f"{out} cannot be written ({problem.strerror}); choose another place") from problem


def _config(folder: Path) -> dict[str, Any]:
    """The config of a plain Llama. Raises: `ModelError` if it is anything that the tensors alone do not tell."""
    read_config(folder)
    config = read_json(folder / "config.json")
    plain = {"model_type": "llama", "hidden_act": "silu", "rope_scaling": None, "attention_bias": False,
             "mlp_bias": False}  # fmt: skip
    for name, value in plain.items():
        if config.get(name, value) != value:
            raise ModelError(f"{folder} has {name} = {config[name]!r}, which this writer does not know; {_ELSE}")
    return config


def _add_sizes(writer: Any, folder: Path, config: dict[str, Any]) -> None:
    facts = read_config(folder)
    try:
        heads = config["num_attention_heads"]
        writer.add_context_length(facts.max_context)
        writer.add_vocab_size(facts.vocab_size)
        writer.add_embedding_length(config["hidden_size"])
        writer.add_block_count(config["num_hidden_layers"])
        writer.add_feed_forward_length(config["intermediate_size"])
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    except KeyError as missing:
        raise ModelError(f"{folder / 'config.json'} does not say {missing.args[0]}; add it") from None
    writer.add_head_count(heads)
    writer.add_head_count_kv(facts.kv_heads)
    writer.add_key_length(facts.head_dim)
    writer.add_value_length(facts.head_dim)
    writer.add_rope_dimension_count(facts.head_dim)
    writer.add_rope_freq_base(config.get("rope_theta", 10000.0))


def _add_tokenizer(writer: Any, folder: Path) -> None:
    path = tokenizer_file(folder)
    content = read_json(path) if path.is_file() else {}
    model, facts = content.get("model", {}), read_config(folder)
    name = _PRE_TOKENIZERS.get((_split(content), bool(model.get("ignore_merges"))))
    if model.get("type") != "BPE" or name is None or content.get("normalizer") is not None:
        raise ModelError(f"{path} is no byte-level BPE with a pre-tokenizer known here; {_ELSE}")
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    added = tokenizer.get_added_tokens_decoder()
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    # gguf.TokenType: 1 normal, 3 control, 4 user-defined, 5 unused
    types = [(3 if added[i].special else 4) if i in added else 1 for i in range(size)]
    unused = range(size, facts.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name)
    writer.add_token_list([*(tokenizer.id_to_token(i) for i in range(size)), *(f"[PAD{i}]" for i in unused)])
    writer.add_token_types([*types, *(5 for _ in unused)])
    writer.add_token_merges([each if isinstance(each, str) else " ".join(each) for each in model["merges"]])
    # What the tokenizer puts before every text, whichever of its ways it has for that.
    before = tokenizer.encode("").ids
    if len(before) > 1:
        raise ModelError(f"{path} puts {len(before)} tokens around a text, and GGUF knows one; {_ELSE}")
    writer.add_add_bos_token(bool(before))
    writer.add_add_eos_token(False)
    for token in before:
        writer.add_bos_token_id(token)
    ends = (writer.add_eos_token_id, writer.add_eot_token_id, writer.add_eom_token_id)
    if len(facts.eos_ids) > len(ends):
        raise ModelError(f"{folder} has {len(facts.eos_ids)} tokens that end a text, and GGUF knows 3; {_ELSE}")
    for add, token in zip(ends, facts.eos_ids, strict=False):
        add(token)


def _split(content: dict[str, Any]) -> str | None:
    """The regular expression that cuts a text before its bytes are spelt; None for GPT-2's, "" for what is neither."""
    cut = content.get("pre_tokenizer") or {}
    steps = cut.get("pretokenizers", [cut])
    match [step.get("type") for step in steps]:
        case ["ByteLevel"] if steps[0].get("use_regex", True) and not steps[0].get("add_prefix_space"):
            return None
        case ["Split", "ByteLevel"] if not steps[1].get("use_regex") and not steps[1].get("add_prefix_space"):
            return str(steps[0].get("pattern", {}).get("Regex", ""))
    return ""


def _tensors(folder: Path, config: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """All tensors, fp32, under llama.cpp's names. Raises: `ModelError`."""
    try:
        import safetensors.numpy  # noqa: PLC0415  # an extra
    except ImportError as problem:
        raise ModelError("reading weights needs safetensors; install airdraft[llamacpp]") from problem
    path = folder / "model.safetensors"
    if not path.is_file():
        raise ModelError(f"{folder} has no model.safetensors; {_ELSE}")
    try:
        found = safetensors.numpy.load_file(path)
    except Exception as problem:  # its own error, or NumPy's for a type NumPy lacks
        raise ModelError(f"{path} cannot be read ({problem}); fetch it again, or {_ELSE}") from problem
    heads = {"attn_q": config["num_attention_heads"], "attn_k": read_config(folder).kv_heads}
    made = {}
    for name, tensor in found.items():
        stem = name.removesuffix(".weight")
        if stem == "lm_head" and config.get("tie_word_embeddings"):
            continue
        layer, short = "", _TENSORS.get(stem)
        if short is None:
            _, _, rest = stem.partition("model.layers.")
            layer, _, inner = rest.partition(".")
            short = _LAYER_TENSORS.get(inner)
        if short is None:
            raise ModelError(f"{path} has {name}, which is no part of a plain Llama; {_ELSE}")
        rows = tensor.astype(np.float32)
        made[f"blk.{layer}.{short}.weight" if layer else f"{short}.weight"] = (
            _paired(rows, heads[short]) if short in heads else rows
        )
    return made


def _paired(matrix: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows of queries or keys [heads × head_dim, hidden] in llama.cpp's order.

    RoPE turns pairs of coordinates: transformers pairs i with i + head_dim/2, llama.cpp 2i with 2i + 1.
    """
    out, hidden = matrix.shape
    return np.ascontiguousarray(matrix.reshape(heads, 2, out // heads // 2, hidden).swapaxes(1, 2).reshape(out, hidden))


def _beside(folder: Path, out: Path) -> list[Path]:
    """What to copy beside `out`. Raises: `ModelError` if another model's files are there."""
    out.parent.mkdir(parents=True, exist_ok=True)
    files = [tokenizer_file(folder), *(folder / name for name in ("config.json", "generation_config.json"))]
    missing = [file for file in files if file.is_file() and not (out.parent / file.name).exists()]
    for file in files:
        there = out.parent / file.name
        if file not in missing and file.is_file() and there.read_bytes() != file.read_bytes():
            raise ModelError(
                f"{out.parent} holds another model's {file.name}; choose a folder of its own for {out.name}"
            )
    return missing
