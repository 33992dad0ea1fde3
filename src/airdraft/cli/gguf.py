"""`airdraft gguf`: a checkpoint written as GGUF."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from airdraft.errors import ModelError
from airdraft.models.files.folder import shipped
from airdraft.models.gguf import WeightType, write_gguf


def gguf(
    model: Annotated[str, typer.Argument(help="`target`, `draft`, or the folder of a checkpoint.", metavar="FOLDER")],
    out: Annotated[Path, typer.Argument(help="The file to write; the tokenizer is copied beside it.")],
    weights: Annotated[WeightType, typer.Option("--type", help="How matrices are stored.")] = "f32",
) -> None:
    """Write a checkpoint as GGUF, for llama.cpp.

    Its folder holds config.json, tokenizer.json, and safetensors, one or in parts.
    Families are Llama, Mistral, Qwen2 and Qwen3.

      airdraft gguf ./my-llama ./gguf/my-llama.gguf
    """
    folder = shipped(model) if model in ("target", "draft") else Path(model).expanduser()  # type: ignore[arg-type]
    if not folder.is_dir():
        raise ModelError(f"no folder {model!r}; name 'target', 'draft' or the folder of a checkpoint")
    write_gguf(folder, out, weights)
    typer.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB, {weights}")
