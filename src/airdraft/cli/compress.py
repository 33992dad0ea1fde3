"""`airdraft compress`: a model in few bits, as a GGUF file, or as a folder for the onnx engine or for vLLM."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from airdraft import local
from airdraft.cli import options
from airdraft.cli.bench.results import progress
from airdraft.cli.plan import given
from airdraft.cli.texts import read_text
from airdraft.errors import BadParameterError, ModelError
from airdraft.models.engines.llamacpp import gguf_file
from airdraft.models.files.folder import locate
from airdraft.models.files.variants import CHECKPOINT, GGUF
from airdraft.models.files.weights import checkpoint_files, visible
from airdraft.models.profile import PROFILES, profile
from airdraft.models.registry import load, text_files
from airdraft.models.text import Tokenizer

if TYPE_CHECKING:
    from airdraft.compress.whole import Texts

WINDOW, MOST_WINDOWS = 256, 64
"""Tokens of the pieces that the text is cut into, and the most pieces."""
_LONGEST = 1 << 24
"""Bytes of one file of text."""
DEVICES = [name for name, each in PROFILES.items() if each.draft_s]
"""Profiles that say how fast a device is."""
_DEVICE, _CODES = "For a device", "Codes"
_CHOSEN, _OF_DEVICE = ("method", "bits", "head", "form", "group", "temperature"), (
    "target", "profile_name", "uplink_mbps", "downlink_mbps", "rtt_ms",
)  # fmt: skip
"""Options that `--for device` chooses, and those that have no use without it."""
Head = Literal["F16", "W8", "W4"]
Method = Annotated[
    Literal[
        "rtn", "awq", "gptq", "token", "tensor", "smoothquant", "outliertune", "mergequant", "osplus", "repquant",
        "crossquant", "qllm",
    ]
    | None,
    typer.Option(
        rich_help_panel=_CODES,
        help="How codes are chosen. Weights alone: rtn (the nearest), awq, gptq (the default). With activations: "
        "token, tensor, smoothquant, outliertune (the default), mergequant, osplus, repquant, crossquant, qllm.",
    ),
]  # fmt: skip
Group = Annotated[
    int | None,
    typer.Option(
        help="Weights of a row that share a step: 16, 32, 64 or 128, for vLLM not 16. Of weights alone, and not "
        "in GGUF files, where they are 32, of W3 and W2 16.",
        rich_help_panel=_CODES,
    ),
]
For = Annotated[
    Literal["device"] | None,
    typer.Option(
        "--for",
        help="Choose the bits: make the draft in 8, 4, 3 and 2 of them, and keep what gives most tokens/s beside "
        "--target, on the device of --profile and over the link.",
        rich_help_panel=_DEVICE,
    ),
]
Target = Annotated[
    str | None, typer.Option(metavar="MODEL", help="The target that it drafts for.", rich_help_panel=_DEVICE)
]
ProfileName = Annotated[
    str,
    typer.Option(
        "--profile",
        help=f"The device, and the edge: {', '.join(DEVICES)}. Its draft is taken to be MODEL in half precision.",
        rich_help_panel=_DEVICE,
    ),
]


def compress(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            help="A checkpoint or a GGUF file of the families Llama, Mistral, Qwen2, Qwen3, by any name of a MODEL."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The file to write, OUT.gguf; a folder for the other formats.")],
    calibrate: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Text such as the model will read, in UTF-8; may be given again."),
    ] = None,
    method: Method = None,
    bits: Annotated[
        Literal["W8", "W4", "W3", "W2", "W8A8", "W6A6", "W4A4"],
        typer.Option(help="Of the layers' weights, W; with A of activations, too, which run as integers."),
    ] = "W4",
    head: Annotated[
        Head | None,
        typer.Option(
            help="Of the table of embeddings, and of the scores of tokens. Without it W8, for vLLM F16.",
            rich_help_panel=_CODES,
        ),
    ] = None,
    form: Annotated[
        Literal["gguf", "onnx", "compressed-tensors"] | None,
        typer.Option(
            "--format",
            help="What is written: a GGUF file (of weights alone: the default), a folder for the onnx engine, or a "
            "checkpoint that vLLM serves.",
            rich_help_panel=_CODES,
        ),
    ] = None,
    group: Group = None,
    temperature: Annotated[
        float, typer.Option(help="At which both are compared.", min=0.05, max=5, rich_help_panel=_CODES)
    ] = 0.7,
    suiting: For = None,
    target: Target = None,
    profile_name: ProfileName = "phone-8b",
    uplink_mbps: options.Uplink = 20.0,
    downlink_mbps: options.DownlinkRate = 100.0,
    rtt_ms: options.Rtt = 20.0,
    as_json: options.Json = False,
    no_color: options.NoColor = False,
) -> None:
    """Write a model in few bits, and say how much it agrees.

    Every fourth piece of the text is kept out of the calibration, and both models
    are compared there. A draft that agrees less costs speed, never exactness.
    What is written is a MODEL for every command; a GGUF file runs in llama.cpp as well, and vLLM serves
    compressed-tensors. A run that was stopped goes on when the same command is given again.

      airdraft compress draft draft-w4.gguf --calibrate code.txt
      airdraft compress draft small --calibrate code.txt --for device --target target
    """
    if not calibrate:
        raise BadParameterError("compress needs text to calibrate with and to compare on; give --calibrate FILE")
    _check_use(context, suiting)
    console = Console(stderr=True, no_color=no_color)
    if suiting is not None:
        link = local.Link(uplink_mbps, downlink_mbps, rtt_ms)
        _suited(model, out, calibrate, target, profile_name, link, console, as_json)
        return
    from airdraft.compress.integers import LEVELS  # noqa: PLC0415  the other commands need none of it
    from airdraft.compress.whole import CHECKPOINT, Recipe  # noqa: PLC0415
    from airdraft.compress.whole import compress as compressed  # noqa: PLC0415

    method = method or ("outliertune" if bits in LEVELS else "gptq")
    recipe = Recipe(method, bits, head or ("F16" if form == CHECKPOINT else "W8"), temperature, form, group)
    _check_name(out, recipe.written)
    texts, (source, before) = _texts(model, calibrate), _source(model)
    with progress(console, "percent") as tell:
        quality = compressed(source, out, recipe, texts, lambda share: tell(int(100 * share), 100), model)
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


def _check_use(context: typer.Context, suiting: str | None) -> None:
    """Refuse options that would have no effect. Raises: `BadParameterError`."""
    for name in _CHOSEN if suiting else _OF_DEVICE:
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            option = next(each.opts[0] for each in context.command.params if each.name == name)
            raise BadParameterError(
                f"{option} has no use with --for {suiting}, which chooses it; leave one of them out" if suiting
                else f"{option} has no use without --for device; add that, or leave it out", field=option,
            )  # fmt: skip


def _check_name(out: Path, form: str) -> None:
    if (out.suffix == ".gguf") != (form == "gguf"):
        raise BadParameterError(
            f"{out} is to be a GGUF file; end its name with .gguf" if form == "gguf"
            else f"{out} is to be a folder, of the format {form}; end its name otherwise", field="out",
        )  # fmt: skip


def _texts(model: str, files: list[Path]) -> Texts:
    """The text of the files, in the model's tokens."""
    from airdraft.compress.whole import windows  # noqa: PLC0415

    tokenizer = Tokenizer(text_files(model))
    return windows([tokenizer.encode(read_text(file, _LONGEST, "calibrate")) for file in files], WINDOW, MOST_WINDOWS)


def _suited(
    model: str, out: Path, calibrate: list[Path], target: str | None, device: str, link: local.Link, console: Console,
    as_json: bool,
) -> None:  # fmt: skip
    """Write the model in the bits that suit a device and a link, and say which were compared."""
    from airdraft.lab.suited import suited  # noqa: PLC0415

    if target is None:
        raise BadParameterError("what a draft is worth depends on its target; give --target MODEL", field="target")
    if device not in DEVICES:
        raise BadParameterError(f"{device!r} is no device; choose {', '.join(DEVICES)}", field="profile")
    _check_name(out, "gguf")
    on = profile(device)
    facts = given(link, 1e3 * on.draft_s, 1e3 * on.target_s, 1.0)
    own, wanted = (Tokenizer(text_files(name)) for name in (model, target))
    if (own.digest, own.vocab_size) != (wanted.digest, wanted.vocab_size):
        raise BadParameterError(f"{model} and {target} do not share one vocabulary; pick a draft that has the target's")
    texts, (source, before) = _texts(model, calibrate), _source(model)
    with progress(console, "models") as tell:
        made = suited(source, out, texts, load(target)[0], wanted.vocab_size, (on, facts), tell, model)
    if as_json:
        found = {"file": str(out), "bytes": out.stat().st_size, "source_bytes": before}
        typer.echo(
            json.dumps(found | {"chosen": asdict(made.chosen), "frontier": [asdict(each) for each in made.points]})
        )
        return
    typer.echo(f"{device}, {link}: predicted, of each size the fastest")
    for each in made.points:
        typer.echo(
            f"  {each.name}: {each.mb:.1f} MB, coupled acceptance {each.acceptance:.3f}, {each.draft_ms:.1f} ms a "
            f"draft, {each.tokens_per_s:.1f} tokens/s{' ◀' if each is made.chosen else ''}"
        )
    typer.echo(f"{out}: {before / 1e6:.1f} MB became {made.chosen.mb:.1f} MB\nuse it: airdraft run --draft {out} ...")


def _source(model: str) -> tuple[Path, int]:
    """Where the model lies, a GGUF file or the folder of a checkpoint, and its bytes. Raises: `ModelError`."""
    place, _ = locate(model, {CHECKPOINT: "", GGUF: ""})
    if place.is_dir() and any(visible(place, "*.safetensors")):
        return place, sum(file.stat().st_size for file in checkpoint_files(place)[1:])
    if place.is_file() or any(visible(place, "*.gguf")):
        file = gguf_file(place)
        return file, file.stat().st_size
    raise ModelError(
        f"{model} has no model.safetensors and no .gguf file; graphs cannot be made smaller, so name a checkpoint"
    )
