"""`airdraft import`: a GGUF file or a checkpoint made a folder that the default install runs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from airdraft.cli import options
from airdraft.models.engines.llamacpp import gguf_file
from airdraft.models.files.folder import locate
from airdraft.models.files.variants import CHECKPOINT, GGUF
from airdraft.models.files.weights import visible
from airdraft.models.imports.write import import_checkpoint, import_gguf


def import_(
    model: Annotated[
        str,
        typer.Argument(
            help="A model of the families Llama, Mistral, Qwen2, Qwen3, by any name of a MODEL: a GGUF file, or "
            "safetensors, plain or in the codes of AWQ or GPTQ."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The folder to write; it must not exist, or be empty.")],
    as_json: options.Json = False,
) -> None:
    """Turn a GGUF file or a checkpoint into an onnx folder.

    Quantised weights stay as they are, and half-precision ones become single
    precision: no weight is rounded. Commands do this by themselves, into a
    cache, when MODEL is a GGUF file, or in the codes of AWQ or GPTQ.

      airdraft import my-8b.Q4_K_M.gguf ./my-8b
    """
    place, _ = locate(model, {CHECKPOINT: "", GGUF: ""})
    held = place.is_dir() and any(visible(place, "*.safetensors"))
    made = import_checkpoint(place, out) if held else import_gguf(gguf_file(place), out)
    if as_json:
        typer.echo(json.dumps(asdict(made)))
        return
    formats = ", ".join(f"{count} {name}" for name, count in sorted(made.formats.items()))
    typer.echo(
        f"{out}: {made.family}, {made.layers} layers, {made.vocab} tokens, context {made.context}\n"
        f"tensors: {formats}; {made.source_bytes / 1e6:.1f} MB became {made.weight_bytes / 1e6:.1f} MB"
    )
