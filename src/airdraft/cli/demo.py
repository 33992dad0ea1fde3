"""`airdraft demo`: every scheme side by side over an emulated link."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from airdraft import local
from airdraft.cli import options
from airdraft.cli.bench.results import write_json
from airdraft.core.messages import SchemeSpec
from airdraft.core.sampling import SamplingParams
from airdraft.core.schemes import STREAM
from airdraft.files import check_output, output


def demo(
    draft: options.Draft = "draft",
    target: options.Target = "target",
    profile_name: options.Profile = "phone-8b",
    uplink_mbps: options.Uplink = 20.0,
    downlink_mbps: options.DownlinkRate = 100.0,
    rtt_ms: options.Rtt = 20.0,
    draft_length: Annotated[
        int, typer.Option(help="Tokens drafted in a round (γ), where there are rounds.", rich_help_panel="Scheme")
    ] = 3,
    k: options.K = 64,
    bits: options.Bits = 16,
    resolution: options.Resolution = 240,
    verify: options.Verify = "token",
    downlink: options.Downlink = "row",
    temperature: options.Temperature = 0.7,
    top_k: options.TopK = 0,
    top_p: options.TopP = 1.0,
    min_p: options.MinP = 0.0,
    seed: options.Seed = 0,
    max_tokens: options.MaxTokens = 80,
    trials: Annotated[int, typer.Option(help="Texts per conformance test.", min=100)] = 1000,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file.")] = None,
    svg: Annotated[Path | None, typer.Option(help="Also draw what is shown to this file.")] = None,
    no_color: options.NoColor = False,
) -> None:
    """See every scheme side by side, over an emulated link.

    Two real models, an edge process, a link process and a device process on
    this machine. Since the models that ship are tiny, the default profile
    slows them to what a phone and an 8 B target take; every time is labelled
    so.

      airdraft demo --rtt-ms 5 --temperature 0 --json demo.json
    """
    # Imported here because it brings scipy, which takes longer to import than all the rest.
    from airdraft.demo import report  # noqa: PLC0415
    from airdraft.lab.wall.schemes import Plan  # noqa: PLC0415

    plan = Plan(
        draft=draft,
        target=target,
        profile=profile_name,
        link=local.Link(uplink_mbps, downlink_mbps, rtt_ms),
        spec=SchemeSpec(STREAM, k, bits, downlink, resolution=resolution, verify=verify),
        params=SamplingParams(temperature, top_k, top_p, min_p),
        seed=seed,
        max_tokens=max_tokens,
        draft_length=draft_length,
        trials=trials,
    )
    console = Console(no_color=no_color, record=svg is not None, highlight=False)
    for path in (json_file, svg):
        check_output(path)
    results = report.demo(plan, console)
    write_json(json_file, results)
    if svg is not None:
        with output(svg) as file:
            file.write(console.export_svg(title="airdraft demo").encode())
