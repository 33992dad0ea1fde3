"""Options that several commands share."""

from __future__ import annotations

import contextlib
import os
import re
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from airdraft.control.forecast import FORECASTERS, SIGHTED, Forecaster
from airdraft.control.lengths import RULES
from airdraft.core.device.tree import MOST_BRANCHES
from airdraft.core.schemes import SCHEMES, STREAM
from airdraft.errors import BadParameterError, Code, RefusedError, RemoteProtocolError, why
from airdraft.files import read_bytes
from airdraft.models.profile import PROFILES
from airdraft.models.registry import HERE
from airdraft.telemetry import logs
from airdraft.telemetry.feed import Feed
from airdraft.telemetry.trace import Traces

UnnamedEdge = Annotated[
    str | None,
    typer.Option(
        "--edge",
        help="The edge, ws:// or wss://HOST:PORT, or several with the same target: A,B. Without it, one is started "
        "on this machine.",
    ),
]
NO_DRAFT = "draft"
"""What `--draft` is when it is not given: the one that ships."""
Draft = Annotated[
    str,
    typer.Option(
        help="Draft MODEL, on this device; none: the edge alone writes (scheme server).", rich_help_panel="Models"
    ),
]
UnnamedDraft = Annotated[
    str | None,
    typer.Option(
        help="Draft MODEL, on this device. Without it: the one that ships and has the target's vocabulary; none: the "
        "edge alone writes (scheme server).",
        rich_help_panel="Models",
    ),
]
Lookup = Annotated[
    bool,
    typer.Option(
        "--lookup",
        help="Draft by copying, too, where the last tokens stood in prompt or text before and that is the better "
        "guess. With --draft none the device drafts nothing else.",
        rich_help_panel="Models",
    ),
]
Tree = Annotated[
    str,
    typer.Option(
        "--tree",
        metavar="auto|off|B",
        help="How drafts branch where the edge takes trees: B runs the draft model behind the B likeliest at once, off "
        "drafts chains only, auto goes by the measured cost.",
        rich_help_panel="Models",
    ),
]
Forecast = Annotated[
    str,
    typer.Option(
        metavar="none|ewma|ridge|...",
        help="Forecast the link, and draft nothing while drafts would come too late, as in an outage. It spares the "
        "battery and does not change the text. snr, guard and model read a modem's --csi.",
        rich_help_panel="Link",
    ),
]
Csi = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="CSI that a modem's tool writes to a file or pipe, a slot a line as JSON, see docs/links.md.",
        rich_help_panel="Link",
    ),
]
TokenizerOf = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        help="Without a draft: the MODEL whose tokenizer is the target's. Its weights are not read.",
        rich_help_panel="Models",
    ),
]
Target = Annotated[str, typer.Option(help="Target MODEL, at the edge.", rich_help_panel="Models")]
DraftEngine = Annotated[
    str | None,
    typer.Option(
        "--draft-engine",
        help=f"What runs the draft: {', '.join(HERE)}. Without it: the one whose files the folder holds.",
        rich_help_panel="Models",
    ),
]
TargetEngine = Annotated[
    str | None,
    typer.Option(
        "--engine",
        help=f"What runs the target of an edge that this command starts: {', '.join(HERE)}. Without it: the one whose "
        "files the folder holds.",
        rich_help_panel="Models",
    ),
]
Profile = Annotated[
    str,
    typer.Option(
        "--profile",
        help=f"Imitate the compute of other hardware: {', '.join(PROFILES)}. Times are then labelled imitated.",
        rich_help_panel="Models",
    ),
]
Scheme = Annotated[
    str,
    typer.Option(
        help=f"One of {', '.join(SCHEMES)}; or auto: a stream that races, or server where drafting gains nothing, by "
        "what is measured. Options may follow, as in topk:k=8,candidates=2.",
        rich_help_panel="Scheme",
    ),
]
Race = Annotated[
    str | None,
    typer.Option(
        help="stream: whether the edge writes on while no draft is at hand: `off`, `idle` (when it has nothing else to "
        "do) or `always`. Without it: always, also under auto.",
        rich_help_panel="Scheme",
    ),
]
K = Annotated[int, typer.Option("--k", help="topk, lattice: tokens in a sent distribution.", rich_help_panel="Scheme")]
Bits = Annotated[int, typer.Option(help="topk, split: bits of a sent probability.", rich_help_panel="Scheme")]
Resolution = Annotated[
    int, typer.Option(help="lattice: sum of the integer weights in a sent distribution.", rich_help_panel="Scheme")
]
Verify = Annotated[
    str,
    typer.Option(
        help="dense, topk, lattice: judge the drafts of a round one by one, `token`, or together, `block`, which "
        "accepts more of them.",
        rich_help_panel="Scheme",
    ),
]
Downlink = Annotated[
    str,
    typer.Option(
        help="split: what a rejection sends down, the target's `row` or `candidates` drawn from it.",
        rich_help_panel="Scheme",
    ),
]
Rule = Annotated[
    str | None,
    typer.Option(help=f"With rounds: what ends one, token by token: {', '.join(RULES)}.", rich_help_panel="Scheme"),
]
DraftLength = Annotated[
    int | None,
    typer.Option(
        help="Most tokens drafted before the edge is asked (γ); stream: most drafts beyond what is committed. "
        "Without it: the best, by what is measured.",
        rich_help_panel="Scheme",
    ),
]
Temperature = Annotated[float, typer.Option(help="0 is greedy.", rich_help_panel="Sampling")]
TopK = Annotated[int, typer.Option("--top-k", help="0 keeps every token.", rich_help_panel="Sampling")]
TopP = Annotated[float, typer.Option("--top-p", help="1 keeps every token.", rich_help_panel="Sampling")]
MinP = Annotated[float, typer.Option("--min-p", help="0 keeps every token.", rich_help_panel="Sampling")]
Seed = Annotated[int, typer.Option(help="Same seed, same text (coupled, server, greedy).", rich_help_panel="Sampling")]
MaxTokens = Annotated[int, typer.Option(help="Most tokens to write.", rich_help_panel="Sampling")]
Uplink = Annotated[float, typer.Option("--uplink-mbps", help="Device to edge, Mbit/s.", rich_help_panel="Link")]
DownlinkRate = Annotated[float, typer.Option("--downlink-mbps", help="Edge to device, Mbit/s.", rich_help_panel="Link")]
Rtt = Annotated[float, typer.Option("--rtt-ms", help="Round-trip time, ms.", rich_help_panel="Link")]
StallS = Annotated[
    float,
    typer.Option(
        help="Seconds of patience, at least, with an edge that answers pings and does not go on with a text; 0: for "
        "ever. Slow edges and long texts get more.",
        min=0,
        rich_help_panel="Link",
    ),
]
Offline = Annotated[
    str,
    typer.Option(
        help="While no edge answers: `stall` waits, `error` gives up, `draft` shows what the draft model would say, "
        "labelled, and corrects it later.",
        rich_help_panel="Link",
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        envvar="AIRDRAFT_TOKEN", help="Bearer token that this device presents to the edge.", rich_help_panel="Link"
    ),
]
Ca = Annotated[
    Path | None,
    typer.Option(
        help="Authorities, PEM, whose certificates an edge may have, besides the usual ones.", rich_help_panel="Link"
    ),
]
Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(help="Port to listen on; 0 picks a free one.", min=0, max=65535)]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(
        help="A further name by which clients without a key may ask for this server over HTTP; once for each. "
        "localhost, addresses and this machine's own name always may.",
        rich_help_panel="Operation",
    ),
]
ChatTemplateFile = Annotated[
    Path | None,
    typer.Option(
        "--chat-template", help="A chat template in Jinja. Without it: the model's own.", rich_help_panel="Models"
    ),
]
DraftPrompts = Annotated[
    str | None,
    typer.Option(
        "--prompts",
        metavar="URL",
        help="Where prompts are published for this draft, a folder or s3://BUCKET/PATH: see `airdraft prompt publish`. "
        "Or http://EDGE:PORT/v1/drafts: an edge that has the same draft reads prompts for its devices. Their keys and "
        "values come from there while the rest is computed; the text is the same.",
        rich_help_panel="Models",
    ),
]
OPERATION = "Operation"
KeptMb = Annotated[
    int | None,
    typer.Option(
        "--kept-mb",
        help="Megabytes of keys and values that are kept of ended texts, for texts that begin alike; 0: none. Without "
        "it: a 128th of this machine's memory.",
        min=0,
        max=1 << 30,
        rich_help_panel="Machine",
    ),
]
MetricsPort = Annotated[
    int | None,
    typer.Option(help="Serve /metrics and /healthz over HTTP here.", min=0, max=65535, rich_help_panel=OPERATION),
]
MetricsHost = Annotated[str, typer.Option(help="Address for them to listen on.", rich_help_panel=OPERATION)]
LogLevel = Annotated[str, typer.Option(help=f"What to log: {', '.join(logs.LEVELS)}.", rich_help_panel=OPERATION)]
LogJson = Annotated[bool, typer.Option(help="Log JSON, a line each.", rich_help_panel=OPERATION)]
TraceDir = Annotated[
    Path | None,
    typer.Option(help="Write a trace of every text, see `airdraft trace show`.", rich_help_panel=OPERATION),
]
TraceTokens = Annotated[
    bool,
    typer.Option(
        help="Token ids in traces, too: anybody who reads a trace can read the text.", rich_help_panel=OPERATION
    ),
]
ShowPage = Annotated[
    bool,
    typer.Option("--page", help="Serve a page that shows texts while they are written.", rich_help_panel=OPERATION),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Live = Annotated[
    bool,
    typer.Option(
        "--live",
        help="Show speed, link, drafts in flight and who found the tokens under the text while it is written; without "
        "a terminal, as lines at its end.",
    ),
]
UntilEof = Annotated[bool, typer.Option("--until-eof", hidden=True, help="End when standard input ends.")]


def _uncoloured(given: bool) -> bool:
    """Whether colours are unwanted, by the option or as https://no-color.org has it."""
    return given or bool(os.environ.get("NO_COLOR"))


NoColor = Annotated[bool, typer.Option("--no-color", callback=_uncoloured, help="Plain text, as with NO_COLOR set.")]


MOST_NAME = 200
"""Characters of a model's name."""


def model_name(name: str) -> str:
    """Return what clients call a model. Raises: `BadParameterError` for a name that a line of text cannot hold."""
    if not (name.strip() and name.isprintable() and len(name) <= MOST_NAME):
        raise BadParameterError(
            f"--name is empty, unprintable or longer than {MOST_NAME} characters; give a short word"
        )
    return name


def host_names(names: list[str] | None) -> list[str]:
    """Return the names of --allow-host. Raises: `BadParameterError` for what is none, a URL for one."""
    for name in names or []:
        if not re.fullmatch(r"[\w.-]+", name):
            raise BadParameterError(f"--allow-host is {name!r}; give a name without scheme or port, like edge.lan")
    return names or []


def address(host: str, port: int) -> str:
    """The URL of a server on this machine."""
    return f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}"


def edges(words: str) -> list[str]:
    """The URLs between commas."""
    return [url.strip() for url in words.split(",")]


def log_level(level: str) -> str:
    """Return `level`. Raises: `BadParameterError` if there is no such level."""
    if level not in logs.LEVELS:
        raise BadParameterError(f"no log level {level!r}; choose from {', '.join(logs.LEVELS)}")
    return level


def traces(folder: Path | None, side: str, tokens: bool, page: bool = False) -> Traces | None:
    """The place for traces, if there is one, or a page. Raises: `BadParameterError` if it is missing or unusable."""
    if tokens and folder is None:
        raise BadParameterError("--trace-tokens without --trace-dir; say where traces go")
    return Traces(folder, side, tokens, Feed() if page else None) if folder or page else None


def trusted(ca: Path | None) -> ssl.SSLContext | None:
    """A context that trusts the authorities in `ca`, too. None: the usual ones. Raises: `BadParameterError` for a bad
    file."""
    if ca is None:
        return None
    context = ssl.create_default_context()
    try:
        read_bytes(ca)
        context.load_verify_locations(ca)
    except OSError as error:  # SSLError among them
        raise BadParameterError(f"the authorities in {ca} cannot be read ({why(error)}); give a PEM file") from error
    return context


@contextlib.contextmanager
def fitting(draft: str | None) -> Iterator[None]:
    """Say it in the words of a user who named no draft, if the one that ships does not fit the target."""
    try:
        yield
    except (RefusedError, RemoteProtocolError) as error:
        if error.code != Code.VOCABULARY or draft not in (None, NO_DRAFT):
            raise
        raise RefusedError(
            error.code,
            "the target has another vocabulary than the draft model that ships with airdraft; name a draft model with "
            "the target's own tokenizer, --draft MODEL, or take none, --draft none --tokenizer MODEL",
        ) from error


def forecast(name: str, csi: Path | None = None) -> Callable[[], Forecaster] | None:
    """`Writer`'s `forecast` of `--forecast` and `--csi`. Raises: `BadParameterError` for no such, or no such file."""
    if name in SIGHTED:
        if csi is None:
            raise BadParameterError(
                f"--forecast {name} needs what a modem measures of the channel; give --csi FILE, or none, ewma or "
                "ridge, or try it over a simulated cell: airdraft bench trace nr --forecast all"
            )
        from airdraft.device.modem import sighted  # noqa: PLC0415  # it loads what no other device needs

        return sighted(name, csi)
    if csi is not None:
        raise BadParameterError(f"--csi is given, and --forecast {name} does not read it; give snr, guard or model")
    if name not in ("none", *FORECASTERS):
        raise BadParameterError(
            f"--forecast is {name!r}; give none, {', '.join(FORECASTERS)}, or with --csi FILE {', '.join(SIGHTED)}"
        )
    return FORECASTERS.get(name)


def branches(tree: str, scheme: str = "auto") -> int | None:
    """`Request.branches` of `--tree`. Raises: `BadParameterError` for no such, or a scheme that drafts no trees."""
    if tree == "auto":
        return None
    if scheme not in (STREAM, "auto"):
        raise BadParameterError(f"--tree is given, and --scheme {scheme} drafts none; leave it out, or take {STREAM}")
    if tree != "off" and not (tree.isascii() and tree.isdigit() and 1 <= int(tree) <= MOST_BRANCHES):
        raise BadParameterError(f"--tree is {tree!r}; give auto, off, or a number from 1 to {MOST_BRANCHES}")
    return 0 if tree == "off" else int(tree)
