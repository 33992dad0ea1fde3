"""A GGUF file written as a folder that the onnx engine runs: graph, weights, tokenizer, config. All or nothing."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers

from airdraft.errors import ModelError, first_line, why
from airdraft.models.files.config import read_json
from airdraft.models.imports.decoder import DecoderFacts, decoder_of
from airdraft.models.imports.read import GgufFile
from airdraft.models.imports.tokenizer import GgufTokenizer
from airdraft.models.text import tokenizer_file

if TYPE_CHECKING:
    from airdraft.models.imports.matrices import Matrices

GRAPH, WEIGHTS = "model.onnx", "model.onnx_data"
_SAMPLING = {
    "temperature": "general.sampling.temp", "top_k": "general.sampling.top_k", "top_p": "general.sampling.top_p",
    "min_p": "general.sampling.min_p", "repetition_penalty": "general.sampling.penalty_repeat",
}  # fmt: skip
"""What generation_config.json calls the keys of a GGUF file that recommend sampling."""


@dataclass(frozen=True)
class Imported:
    """What became of a GGUF file."""

    family: str
    layers: int
    vocab: int
    context: int
    formats: dict[str, int]
    """Tensors by the format they have in the file."""
    source_bytes: int
    weight_bytes: int


@dataclass(frozen=True)
class _Checked:
    """A file that has passed every check, before any weight is read."""

    file: GgufFile
    decoder: DecoderFacts
    tokenizer: dict[str, Any]
    tokenizer_config: dict[str, Any]
    config: dict[str, Any]
    sampling: dict[str, Any]
    """What the model recommends."""


def import_gguf(
    path: Path,
    out: Path,
    progress: Callable[[float], None] = lambda share: None,
    matrices: Callable[..., Matrices] | None = None,
) -> Imported:
    """Write the model in the file `path` as the folder `out`, which appears when it is complete.

    progress: told the share that is done, 0 to 1. matrices: see `GraphWriter`.
    Raises: `ModelError` if the file is no model that the onnx engine runs, or `out` holds something.
    """
    return _write(_check(path), out, progress, matrices)


def import_checkpoint(folder: Path, out: Path, progress: Callable[[float], None] = lambda share: None) -> Imported:
    """As `import_gguf`, of a checkpoint in safetensors: plain, or in the codes of AWQ or GPTQ, see `checkpoint`."""
    from airdraft.models.imports.ordered import CheckpointMatrices  # noqa: PLC0415  # needs onnx

    return _write(_check_folder(folder), out, progress, CheckpointMatrices)


def _check_folder(folder: Path) -> _Checked:
    """As `_check`, of a checkpoint."""
    from airdraft.models.imports.checkpoint import Checkpoint  # noqa: PLC0415  # most models are none

    file = Checkpoint(folder)
    decoder = replace(decoder_of(file), paired=False)
    paths = text_paths(folder)
    tokenizer, settings = (read_json(path) if path.is_file() else {} for path in paths[:2])
    if not tokenizer:
        raise ModelError(f"{folder} has no tokenizer.json; copy it there from the original model")
    if paths[2].is_file():
        settings["chat_template"] = paths[2].read_text("utf-8")
    said = read_json(paths[3]) if paths[3].is_file() else {}
    sampling = {name: said[name] for name in _SAMPLING if said.get(name) is not None}
    config = _config(decoder, file.facts.eos_ids, folder.resolve().name)
    return _Checked(file, decoder, _parsed(folder, tokenizer), settings, config, sampling)


def text_paths(folder: Path) -> tuple[Path, Path, Path, Path]:
    """Where what an import takes of a checkpoint besides config and weights lies, if it is there."""
    names = "tokenizer_config.json", "chat_template.jinja", "generation_config.json"
    first, second, third = (folder / name for name in names)
    return tokenizer_file(folder), first, second, third


def _write(
    checked: _Checked, out: Path, progress: Callable[[float], None], matrices: Callable[..., Matrices] | None
) -> Imported:
    try:
        if out.exists() and any(out.iterdir()):
            raise ModelError(f"{out} is not empty; name a folder that does not exist yet")
        out.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            _write_text(checked, made)
            written = _write_graph(checked.file, checked.decoder, made, progress, matrices)
            made.chmod(0o755)
            os.replace(made, out)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as problem:
        raise ModelError(
            f"{out} cannot be written ({why(problem)}); choose another place, or set XDG_CACHE_HOME"
        ) from problem
    file, decoder = checked.file, checked.decoder
    formats = Counter(tensor.format.name for tensor in file.tensors.values())
    return Imported(decoder.family, decoder.layers, decoder.vocab, decoder.context, dict(formats), file.size, written)


def write_texts(source: Path, out: Path) -> None:
    """Write config, tokenizer and sampling of a model that can be imported into the folder `out`; no weights.

    source: a GGUF file, or the folder of a checkpoint. Raises: `ModelError`; `OSError` if they cannot be written.
    """
    _write_text(_check_folder(source) if source.is_dir() else _check(source), out)


def write_graph(file: GgufFile, out: Path, matrices: Callable[..., Matrices] | None = None) -> None:
    """Write graph and weights of a GGUF file, which may lack a tokenizer, into the folder `out`.

    matrices: see `GraphWriter`. Raises: `ModelError`; `OSError` if they cannot be written.
    """
    _write_graph(file, decoder_of(file), out, lambda share: None, matrices)


def write_text_files(path: Path, out: Path) -> None:
    """Write the tokenizer, its config and the model's config of a GGUF file into the folder `out`; no weights.

    Raises: `ModelError` if the file's header cannot be read, or its tokenizer is not known.
    """
    file = GgufFile(path)
    tokenizer = GgufTokenizer(file)
    facts = {"vocab_size": len(tokenizer.tokens), "eos_token_id": tokenizer.ends()}
    context = file.metadata.get(f"{file.family()}.context_length")
    if type(context) is int and context > 0:  # a server's config is read from here
        facts["max_position_embeddings"] = context
    _write_json(out / "tokenizer.json", _parsed(path, tokenizer.tokenizer()))
    _write_json(out / "tokenizer_config.json", tokenizer.config())
    _write_json(out / "config.json", facts)
    _write_sampling(_sampling(file), out)


def check_header(file: GgufFile) -> DecoderFacts:
    """What decoder a file holds, from its header alone. Raises: `ModelError` for a file that cannot be imported."""
    decoder = decoder_of(file)
    GgufTokenizer(file)
    return decoder


def _check(path: Path) -> _Checked:
    """Read the header of `path` and refuse what cannot be imported. Raises: `ModelError`."""
    file = GgufFile(path)
    decoder = decoder_of(file)
    tokenizer = GgufTokenizer(file)
    if len(tokenizer.tokens) > decoder.vocab:
        raise ModelError(
            f"{path} lists {len(tokenizer.tokens)} tokens and has rows for {decoder.vocab}; convert it again with "
            "llama.cpp's converter, which leaves out tokens without a row"
        )
    config = _config(decoder, tokenizer.ends(), str(file.metadata.get("general.name") or path.stem)[:200])
    return _Checked(file, decoder, _parsed(path, tokenizer.tokenizer()), tokenizer.config(), config, _sampling(file))


def _config(decoder: DecoderFacts, ends: Sequence[int], name: str) -> dict[str, Any]:
    """What config.json holds."""
    return {
        "model_type": decoder.family,
        "vocab_size": decoder.vocab,
        "max_position_embeddings": decoder.context,
        "hidden_size": decoder.width,
        "intermediate_size": decoder.hidden,
        "num_hidden_layers": decoder.layers,
        "num_attention_heads": decoder.heads,
        "num_key_value_heads": decoder.kv_heads,
        "head_dim": decoder.head_dim,
        "eos_token_id": list(ends),
        "_name_or_path": name,
    }


def _parsed(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """The contents of tokenizer.json, which the library that will read them takes. Raises: `ModelError`."""
    try:
        tokenizers.Tokenizer.from_str(json.dumps(content))
    except Exception as problem:  # the library raises bare Exception
        raise ModelError(f"{path} has a broken tokenizer ({first_line(problem)}); fetch it again") from problem
    return content


def _write_text(checked: _Checked, folder: Path) -> None:
    _write_json(folder / "tokenizer.json", checked.tokenizer)
    _write_json(folder / "tokenizer_config.json", checked.tokenizer_config)
    _write_json(folder / "config.json", checked.config)
    _write_sampling(checked.sampling, folder)


def _sampling(file: GgufFile) -> dict[str, Any]:
    """What a GGUF file recommends for sampling, as generation_config.json calls it."""
    return {name: file.metadata[key] for name, key in _SAMPLING.items() if key in file.metadata}


def _write_sampling(said: dict[str, Any], folder: Path) -> None:
    if said:
        _write_json(folder / "generation_config.json", {name: _short(value) for name, value in said.items()})


def _short(value: Any) -> Any:
    """A number in single precision as people write it: 0.95, not 0.949999988079071. What is none is refused later."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _write_graph(
    file: GgufFile,
    decoder: DecoderFacts,
    folder: Path,
    progress: Callable[[float], None],
    matrices: Callable[..., Matrices] | None,
) -> int:
    """Write graph and weights. Returns: bytes of the weights."""
    from airdraft.models.imports.graph import GraphWriter  # noqa: PLC0415  # onnx takes half a second
    from airdraft.models.imports.matrices import Matrices  # noqa: PLC0415
    from airdraft.models.imports.nodes import Weights  # noqa: PLC0415

    done, size = 0, file.size

    def read(count: int) -> None:
        nonlocal done
        done += count
        progress(min(1.0, done / size))

    with (folder / WEIGHTS).open("wb") as out:
        model = GraphWriter(file, decoder, Weights(out, WEIGHTS, read), matrices or Matrices).model()
        written = out.tell()
    (folder / GRAPH).write_bytes(model.SerializeToString(deterministic=True))
    return written


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1 if path.name == "config.json" else None), "utf-8")
