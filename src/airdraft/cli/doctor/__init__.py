"""`airdraft doctor`: whether two models, this machine and a link go together, and what to do where they do not."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from airdraft import local
from airdraft.api.template import ChatTemplate
from airdraft.chat.marks import is_private
from airdraft.chat.talk import prompt_of
from airdraft.cli import options
from airdraft.cli.doctor.checks import examine
from airdraft.cli.doctor.finding import BAD, LOOK, OK, SKIPPED, Finding, Subject
from airdraft.cli.fitted import DRAFT, TARGET, fitted
from airdraft.cli.output import noted
from airdraft.cli.unnamed import draft_for
from airdraft.core.sampling import SamplingParams
from airdraft.device.dial import check_address
from airdraft.device.shipped import draft_at
from airdraft.errors import BadParameterError
from airdraft.lab.wall.chat_prompts import OPENINGS, PROMPTS
from airdraft.models.engines.nothing import NONE
from airdraft.models.fit import Fit
from airdraft.models.registry import ANY, draft_files, text_files
from airdraft.models.text import Tokenizer

MOST_BYTES, MOST_PROMPTS = 1 << 20, 64
EVERY = 5
"""Of the bench's questions every such one is asked where no prompts are given."""
COLOURS = {OK: "green", LOOK: "yellow", BAD: "bold red", SKIPPED: "dim"}

_Prompts = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        metavar="FILE",
        help="Your own prompts, one a line, or in a .json file a list of strings. A model with a chat template is "
        "asked them as questions. Without it: a few of ours.",
    ),
]
_Edge = Annotated[
    str | None,
    typer.Option(
        help="An edge, ws:// or wss://HOST:PORT: its link is measured, and its target unless --target names one."
    ),
]
_Target = Annotated[
    str | None,
    typer.Option(
        help="Target MODEL, looked at on this machine. Without it: the edge's, or `target`.", rich_help_panel="Models"
    ),
]
_Draft = Annotated[
    str | None,
    typer.Option(
        help="Draft MODEL, looked at on this machine. Without it: the one that ships and has the target's vocabulary.",
        rich_help_panel="Models",
    ),
]
_Engine = Annotated[
    str | None, typer.Option(help="What runs the target here; as for `airdraft edge`.", rich_help_panel="Models")
]
_Rtt = Annotated[
    float | None, typer.Option("--rtt-ms", help="Round-trip time of your link, ms.", rich_help_panel="Link")
]
_Uplink = Annotated[float | None, typer.Option("--uplink-mbps", help="Device to edge, Mbit/s.", rich_help_panel="Link")]
_Downlink = Annotated[
    float | None, typer.Option("--downlink-mbps", help="Edge to device, Mbit/s.", rich_help_panel="Link")
]


@fitted(fit=TARGET, draft_fit=DRAFT)
def doctor(
    target: _Target = None,
    draft: _Draft = None,
    engine: _Engine = None,
    draft_engine: options.DraftEngine = None,
    fit: Fit = ANY,
    draft_fit: Fit = ANY,
    edge: _Edge = None,
    token: options.Token = None,
    ca: options.Ca = None,
    rtt_ms: _Rtt = None,
    uplink_mbps: _Uplink = None,
    downlink_mbps: _Downlink = None,
    prompts: _Prompts = None,
    temperature: options.Temperature = 0.7,
    top_k: options.TopK = 0,
    top_p: options.TopP = 1.0,
    min_p: options.MinP = 0.0,
    seed: options.Seed = 0,
    as_json: options.Json = False,
    no_color: options.NoColor = False,
) -> None:
    """Look at a pair of models: what fits, costs and would gain.

    Each line has a verdict: ok; look, where it works and might be better; bad,
    where it does not work; skipped, where something else has to be mended first.
    Speeds and acceptance are measured; what `auto` would do is predicted from
    them, over the link to --edge, over the link that you describe, or over
    several.

      airdraft doctor --target ./my-8b.gguf --draft ./my-small.gguf
      airdraft doctor --draft ./my-small.gguf --edge wss://HOST:8571
      airdraft doctor --target chat-target --prompts mine.txt --rtt-ms 60 --uplink-mbps 10

    Ends with exit code 1 if a line is bad, and 2 if it could not begin.
    """
    params = SamplingParams(temperature, top_k, top_p, min_p)
    link = _link(rtt_ms, uplink_mbps, downlink_mbps)
    own = None if prompts is None else read_prompts(prompts)
    trust = options.trusted(ca)
    if edge is not None:
        check_address(edge)
    elif target is None:
        target = "target"
    if target is None and (engine is not None or fit.given):
        what = ", ".join([*(["--engine"] if engine else []), *fit.words()[::2]])
        raise BadParameterError(f"{what}: for a target on this machine; name one, --target MODEL")
    if draft is None:
        draft = asyncio.run(draft_at([edge or ""], token, trust)) if target is None else draft_for(target)
    if draft == NONE:
        raise BadParameterError("there is no draft to look at; name one, --draft MODEL")
    template = ChatTemplate.of(text_files(target) if target else draft_files(draft, engine=draft_engine))

    def ids(tokenizer: Tokenizer) -> list[list[int]]:
        if template is not None:
            asked = own or [question for _, question in PROMPTS[::EVERY]]
            if any(map(is_private, asked)):
                raise BadParameterError("the doctor keeps nothing private; give it prompts without private parts")
            return [prompt_of(template, question) for question in asked]
        return [tokenizer.encode(words) for words in own or OPENINGS]

    subject = Subject(draft, draft_engine, target, engine, edge, token, trust, link, ids, params, seed, fit, draft_fit)
    console = Console(no_color=no_color, highlight=False)
    found: list[Finding] = []
    for finding in examine(subject):
        found.append(finding)
        if not as_json:
            _show(console, finding)
    wrong = any(each.verdict == BAD for each in found)
    if as_json:
        record = {"draft": draft, "target": target, "edge": edge, "ok": not wrong}
        print(json.dumps(record | {"findings": [asdict(each) for each in found]}, indent=2))  # noqa: T201
    if wrong:
        raise typer.Exit(1)


def _show(console: Console, finding: Finding) -> None:
    line = Text.assemble(
        (f"{finding.verdict:<8}", COLOURS[finding.verdict]), (f"{finding.check}: ", "bold"), finding.says
    )
    noted(console, line)
    if finding.remedy:
        noted(console, Text(f"        → {finding.remedy}"))


def _link(rtt_ms: float | None, uplink_mbps: float | None, downlink_mbps: float | None) -> local.Link | None:
    """The user's link, if told. Raises: `BadParameterError` for half of one, or a value out of range."""
    if rtt_ms is None and uplink_mbps is None and downlink_mbps is None:
        return None
    if rtt_ms is None:
        raise BadParameterError("a rate is given, and no round-trip time; give --rtt-ms, too")
    up, down = (math.inf if rate is None else rate for rate in (uplink_mbps, downlink_mbps))
    return local.Link(up, down, rtt_ms)


def read_prompts(path: Path) -> list[str]:
    """The prompts in a file: its lines, or of a .json file a list of strings. Raises: `BadParameterError`."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise BadParameterError(f"{path} has more than {MOST_BYTES:,} bytes; give some of the prompts")
        text = path.read_text(encoding="utf-8")
        found = msgspec.json.decode(text, type=list[str]) if path.suffix == ".json" else text.splitlines()
    except (OSError, UnicodeDecodeError, msgspec.DecodeError) as problem:
        what = problem.strerror if isinstance(problem, OSError) else problem
        raise BadParameterError(
            f"the prompts in {path} cannot be read ({what}); give a text file, or .json with a list of strings"
        ) from problem
    found = [each for each in found if each.strip()]
    if not found:
        raise BadParameterError(f"{path} holds no prompt; give one a line")
    return found[:MOST_PROMPTS]
