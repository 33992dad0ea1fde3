"""`airdraft bench codecs`: what codecs of prompt blocks save and lose, and what documents in any order lose."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.markdown import Markdown

from airdraft.cli import options
from airdraft.cli.bench.results import JsonFile, Pages, console_for, renew_pages, write_json
from airdraft.cli.bench.simulated import bench
from airdraft.cli.chosen import CHAT_TARGET
from airdraft.models.registry import load_target


@bench.command()
def codecs(
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL",
            help=f"A target on onnx or hf; may be given again. Without it: target and {CHAT_TARGET} (98 MB to "
            "download, once).",
        ),
    ] = None,
    json_file: JsonFile = None,
    page: Pages = None,
    no_color: options.NoColor = False,
) -> None:
    """What codecs of published prompts save and lose: bytes, speed, 1 - TV, perplexity.

    And what is lost by documents that are computed on their own and joined, by how
    much of them is computed again. Blocks `codecs` and `documents` of a --page are
    renewed. The two usual targets take some minutes.

      airdraft bench codecs --target target --json codecs.json
    """
    from airdraft.lab import losses as lab  # noqa: PLC0415

    console = console_for(no_color, json_file)
    coded, joined = list[lab.CodecRow](), list[lab.JoinedRow]()
    for name in target or ["target", CHAT_TARGET]:
        engine, tokenizer = load_target(name)
        texts = lab.passages(engine, tokenizer, code=name == "target")
        coded += lab.codecs(name, engine, texts)
        joined += lab.documents(name, engine, texts)
    write_json(json_file, {"codecs": [asdict(row) for row in coded], "documents": [asdict(row) for row in joined]})
    blocks = {"codecs": lab.codec_table(coded), "documents": lab.joined_table(joined)}
    for each in blocks.values():
        console.print(Markdown(each))
    renew_pages(page, blocks)
