"""`airdraft bench engines`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.markdown import Markdown

from airdraft.cli import options
from airdraft.cli.bench import JsonFile, Pages, _console, _progress, _renew, _write


def engines(
    vllm: Annotated[str | None, typer.Option(metavar="URL", help="Also a vLLM that serves the target there.")] = None,
    llama_speculative: Annotated[
        Path | None, typer.Option(metavar="FILE", help="llama.cpp's own program llama-speculative-simple, to compare.")
    ] = None,
    json_file: JsonFile = None,
    page: Pages = None,
    no_color: options.NoColor = False,
) -> None:
    """The engines installed here side by side, and against other programs with the same weights, in wall clock.

    Takes 2 minutes. Blocks `engines` and `peers` of a --page are renewed. Other
    work on this machine slows all of them.
    """
    from airdraft.lab import engines as lab  # noqa: PLC0415
    from airdraft.lab import peers  # noqa: PLC0415

    console = _console(no_color, json_file)
    # On Windows a file that is still open cannot be deleted.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        here = lab.installed(Path(folder))
        with _progress(console, "texts") as on_step:
            compared = peers.peers(here, llama_speculative, on_step)
        with _progress(console, "forwards") as on_step:
            rows = lab.engines(here, vllm, on_step)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    where = f"{os.cpu_count()} cores" + (f", load {load:.1f} meanwhile." if load is not None else ".")
    _write(json_file, {
        "threads": lab.THREADS, "cores": os.cpu_count(), "load": load, "engines": msgspec.to_builtins(rows),
        "draft_length": peers.LENGTH, "max_tokens": peers.TOKENS, **msgspec.to_builtins(compared),
    })  # fmt: skip
    blocks = {"engines": f"{lab.table(rows)} {where}", "peers": f"{peers.table(compared)} {where}"}
    console.print(Markdown("\n\n".join(blocks.values())))
    _renew(page, blocks)
