"""The commands of `airdraft bench` in wall clock: engines, chats, one edge with many devices, its capacity, attacks."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.markdown import Markdown

from airdraft.cli import options
from airdraft.cli.bench.results import JsonFile, Pages, console_for, progress, renew_pages, write_json
from airdraft.cli.bench.simulated import bench
from airdraft.cli.chosen import template_of
from airdraft.models.registry import resolve


def _load() -> float | None:
    """How busy the machine is: the processes of the last minute; None: it does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


@bench.command()
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

    What the texts of each depend on is tried as well. Takes 4 minutes. Blocks
    `engines`, `exactness` and `peers` of a --page are renewed, and `plain` (hf
    beside transformers). Other work on this machine slows all of them.

      airdraft bench engines --json engines.json
    """
    from airdraft.lab.wall import engines as lab  # noqa: PLC0415
    from airdraft.lab.wall import exactness, peers, plain  # noqa: PLC0415

    console = console_for(no_color, json_file)
    # On Windows a file that is still open cannot be deleted.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        here = lab.installed(Path(folder))
        with progress(console, "texts") as on_step:
            compared = peers.peers(here, llama_speculative, on_step)
        with progress(console, "forwards") as on_step:
            rows = lab.engines(here, vllm, on_step, lab.lighter(Path(folder), here))
        with progress(console, "forwards of transformers") as on_step:
            beside = plain.plain(Path(folder) / "plain", on_step) if "hf" in here else []
    load = _load()
    where = f"{os.cpu_count()} cores" + (f", load {load:.1f} meanwhile." if load is not None else ".")
    write_json(json_file, {
        "threads": lab.THREADS, "cores": os.cpu_count(), "load": load, "engines": msgspec.to_builtins(rows),
        "draft_length": peers.LENGTH, "max_tokens": peers.TOKENS, **msgspec.to_builtins(compared),
        "plain": [{**msgspec.to_builtins(row), "ratio": row.ratio, "bar": row.bar} for row in beside],
    })  # fmt: skip
    kept = exactness.table([(row.name, row.exactness) for row in rows if row.exactness])
    blocks = {"engines": f"{lab.table(rows)} {where}", "exactness": kept, "peers": f"{peers.table(compared)} {where}"}
    if beside:
        blocks["plain"] = f"{plain.table(beside)} {where}"
    console.print(Markdown("\n\n".join(blocks.values())))
    renew_pages(page, blocks)


@bench.command()
def card(
    size: Annotated[
        str | None, typer.Option(help="tiny, 1b or 8b; without it what fits the card twice, on a CPU tiny.")
    ] = None,
    json_file: JsonFile = None,
    page: Pages = None,
    no_color: options.NoColor = False,
) -> None:
    """The hf engine on this machine's GPU, beside transformers, a captured graph and the card's limit, in wall clock.

    Takes 2 minutes and, for 8b, 16 GB of disk for random weights. Block `card` of
    a --page is renewed. Without a GPU it runs on the CPU, and says so.

      airdraft bench card --page docs/deploy.md
    """
    from airdraft.lab.wall import card as lab  # noqa: PLC0415

    console = console_for(no_color, json_file)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, progress(console, "calls") as on_step:
        found = lab.card(lab.checked(size or lab.fitting()), Path(folder), on_step)
    write_json(json_file, {**msgspec.to_builtins(found), "positions": lab.HELD, "turns": lab.TURNS})
    console.print(Markdown(lab.table(found)))
    renew_pages(page, {"card": lab.table(found)})


@bench.command()
def sessions(json_file: JsonFile = None, page: Pages = None, no_color: options.NoColor = False) -> None:
    """Many devices at once on one edge, which batches or does not, in wall clock. 3 minutes.

    Ends with exit code 1 if batching gains too little, or a text is not the target's.

      airdraft bench sessions --json sessions.json
    """
    from airdraft.lab.wall import sessions as lab  # noqa: PLC0415

    console = console_for(no_color, json_file)
    total = len(lab.PROFILES) * len(lab.DEVICES) * 2
    with progress(console, "measurements") as on_cell:
        done = iter(range(1, total + 1))
        rows = asyncio.run(lab.sessions(lambda _: on_cell(next(done), total)))
    gains = {name: lab.gain(rows, name) for name in lab.PROFILES}
    write_json(json_file, {"rows": msgspec.to_builtins(rows), "gain": gains, "bar": lab.BAR, "devices": lab.BAR_AT})
    console.print(Markdown(lab.table(rows)))
    renew_pages(page, {"sessions": lab.table(rows)})
    if not lab.held(rows):
        raise typer.Exit(1)


@bench.command()
def capacity(
    soak_s: Annotated[float, typer.Option(help="Seconds of devices that come and go; 0: none.", min=0)] = 60.0,
    json_file: JsonFile = None,
    page: Pages = None,
    no_color: options.NoColor = False,
) -> None:
    """What one edge holds: devices, CPU and bytes a token, idle texts, memory under churn, in wall clock.

    Takes 3 minutes and the churn. Block `capacity` of a --page is renewed. Ends
    with exit code 1 if memory grows under churn.

      airdraft bench capacity --json capacity.json
    """
    from airdraft.lab.wall import capacity as lab  # noqa: PLC0415

    console = console_for(no_color, json_file)
    with console.status("starting") as status:
        found = asyncio.run(lab.capacity(soak_s, status.update))
    write_json(json_file, msgspec.to_builtins(found))
    console.print(Markdown(lab.table(found)))
    renew_pages(page, {"capacity": lab.table(found)})
    if found.churn is not None and not found.churn.held:
        raise typer.Exit(1)


@bench.command()
def hostile(
    attack: Annotated[
        list[str] | None, typer.Option(help="Only this attack; may be given again. A wrong name lists them.")
    ] = None,
    json_file: JsonFile = None,
    page: Pages = None,
    no_color: options.NoColor = False,
) -> None:
    """An honest text of 100 tokens beside one hostile peer of each kind, at full speed, in wall clock. 8 minutes.

    Block `hostile` of a --page is renewed. Ends with exit code 1 if a text takes
    more than 1.5 times as long as alone, or fails, or the edge takes 400 MB.
    Other work on this machine slows alone and attacked unequally.

      airdraft bench hostile --json hostile.json
    """
    from airdraft.lab.wall import hostile as lab  # noqa: PLC0415

    console = console_for(no_color, json_file)
    names = lab.chosen(attack or ())
    with progress(console, "attacks") as on_step:
        done = iter(range(1, len(names) + 1))
        rows = asyncio.run(lab.hostile(names, lambda _: on_step(next(done), len(names))))
    bars = {"most_ratio": lab.MOST_RATIO, "most_mb": lab.MOST_MB, "max_tokens": lab.TOKENS, "cores": os.cpu_count()}
    write_json(json_file, {"rows": msgspec.to_builtins(rows), "held": lab.held(rows), **bars})
    console.print(Markdown(lab.table(rows)))
    renew_pages(page, {"hostile": lab.table(rows)})
    if not lab.held(rows):
        raise typer.Exit(1)


@bench.command()
def chat(
    threads: Annotated[
        int | None,
        typer.Option(help="Of the target, and of llama.cpp. Without it: as many as are fastest, by a trial.", min=1),
    ] = None,
    json_file: JsonFile = None,
    page: Pages = None,
    no_color: options.NoColor = False,
) -> None:
    """Chats with the chat pair: a token in every way to write it, acceptance, a second turn, memory. 6 minutes.

    An edge and a device run as processes, and are asked over HTTP. llama.cpp is
    measured beside them if airdraft\\[llamacpp] is installed. The target is
    downloaded once, 98 MB. Block `chat` of a --page is renewed. Results are also
    written when it is interrupted. Ends with exit code 1 if a text is not the
    target's own, or a bar is missed. Other work on this machine slows all ways.

      airdraft bench chat --json chat.json
    """
    from airdraft.lab.wall import chat as lab  # noqa: PLC0415

    console = console_for(no_color, json_file)
    template = template_of(resolve(lab.TARGET), lab.TARGET, None)

    def render(messages: lab.Messages) -> list[int]:
        return template.encode(template.render(messages, {"add_generation_prompt": True}))

    report = lab.ChatReport(threads)

    def write() -> None:
        where = {"cores": os.cpu_count(), "load": _load()}
        write_json(json_file, {**msgspec.to_builtins(report), "missed": lab.missed(report), **where})

    try:
        with progress(console, "texts") as on_step:

            def stepped(done: int, of: int) -> None:
                on_step(done, of)
                write()  # what is there is kept, however this ends

            asyncio.run(lab.chat(render, report, stepped))
    finally:
        write()
        if report.texts:
            console.print(Markdown(lab.table(report)))
    renew_pages(page, {"chat": lab.table(report)})
    if lab.missed(report):
        raise typer.Exit(1)
