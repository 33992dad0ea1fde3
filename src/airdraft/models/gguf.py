"""Writes a Llama as GGUF, the format of llama.cpp: metadata, byte-level BPE vocabulary, tensors.

Names and meanings are those of the GGUF specification (github.com/ggml-org/ggml, docs/gguf.md). What is read back has
the rows of the original: so every value of config.json and every tensor is either written, or known to change no row,
or refused by name.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import tokenizers
from numpy.typing import NDArray

from airdraft.errors import ModelError, first_line
from airdraft.models.files.config import read_json, shown
from airdraft.models.llama import COMPUTED, CONVERT, Llama, paired, read_llama
from airdraft.models.text import tokenizer_file

WeightType = Literal["f32", "f16", "q8_0"]

_CHAT = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# llama.cpp knows pre-tokenizers by name only, and each name says as well whether a piece that is in the vocabulary
# is taken whole before any merge.
_PRE_TOKENIZERS = {(_LLAMA3_SPLIT, True): "llama-bpe", (None, False): "gpt-2"}


def write_gguf(folder: Path, out: Path, weights: WeightType = "f32") -> None:
    """Writes the Llama in `folder` (config.json, model.safetensors, tokenizer.json) to `out`.

    Matrices are stored as `weights`, norms and biases always in fp32. Files that make a folder a model, tokenizer.json,
    the configs and the chat template, are copied beside `out`, so that its folder can be loaded.
    Raises: `ModelError` if the extra or a file is missing, or the model is none that this writer knows.
    """
    try:
        import gguf  # noqa: PLC0415  # an extra
    except ImportError as problem:
        raise ModelError("writing GGUF needs the package gguf; install it, `pip install gguf`") from problem
    if weights not in get_args(WeightType):
        raise ModelError(f"no weight type {weights!r}; there are {', '.join(get_args(WeightType))}")
    llama = read_llama(folder)
    writer = gguf.GGUFWriter(None, "llama")
    writer.add_name(folder.resolve().name)
    _add_sizes(writer, llama)
    _add_tokenizer(writer, folder, llama)
    kind = gguf.GGMLQuantizationType[weights.upper()]
    writer.add_file_type({"f32": 0, "f16": 1, "q8_0": 7}[weights])  # gguf.LlamaFileType
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    factors = llama.rope.factors(llama.head_dim)
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors, raw_dtype=gguf.GGMLQuantizationType.F32)
    for name, tensor in _tensors(folder, llama).items():
        one = gguf.GGMLQuantizationType.F32 if tensor.ndim == 1 else kind
        try:
            with np.errstate(over="raise"):
                writer.add_tensor(name, gguf.quantize(tensor, one), raw_dtype=one)
        except gguf.QuantError as problem:
            raise ModelError(f"{name} of {folder} cannot be {weights} ({problem}); choose f16") from problem
        except FloatingPointError as problem:
            raise ModelError(f"{name} of {folder} has numbers beyond {weights}; choose f32") from problem
    part = out.with_name(f"{out.name}.part")  # what was there stays until the new one is complete
    try:
        beside = _beside(folder, out)
        writer.write_header_to_file(part)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()  # and flush, before it is in its place
        for file in beside:
            shutil.copyfile(file, out.parent / file.name)
        os.replace(part, out)
    except OSError as problem:
        raise ModelError(f"{out} cannot be written ({problem.strerror}); choose another place") from problem
    finally:
        writer.close()
        if part.is_file():
            part.unlink()


def _add_sizes(writer: Any, llama: Llama) -> None:
    writer.add_context_length(llama.facts.max_context)
    writer.add_vocab_size(llama.facts.vocab_size)
    writer.add_embedding_length(llama.hidden)
    writer.add_block_count(llama.layers)
    writer.add_feed_forward_length(llama.inner)
    writer.add_layer_norm_rms_eps(llama.norm_eps)
    writer.add_head_count(llama.heads)
    writer.add_head_count_kv(llama.kv_heads)
    writer.add_key_length(llama.head_dim)
    writer.add_value_length(llama.head_dim)
    writer.add_rope_dimension_count(llama.head_dim)
    writer.add_rope_freq_base(llama.rope.theta)
    if llama.rope.kind == "linear":
        import gguf  # noqa: PLC0415  # an extra

        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(llama.rope.numbers["factor"])


def _add_tokenizer(writer: Any, folder: Path, llama: Llama) -> None:
    path = tokenizer_file(folder)
    content = read_json(path) if path.is_file() else {}
    model, facts = content.get("model", {}), llama.facts
    name = _PRE_TOKENIZERS.get((_split(content), bool(model.get("ignore_merges"))))
    if model.get("type") != "BPE" or name is None or content.get("normalizer") is not None:
        raise ModelError(f"{path} is no byte-level BPE with a pre-tokenizer known here; {CONVERT}")
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
        raise ModelError(f"{path} puts {len(before)} tokens around a text, and GGUF knows one; {CONVERT}")
    writer.add_add_bos_token(bool(before))
    writer.add_add_eos_token(False)
    for token in before or [each for each in [llama.bos] if each is not None]:
        writer.add_bos_token_id(token)
    ends = (writer.add_eos_token_id, writer.add_eot_token_id, writer.add_eom_token_id)
    if len(facts.eos_ids) > len(ends):
        raise ModelError(f"{folder} has {len(facts.eos_ids)} tokens that end a text, and GGUF knows 3; {CONVERT}")
    if not facts.eos_ids:
        raise ModelError(f"{folder} has no token that ends a text, and GGUF takes 11 then; add eos_token_id")
    for add, token in zip(ends, facts.eos_ids, strict=False):
        add(token)
    template = _template(folder)
    if template is not None:
        writer.add_chat_template(template)


def _template(folder: Path) -> Any:
    """The chat template: of chat_template.jinja, or of tokenizer_config.json, there maybe several by name."""
    alone, path = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    try:
        if alone.is_file():
            return alone.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise ModelError(f"{alone} cannot be read ({first_line(problem)}); fetch it again") from problem
    found = read_json(path).get("chat_template") if path.is_file() else None
    several = found if isinstance(found, list) else []
    named = all(isinstance(each, dict) and {*map(type, each.values())} == {str} for each in several)
    if (
        not isinstance(found, str | list | None)
        or not named
        or any({*each} != {"name", "template"} for each in several)
    ):
        raise ModelError(f"{path} says chat_template = {shown(found)}; it must be a text, or texts by name")
    return found


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


def _tensors(folder: Path, llama: Llama) -> dict[str, NDArray[Any]]:
    """All tensors, fp32, under llama.cpp's names. Raises: `ModelError` unless they are just those of the config."""
    try:
        import safetensors.numpy  # noqa: PLC0415  # an extra
    except ImportError as problem:
        raise ModelError("reading weights needs safetensors; install airdraft[llamacpp]") from problem
    path = folder / "model.safetensors"
    if not path.is_file():
        raise ModelError(f"{folder} has no model.safetensors; {CONVERT}")
    try:
        found = safetensors.numpy.load_file(path)
    except Exception as problem:  # its own error, or NumPy's for a type NumPy lacks
        raise ModelError(f"{path} cannot be read ({first_line(problem)}); fetch it again, or {CONVERT}") from problem
    made, wanted = {}, llama.tensors()
    for name, tensor in found.items():
        if name.endswith(COMPUTED) or (name == "lm_head.weight" and llama.tied):
            continue
        if name not in wanted:
            raise ModelError(f"{path} has {shown(name)}, which is no part of a Llama of this config; {CONVERT}")
        there, shape, heads = wanted.pop(name)
        if tensor.shape != shape:
            raise ModelError(f"{path} has {name} of shape {tensor.shape}, and its config wants {shape}; mend that")
        if tensor.dtype.kind != "f" or not np.isfinite(tensor).all():
            raise ModelError(f"{path} has {name} in {tensor.dtype}, or with numbers that are none; {CONVERT}")
        rows = tensor.astype(np.float32)
        made[there] = rows if heads is None else paired(rows, heads)
    if wanted:
        raise ModelError(f"{path} lacks {next(iter(wanted))}, which its config wants; fetch it again")
    return made


def _beside(folder: Path, out: Path) -> list[Path]:
    """What to copy beside `out`. Raises: `ModelError` if another model's files are there."""
    out.parent.mkdir(parents=True, exist_ok=True)
    files = [tokenizer_file(folder), *(folder / name for name in ("config.json", "generation_config.json", *_CHAT))]
    missing = [file for file in files if file.is_file() and not (out.parent / file.name).exists()]
    for file in files:
        there = out.parent / file.name
        # One that only the other model has would be read as this one's, too.
        if there.exists() and (not file.is_file() or there.read_bytes() != file.read_bytes()):
            raise ModelError(
                f"{out.parent} holds another model's {file.name}; choose a folder of its own for {out.name}"
            )
    return missing
