"""`airdraft plan`: the scheme that is predicted to be the fastest."""

from __future__ import annotations

import asyncio
import json
import math
import ssl
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from airdraft import local
from airdraft.cli import options, plan_prompt
from airdraft.cli.doctor.finding import forward_s
from airdraft.control import auto
from airdraft.control.facts import Wire, wire
from airdraft.control.predict import Prediction, bottleneck
from airdraft.core.policy import Facts
from airdraft.core.schemes import SCHEMES, SERVER, traits
from airdraft.device.client import EdgeConnection
from airdraft.device.shipped import draft_at
from airdraft.errors import BadParameterError
from airdraft.models.profile import EDGE_DRAFT
from airdraft.models.registry import load
from airdraft.proposers import draft as draft_proposer

RACES = ("off", "always")

_CAUSES = {
    "draft": "the device's own forwards set the pace: a faster draft model would help most.",
    "target": "the target's forwards set the pace: a faster target would help most.",
    "round trip": "waiting for the link sets the pace: a shorter round trip would help most.",
    "uplink": "the bits that go up set the pace: a faster uplink, or a scheme that sends less, would help.",
    "downlink": "the bits that come down set the pace: a faster downlink, or a scheme that sends less, would help.",
}


_Probe = Annotated[
    str | None,
    typer.Option(
        metavar="EDGE",
        help="Measure the link to this edge, ws://HOST:PORT, its target and the draft; what is given stands.",
    ),
]


def plan(
    context: typer.Context,
    probe: _Probe = None,
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
    edge_draft_ms: Annotated[
        float | None,
        typer.Option(
            help="A forward of the edge's own draft model, if it has one. Rows of such an edge are shown without it as "
            "well, at a tenth of --verify-ms.",
            rich_help_panel="Models",
        ),
    ] = None,
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
    prompt_tokens: plan_prompt.Tokens = None,
    prefill_tokens_per_s: plan_prompt.PrefillSpeed = 1000.0,
    token_kib: plan_prompt.TokenKib = 28.0,
    store_mbps: plan_prompt.StoreMbps = 100.0,
    store_rtt_ms: plan_prompt.StoreRtt = 20.0,
    prompts_codec: plan_prompt.PromptsCodec = "exact",
    as_json: options.Json = False,
    no_color: options.NoColor = False,
) -> None:
    """Predict which scheme is fastest for a link and a pair.

    Every delay is constant, and every drafted token equally likely to be accepted. The speed is a long text's, without
    its beginning, copies and trees. With --probe, round trip, rates and forwards that are not given are measured.

      airdraft plan --rtt-ms 50 --uplink-mbps 5 --draft-ms 15 --verify-ms 30 --acceptance 0.8
      airdraft plan --probe ws://HOST:8571
    """
    if prompt_tokens is not None:
        store = prefill_tokens_per_s, token_kib, store_mbps, store_rtt_ms, prompts_codec
        plan_prompt.tell(prompt_tokens, *store, as_json=as_json, no_color=no_color)
        return
    values: dict[str, float] = {
        "uplink_mbps": uplink_mbps, "downlink_mbps": downlink_mbps, "rtt_ms": rtt_ms, "draft_ms": draft_ms,
        "verify_ms": verify_ms, "vocab_size": vocab_size,
    }  # fmt: skip
    if edge_draft_ms is not None:
        values["edge_draft_ms"] = edge_draft_ms
    measured = {}
    if probe is not None:
        with options.fitting(draft):
            found = _measured(probe, draft, token, options.trusted(ca)).items()
        measured = {name: value for name, value in found if _is_default(context, name)}
        values |= measured
    link = local.Link(values["uplink_mbps"], values["downlink_mbps"], values["rtt_ms"])
    facts = given(link, values["draft_ms"], values["verify_ms"], acceptance)
    helped, has_draft = _helped(facts, values.get("edge_draft_ms"))
    wires, left_out = _wires(int(values["vocab_size"]), k, bits, header_bytes, resolution)
    rows = _rows(facts, helped, wires, has_draft)
    said = [*sentences(rows), *left_out]
    if as_json:
        record = {
            "predicted": True,
            "measured": _finite(measured),
            "facts": _finite(asdict(helped if has_draft else facts)),
            "rows": [row.record() for row in rows],
        }
        print(json.dumps(record | {"why": said}, indent=2))  # noqa: T201
        return
    console = Console(no_color=no_color, highlight=False)
    if probe is not None:
        console.print(Text(f"Measured, {probe}: {_listed(measured)}."))
    console.print(f"Predicted, not measured: {link};")
    console.print(_models(values, helped, has_draft, acceptance))
    console.print(_table(rows))
    for line in said:
        console.print(Text(f"  {line}"))


def _models(values: Mapping[str, float], helped: Facts, has_draft: bool, acceptance: float) -> str:
    """A line about the models."""
    return (
        f"draft {values['draft_ms']:g} ms, target {values['verify_ms']:g} ms, at the edge "
        f"{1e3 * helped.edge_draft_s:g} "
        f"ms a draft{'' if has_draft else ' if it had a model for it'}; acceptance {acceptance:g}, vocabulary "
        f"{int(values['vocab_size']):,}."
    )


def _rows(facts: Facts, helped: Facts, wires: list[Wire], has_draft: bool) -> list[PlanRow]:
    """Every way at its best: at an edge without a draft model of its own, and at one `helped` by one."""
    predicted = auto.predictions(facts, wires, RACES)
    beside = auto.predictions(helped, [each for each in wires if not each.traits.rounds])
    chosen = auto.preferred(beside if has_draft else predicted)
    of_scheme = {each.scheme: each for each in wires}
    return [
        PlanRow(each, bottleneck(known, of_scheme[each.mode.scheme], each.mode), each is chosen, known is helped)
        for known, found in ((facts, predicted), (helped, beside))
        for each in found
    ]


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
        own_s = edge.welcome.draft_s if edge.welcome else None
    found = {
        "uplink_mbps": probe.uplink_bps / 1e6, "downlink_mbps": probe.downlink_bps / 1e6,
        "rtt_ms": probe.rtt_s * 1e3, "draft_ms": draft_s * 1e3, "verify_ms": probe.verify_s * 1e3,
    }  # fmt: skip
    if own_s:
        found["edge_draft_ms"] = own_s * 1e3
    return {name: float(f"{value:.3g}") for name, value in found.items()} | {"vocab_size": tokenizer.vocab_size}


def _listed(measured: dict[str, float]) -> str:
    forms = {
        "uplink_mbps": "{:g} Mbit/s up", "downlink_mbps": "{:g} down", "rtt_ms": "{:g} ms RTT",
        "draft_ms": "draft {:g} ms", "verify_ms": "target {:g} ms", "edge_draft_ms": "the edge's draft {:g} ms",
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


def _helped(facts: Facts, edge_draft_ms: float | None) -> tuple[Facts, bool]:
    """The facts of an edge with a draft model of its own, and whether there is one, or it is assumed."""
    if edge_draft_ms is None:
        return replace(facts, edge_draft_s=EDGE_DRAFT * facts.verify_s), False
    if not 0 < edge_draft_ms < math.inf:
        raise BadParameterError(f"edge-draft-ms is {edge_draft_ms:g}; give a finite time above 0 ms")
    return replace(facts, edge_draft_s=edge_draft_ms / 1e3), True


@dataclass(frozen=True)
class PlanRow:
    """A row of the plan."""

    prediction: Prediction
    limit: str
    """Its bottleneck."""
    chosen: bool
    helped: bool
    """Whether the edge drafts as well, with a model of its own."""

    @property
    def name(self) -> str:
        """What people call it."""
        mode = self.prediction.mode
        if self.helped:  # it always races
            return f"{mode.scheme}+{draft_proposer.NAME}"
        return mode.scheme + (", racing" if traits(mode.scheme).races and mode.race != "off" else "")

    def record(self) -> dict[str, Any]:
        """The row for JSON, with null for what does not apply to its scheme."""
        mode, record = self.prediction.mode, asdict(self.prediction)
        rounds, streams = traits(mode.scheme).rounds, traits(mode.scheme).races
        del record["mode"]
        return {
            "scheme": mode.scheme,
            "edge_drafts": self.helped,
            "race": mode.race if streams else None,
            "draft_length": mode.length if rounds else None,
            "window": mode.length if streams else None,
            "first": mode.first if streams else None,
            "then": mode.then if streams else None,
            **record,
            "bottleneck": self.limit,
            "chosen": self.chosen,
        }


def sentences(rows: list[PlanRow]) -> list[str]:
    """The reason for the choice, and its bottleneck, in sentences."""
    chosen = next(row for row in rows if row.chosen)
    speed = chosen.prediction.tokens_per_s
    servers = {row.helped: row.prediction.tokens_per_s for row in rows if row.prediction.mode.scheme == SERVER}
    # The last of several equals, because it sends least.
    rounds = max(
        (row for row in reversed(rows) if traits(row.prediction.mode.scheme).rounds),
        key=lambda row: row.prediction.tokens_per_s,
    )
    best = f"{rounds.prediction.tokens_per_s:.1f} tokens/s of {rounds.name}, the best with rounds"
    if chosen.prediction.mode.scheme == SERVER:
        why = f"drafting on the device is predicted to add less than {auto.NEAR:.0%} to the"
        if not chosen.helped:
            why = "no drafting is predicted to be faster than its"
        lines = [f"Plain server streaming: {why} {speed:.1f} tokens/s, against {best}."]
    else:
        against = "" if chosen is rounds else f", against {best}"
        lines = [f"{chosen.name}: {speed:.1f} tokens/s predicted, {speed / servers[False]:.2f} times plain server "
                 f"streaming{against}."]  # fmt: skip
    lines.append(f"With it {_CAUSES[chosen.limit]}")
    if not chosen.helped:
        lines.append(
            f"An edge with a draft model of its own would write {servers[True]:.1f} tokens/s without the device."
        )
    lines.append(
        "Copies at the edge (server+lookup, stream+lookup) come on top: what they gain is how much a text repeats, "
        "which no link tells."
    )
    return lines


def _table(rows: list[PlanRow]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("\nscheme", no_wrap=True)
    # γ: draft length of a round. Target, drafts: forwards of either model, dead drafts included.
    for heading in (
        "tokens\n/s",
        "γ or\nwindow",
        "target\n/token",
        "drafts\n/token",
        "up bits\n/token",
        "down b.\n/token",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("\nbottleneck", no_wrap=True)
    for row in rows:
        each, mode = row.prediction, row.prediction.mode
        table.add_row(
            row.name + (" ◀" if row.chosen else ""),
            f"{each.tokens_per_s:.1f}",
            f"{mode.length}" if traits(mode.scheme).drafts else "–",
            f"{each.target_forwards_per_token:.2f}",
            f"{each.device_drafts_per_token:.2f}",
            f"{each.uplink_bits_per_token:,.0f}",
            f"{each.downlink_bits_per_token:,.0f}",
            row.limit,
            style="bold" if row.chosen else "",
        )
    return table


def _finite(values: Mapping[str, float | None]) -> dict[str, float | None]:
    """The values for JSON, which has no infinity: null is a rate without a limit. Unknown values are left out."""
    known = {name: value for name, value in values.items() if value is not None}
    return {name: value if math.isfinite(value) else None for name, value in known.items()}
