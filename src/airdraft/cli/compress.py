"""`airdraft compress`: a model in few bits, as a GGUF file, or as a folder for the onnx engine or for vLLM."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from airdraft.cli import options
from airdraft.cli.bench.results import progress
from airdraft.cli.texts import read_text
from airdraft.errors import BadParameterError, ModelError
from airdraft.models.engines.llamacpp import gguf_file
from airdraft.models.files.folder import locate
from airdraft.models.files.variants import CHECKPOINT, GGUF
from airdraft.models.files.weights import visible
from airdraft.models.registry import text_files
from airdraft.models.text import Tokenizer

WINDOW, MOST_WINDOWS = 256, 64
"""Tokens of the pieces that the text is cut into, and the most pieces."""
_LONGEST = 1 << 24
"""Bytes of one file of text."""
Head = Literal["F16", "W8", "W4"]


def compress(
    model: Annotated[
        str, typer.Argument(help="A checkpoint of the Llama family, or a GGUF file, by any name of a MODEL.")
    ],
    out: Annotated[Path, typer.Argument(help="The file to write, OUT.gguf; a folder for the other formats.")],
    calibrate: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Text such as the model will read, in UTF-8; may be given again."),
    ] = None,
    method: Annotated[
        Literal[
            "rtn",
            "awq",
            "gptq",
            "token",
            "tensor",
            "smoothquant",
            "outliertune",
            "mergequant",
            "osplus",
            "repquant",
            "crossquant",
            "qllm",
        ]
        | None,
        typer.Option(
            help="How codes are chosen. Weights alone: rtn (the nearest), awq, gptq (the default). With activations: "
            "token, tensor, smoothquant, outliertune (the default), mergequant, osplus, repquant, crossquant, qllm.",
        ),
    ] = None,
    bits: Annotated[
        Literal["W8", "W4", "W3", "W2", "W8A8", "W6A6", "W4A4"],
        typer.Option(help="Of the layers' weights, W; with A of activations, too, which run as integers."),
    ] = "W4",
    head: Annotated[
        Head | None,
        typer.Option(help="Of the table of embeddings, and of the scores of tokens. Without it W8, for vLLM F16."),
    ] = None,
    form: Annotated[
        Literal["gguf", "onnx", "compressed-tensors"] | None,
        typer.Option(
            "--format",
            help="What is written: a GGUF file (the default of weights alone), a folder for the onnx engine (of "
            "activations, too), or a checkpoint that vLLM serves.",
        ),
    ] = None,
    temperature: Annotated[float, typer.Option(help="At which both models are compared.", min=0.05, max=5)] = 0.7,
    as_json: options.Json = False,
    no_color: options.NoColor = False,
) -> None:
    """Write a model in few bits, and say how much it still agrees with the whole one.

    Every fourth piece of the text is kept out of the calibration, and both models
    are compared there. A draft that agrees less costs speed, never exactness.
    What is written is a MODEL for every command; a GGUF file runs in llama.cpp as well, and vLLM serves
    compressed-tensors. A run that was stopped goes on when the same command is given again.
    """
    if not calibrate:
        raise BadParameterError("compress needs text to calibrate with and to compare on; give --calibrate FILE")
    from airdraft.compress.integers import LEVELS  # noqa: PLC0415  the other commands need none of it
    from airdraft.compress.whole import CHECKPOINT, Recipe, windows  # noqa: PLC0415
    from airdraft.compress.whole import compress as compressed  # noqa: PLC0415

    method = method or ("outliertune" if bits in LEVELS else "gptq")
    recipe = Recipe(method, bits, head or ("F16" if form == CHECKPOINT else "W8"), temperature, form)
    if (out.suffix == ".gguf") != (recipe.written == "gguf"):
        raise BadParameterError(
            f"{out} is to be a GGUF file; end its name with .gguf" if recipe.written == "gguf"
            else f"{out} is to be a folder, of the format {recipe.written}; end its name otherwise", field="out",
        )  # fmt: skip
    tokenizer = Tokenizer(text_files(model))
    pieces = [tokenizer.encode(read_text(file, _LONGEST, "calibrate")) for file in calibrate]
    texts = windows(pieces, WINDOW, MOST_WINDOWS)
    with _as_gguf(model) as source, progress(Console(stderr=True, no_color=no_color), "percent") as tell:
        quality = compressed(source, out, recipe, texts, lambda share: tell(int(100 * share), 100))
        before = source.stat().st_size
    after = sum(each.stat().st_size for each in ([out] if out.is_file() else out.glob("model[.-]*")))
    if as_json:
        typer.echo(json.dumps({"file": str(out), "bytes": after, "source_bytes": before, **asdict(quality)}))
        return
    typer.echo(
        f"{out}: {before / 1e6:.1f} MB became {after / 1e6:.1f} MB\n"
        f"on {quality.positions} positions of text: perplexity {quality.perplexity:.3f}, before "
        f"{quality.whole_perplexity:.3f}; at temperature {temperature:g} it chooses the same token with the same noise "
        f"at {quality.coupled:.3f} of them, and 1 - TV is {quality.one_minus_tv:.3f}\n"
        f"use it: {f'vllm serve {out}' if form == CHECKPOINT else f'airdraft run --draft {out} ...'}"
    )


@contextlib.contextmanager
def _as_gguf(model: str) -> Iterator[Path]:
    """The model as a GGUF file: as it is, or a checkpoint written as one for the while. Raises: `ModelError`."""
    place, _ = locate(model, {CHECKPOINT: "", GGUF: ""})
    if place.is_dir() and (place / "model.safetensors").is_file():
        from airdraft.models.gguf import write_gguf  # noqa: PLC0415

        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder) / "model.gguf"
            write_gguf(place, whole)
            yield whole
    elif place.is_file() or any(visible(place, "*.gguf")):
        yield gguf_file(place)
    else:
        raise ModelError(
            f"{model} has no model.safetensors and no .gguf file; graphs cannot be made smaller, so name a checkpoint"
        )
