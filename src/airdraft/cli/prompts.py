"""`airdraft prompt`: prompts whose keys and values are computed once, for edges elsewhere."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from airdraft.cli import chosen, options
from airdraft.cli.explained import FoldedCommand
from airdraft.cli.fitted import TARGET, fitted
from airdraft.cli.texts import read_text
from airdraft.core.text import agreeing
from airdraft.errors import BadParameterError, ModelError
from airdraft.models.fit import Fit
from airdraft.models.registry import ANY, HERE, load_target, resolve
from airdraft.prompts.codecs import CODECS, EXACT, named
from airdraft.prompts.publishing import publish as published

prompt = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="""Prompts computed once, whose keys and values edges read.

They start with `--prompts URL`. Texts are the same with and without, unless a
codec is named that loses something.

  airdraft prompt publish system.txt --to ./store --system
""",
)

_LONGEST = 1 << 26
"""Bytes of a prompt's file."""


@prompt.callback()
def _group() -> None:
    """A group, though it has one command."""


@prompt.command(cls=FoldedCommand)
@fitted(fit=TARGET)
def publish(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The text that prompts begin with, in UTF-8.")],
    to: Annotated[
        str, typer.Option(metavar="URL", help="A folder, or what fsspec takes: s3://BUCKET/PATH, say (extra s3).")
    ],
    target: options.Target = "target",
    engine: Annotated[
        str | None,
        typer.Option(
            help=f"What runs the target: {', '.join(HERE)}. Without it: the one whose files the folder holds.",
            rich_help_panel="Engine",
        ),
    ] = None,
    system: Annotated[
        bool,
        typer.Option("--system", help="FILE is the system prompt of chats: apply the model's chat template."),
    ] = False,
    chat_template: options.ChatTemplateFile = None,
    max_mb: Annotated[
        float | None,
        typer.Option(
            help="Most megabytes of this target in the store; prompts that were used longest ago are deleted. "
            "Without it: no bound.",
            min=0,
        ),
    ] = None,
    codec: Annotated[
        str,
        typer.Option(
            help=f"How they are written: {', '.join(CODECS)}. All but {EXACT.name} change texts; edges that use them "
            "say so, and are told --prompts-codec NAME."
        ),
    ] = EXACT.name,
    fit: Fit = ANY,
    as_json: options.Json = False,
) -> None:
    """Compute the keys and values of a prompt, and put them into a store.

    What is there already is checked, and written anew only where it is damaged.
    Whoever may write to the store can change what edges write: see docs/prompts.md.

      airdraft prompt publish system.txt --to ./store --system --target chat-target
    """
    if chat_template is not None and not system:
        raise BadParameterError("--chat-template is for --system; give both, or leave it out")
    text, written = read_text(file, _LONGEST), named(codec)
    model, tokenizer = load_target(target, engine=engine, fit=fit)
    tokens = _beginning(text, resolve(target, engine), target, chat_template) if system else tokenizer.encode(text)
    most = None if max_mb is None else int(max_mb * 1e6)
    found = published(model, tokens, to, most, codec=written)
    if as_json:
        typer.echo(json.dumps(asdict(found)))
        return
    kept = f"{found.blocks - found.written} of them were there; " if found.written < found.blocks else ""
    gone = f"; {found.evicted} older prompts were deleted" if found.evicted else ""
    asked = f" --prompts-codec {codec}" if written.lossy else ""
    typer.echo(
        f"{found.store}: {found.tokens} tokens in {found.blocks} blocks, {kept}{found.bytes / 1e6:.1f} MB{gone}\n"
        f"use it: airdraft edge --target {target} --prompts {found.store}{asked}"
    )


def _beginning(system: str, place: Path, name: str, file: Path | None) -> list[int]:
    """What all chats with a system prompt begin with: the tokens that two of them share. Raises: `ModelError`."""
    template = chosen.template_of(place, name, file)
    one, other = (
        template.encode(
            template.render(
                [{"role": "system", "content": system}, {"role": "user", "content": asked}],
                {"add_generation_prompt": True},
            )
        )
        for asked in ("1", "Z?")
    )
    found = one[: agreeing(one, other)]
    if not found:
        raise ModelError(f"the chat template of {name} lets no two chats begin alike; publish a plain prompt")
    return found
