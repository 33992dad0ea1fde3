"""`airdraft plan`: the scheme that is predicted to be the fastest."""

from __future__ import annotations

import asyncio
import json
import math
import ssl
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from airdraft import local
from airdraft.cli import options
from airdraft.cli.finding import forward_s
from airdraft.control import auto
from airdraft.control.facts import Wire, wire
from airdraft.control.predict import Prediction, bottleneck
from airdraft.core.policy import Facts
from airdraft.core.schemes import SCHEMES, SERVER, traits
from airdraft.device.client import EdgeConnection
from airdraft.device.shipped import draft_at
from airdraft.errors import BadParameterError
from airdraft.models.engines import load

RACES = ("off", "always")

_CAUSES = {
    "draft": "the device's own forwards set the pace: a faster draft model would help most.",
    "target": "the target's forwards set the pace: a faster target would help most.",
    "round trip": "waiting for the link sets the pace: a shorter round trip would help most.",
    "uplink": "the bits that go up set the pace: a faster uplink, or a scheme that sends less, would help.",
    "downlink": "the bits that come down set the pace: a faster downlink, or a scheme that sends less, would help.",
}


def plan(
    context: typer.Context,
    probe: Annotated[
        str | None,
        typer.Option(
            metavar="EDGE",
            help="Measure the link to this edge, ws://HOST:PORT, its target and the draft; what is given stands.",
        ),
    ] = None,
    token: options.Token = None,
    ca: options.Ca = None,
    draft: options.UnnamedDraft = None,
    uplink_mbps: options.Uplink = 20.0,
    downlink_mbps: options.DownlinkRate = 100.0,
    rtt_ms: options.Rtt = 20.0,
    draft_ms: Annotated[
        float, typer.Option(help="A forward of the draft, for one token.", rich_help_panel="Models")
    ] = 15.0,
    verify_ms: Annotated[float, typer.Option(help="A forward of the target.", rich_help_panel="Models")] = 30.0,
    acceptance: Annotated[
        float, typer.Option(help="Chance that a judged draft token is accepted (α).", rich_help_panel="Models")
    ] = 0.75,
    vocab_size: Annotated[int, typer.Option(help="Tokens of the vocabulary.", rich_help_panel="Models")] = 32000,
    k: options.K = 64,
    bits: options.Bits = 16,
    resolution: options.Resolution = 240,
    header_bytes: Annotated[
        int, typer.Option(help="Headers below the WebSocket, a packet: 40 is TCP over IPv4.", rich_help_panel="Link")
    ] = 40,
    as_json: options.Json = False,
    no_color: options.NoColor = False,
) -> None:
    """Predict which scheme is fastest for a link and a pair of models, before anything runs.

    Delays are taken as constant, and every drafted token as equally likely to be
    accepted. Nothing is measured, except with --probe: then round trip, rates and
    forwards are, but for those that are given as options.
    """
    values: dict[str, float] = {
        "uplink_mbps": uplink_mbps, "downlink_mbps": downlink_mbps, "rtt_ms": rtt_ms, "draft_ms": draft_ms,
        "verify_ms": verify_ms, "vocab_size": vocab_size,
    }  # fmt: skip
    measured = {}
    if probe is not None:
        with options.fitting(draft):
            found = _measured(probe, draft, token, options.trusted(ca)).items()
        measured = {name: value for name, value in found if _is_default(context, name)}
        values |= measured
    link = local.Link(values["uplink_mbps"], values["downlink_mbps"], values["rtt_ms"])
    facts = given(link, values["draft_ms"], values["verify_ms"], acceptance)
    wires, left_out = _wires(int(values["vocab_size"]), k, bits, header_bytes, resolution)
    predicted = auto.predictions(facts, wires, RACES)
    chosen = auto.preferred(predicted)
    of_scheme = {each.scheme: each for each in wires}
    limits = [bottleneck(facts, of_scheme[each.mode.scheme], each.mode) for each in predicted]
    said = [*sentences(predicted, chosen, limits[predicted.index(chosen)]), *left_out]
    if as_json:
        rows = [
            {**_record(each), "bottleneck": limit, "chosen": each is chosen}
            for each, limit in zip(predicted, limits, strict=True)
        ]
        record = {"predicted": True, "measured": _finite(measured), "facts": _finite(asdict(facts)), "rows": rows}
        print(json.dumps(record | {"why": said}, indent=2))  # noqa: T201
        return
    console = Console(no_color=no_color, highlight=False)
    if probe is not None:
        console.print(Text(f"Measured, {probe}: {_listed(measured)}."))
    console.print(f"Predicted, not measured: {link};")
    console.print(
        f"draft {values['draft_ms']:g} ms, target {values['verify_ms']:g} ms, acceptance {acceptance:g}, "
        f"vocabulary {int(values['vocab_size']):,}."
    )
    console.print(_table(predicted, limits, chosen))
    for line in said:
        console.print(Text(f"  {line}"))


def _wires(vocab_size: int, *options: int) -> tuple[list[Wire], list[str]]:
    """The schemes that can be used with these options, and a sentence for each that cannot."""
    found, left_out = [], []
    for scheme in SCHEMES:
        try:
            found.append(wire(scheme, vocab_size, *options))
        except BadParameterError as error:
            if not traits(scheme).options:  # an option that none could be used with
                raise
            left_out.append(f"{scheme} is left out: {error}.")
    return found, left_out


def _is_default(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "DEFAULT"


def _measured(url: str, draft: str | None, token: str | None, trust: ssl.SSLContext | None) -> dict[str, float]:
    """Measure what can be measured of a link, an edge and a draft model. Keys are the options that values replace."""
    return asyncio.run(_measure(url, draft or asyncio.run(draft_at([url], token, trust)), token, trust))


async def _measure(url: str, draft: str, token: str | None, trust: ssl.SSLContext | None) -> dict[str, float]:
    model, tokenizer = load(draft)
    draft_s = forward_s(model)
    async with await EdgeConnection.connect(
        url, model, tokenizer.digest, tokenizer.vocab_size, token=token, ssl=trust
    ) as edge:
        probe = await edge.probe()
    found = {
        "uplink_mbps": probe.uplink_bps / 1e6, "downlink_mbps": probe.downlink_bps / 1e6,
        "rtt_ms": probe.rtt_s * 1e3, "draft_ms": draft_s * 1e3, "verify_ms": probe.verify_s * 1e3,
    }  # fmt: skip
    return {name: float(f"{value:.3g}") for name, value in found.items()} | {"vocab_size": tokenizer.vocab_size}


def _listed(measured: dict[str, float]) -> str:
    forms = {
        "uplink_mbps": "{:g} Mbit/s up", "downlink_mbps": "{:g} down", "rtt_ms": "{:g} ms RTT",
        "draft_ms": "draft {:g} ms", "verify_ms": "target {:g} ms",
    }  # fmt: skip
    return ", ".join(form.format(measured[name]) for name, form in forms.items() if name in measured) or "nothing"


def given(link: local.Link, draft_ms: float, verify_ms: float, acceptance: float) -> Facts:
    """The facts that the options give. Raises: `BadParameterError` naming an option out of range."""
    for name, value in (("draft-ms", draft_ms), ("verify-ms", verify_ms)):
        if not 0 < value < math.inf:  # NaN lands here too
            raise BadParameterError(f"{name} is {value:g}; give a finite time above 0 ms")
    if not 0 <= acceptance <= 1:
        raise BadParameterError(f"acceptance is {acceptance:g}; give a probability, 0 to 1")
    up_bps, down_bps = link.uplink_mbps * 1e6, link.downlink_mbps * 1e6
    return Facts(draft_ms / 1e3, verify_ms / 1e3, link.rtt_ms / 1e3, up_bps, down_bps, acceptance)


def sentences(found: list[Prediction], chosen: Prediction, limit: str) -> list[str]:
    """The reason for the choice, and its bottleneck, in sentences."""
    server = next(each for each in found if each.mode.scheme == SERVER)
    # The last of several equals, because it sends least.
    rounds = max(
        (each for each in reversed(found) if traits(each.mode.scheme).rounds),
        key=lambda each: each.tokens_per_s,
    )
    best = f"{rounds.tokens_per_s:.1f} tokens/s of {rounds.mode.scheme}, the best with rounds"
    if chosen is server:
        lines = [f"Plain server streaming: no drafting is predicted to be faster than its {server.tokens_per_s:.1f} "
                 f"tokens/s, against {best}."]  # fmt: skip
    else:
        gain = chosen.tokens_per_s / server.tokens_per_s
        against = "" if chosen is rounds else f", against {best}"
        lines = [f"{_name(chosen)}: {chosen.tokens_per_s:.1f} tokens/s predicted, {gain:.2f} times plain server "
                 f"streaming{against}."]  # fmt: skip
    return [*lines, f"With it {_CAUSES[limit]}"]


def _table(found: list[Prediction], limits: list[str], chosen: Prediction) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("\nscheme", no_wrap=True)
    # γ: draft length of a round. First, then: tokens in a stream's packets. Target: forwards of it.
    for heading in ("tokens\n/s", "γ or\nwindow", "first,\nthen", "target\n/token", "up bits\n/token",
                    "down b.\n/token"):  # fmt: skip
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("\nbottleneck", no_wrap=True)
    for each, limit in zip(found, limits, strict=True):
        mode = each.mode
        table.add_row(
            _name(each) + (" ◀" if each is chosen else ""),
            f"{each.tokens_per_s:.1f}",
            f"{mode.length}" if traits(mode.scheme).drafts else "–",
            f"{mode.first}, {mode.then}" if traits(mode.scheme).races else "–",
            f"{each.target_forwards_per_token:.2f}",
            f"{each.uplink_bits_per_token:,.0f}",
            f"{each.downlink_bits_per_token:,.0f}",
            limit,
            style="bold" if each is chosen else "",
        )
    return table


def _name(prediction: Prediction) -> str:
    mode = prediction.mode
    return mode.scheme + (", racing" if traits(mode.scheme).races and mode.race != "off" else "")


def _record(prediction: Prediction) -> dict[str, Any]:
    """A row for JSON, with null for what does not apply to its scheme."""
    mode, record = prediction.mode, asdict(prediction)
    rounds, streams = traits(mode.scheme).rounds, traits(mode.scheme).races
    del record["mode"]
    return {
        "scheme": mode.scheme,
        "race": mode.race if streams else None,
        "draft_length": mode.length if rounds else None,
        "window": mode.length if streams else None,
        "first": mode.first if streams else None,
        "then": mode.then if streams else None,
        **record,
    }


def _finite(values: Mapping[str, float | None]) -> dict[str, float | None]:
    """The values for JSON, which has no infinity: null is a rate without a limit. Unknown values are left out."""
    known = {name: value for name, value in values.items() if value is not None}
    return {name: value if math.isfinite(value) else None for name, value in known.items()}
