"""`airdraft run`: one text in the terminal."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, cast
from urllib.parse import urlsplit

import typer
from msgspec import structs
from rich.console import Console
from rich.text import Text

from airdraft import local
from airdraft.chat.talk import private_of, prompt_of
from airdraft.cli import chosen, options
from airdraft.cli.fitted import DRAFT, TARGET, fitted, own_edge
from airdraft.cli.output import noted
from airdraft.cli.schemas import WORDS, schema_of
from airdraft.cli.texts import read_text
from airdraft.cli.unnamed import draft_for
from airdraft.control.auto import Auto
from airdraft.control.facts import wire_of
from airdraft.control.lengths import RULES
from airdraft.control.words import spec_of
from airdraft.core.events import Committed, Finished
from airdraft.core.messages import GuideSpec, SchemeSpec
from airdraft.core.request import Request
from airdraft.core.schemes import SCHEMES, SERVER, STREAM, named
from airdraft.demo.live import onto
from airdraft.demo.show import TokenPrinter
from airdraft.device.cost import CostMeter
from airdraft.device.edges import Away, Connected, EdgesState
from airdraft.device.offline import Corrected, Unverified
from airdraft.device.shipped import SHIPPED, draft_at
from airdraft.device.stall import STALL_S
from airdraft.device.writer import Offline, Writer
from airdraft.errors import BadParameterError, Code, LinkError, RefusedError, why
from airdraft.guides import Guides, of_regex
from airdraft.models.base import LanguageModel, OneByOne, info_of
from airdraft.models.engines.nothing import NONE
from airdraft.models.fit import Fit
from airdraft.models.imports.cache import text_folder
from airdraft.models.profile import Paced, profile
from airdraft.models.registry import ANY, draft_files, load_draft, resolve, text_files
from airdraft.models.text import Tokenizer
from airdraft.prompts.arriving import StoredPrompts
from airdraft.telemetry.feed import Feed
from airdraft.telemetry.trace import Traces

GIVE_UP_S = 60.0
"""Seconds that a text waits for an edge that was lost."""
ROUNDS = named(rounds=True)

_MOST_PREDICTED = _MOST_INPUT = 1 << 24
"""Bytes of a prediction, and of a prompt: more than a message holds."""
Schema = Annotated[
    str | None,
    typer.Option(
        metavar=WORDS,
        help="A JSON schema, or a type of msgspec or pydantic, whose JSON the text then is, on one line.",
        rich_help_panel="Sampling",
    ),
]
_Regex = Annotated[
    str | None,
    typer.Option(help="A regular expression, which the whole text then matches.", rich_help_panel="Sampling"),
]
_Predict = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A file that the text is expected to resemble: one that it edits, say. The text is the same with and "
        "without; it comes sooner where the file is right.",
        rich_help_panel="Scheme",
    ),
]


@fitted(fit=TARGET, draft_fit=DRAFT)
def run(
    prompt: Annotated[str, typer.Argument(help="The text to continue; - reads it from standard input.")],
    edge: options.UnnamedEdge = None,
    draft: options.UnnamedDraft = None,
    draft_engine: options.DraftEngine = None,
    lookup: options.Lookup = False,
    tree: options.Tree = "auto",
    tokenizer_of: options.TokenizerOf = None,
    target: chosen.Target = None,
    engine: options.TargetEngine = None,
    fit: Fit = ANY,
    draft_fit: Fit = ANY,
    prompts: options.DraftPrompts = None,
    chat: chosen.Chat = False,
    chat_template: options.ChatTemplateFile = None,
    profile_name: options.Profile = "none",
    scheme: options.Scheme = "auto",
    draft_length: options.DraftLength = None,
    rule: options.Rule = None,
    predict: _Predict = None,
    schema: Schema = None,
    regex: _Regex = None,
    race: options.Race = None,
    k: options.K = 64,
    bits: options.Bits = 16,
    resolution: options.Resolution = 240,
    verify: options.Verify = "token",
    downlink: options.Downlink = "row",
    temperature: chosen.Temperature = None,
    top_k: chosen.TopK = None,
    top_p: chosen.TopP = None,
    min_p: chosen.MinP = None,
    seed: options.Seed = 0,
    max_tokens: options.MaxTokens = 128,
    uplink_mbps: options.Uplink = math.inf,
    downlink_mbps: options.DownlinkRate = math.inf,
    rtt_ms: options.Rtt = 0.0,
    offline: options.Offline = "stall",
    stall_s: options.StallS = STALL_S,
    token: options.Token = None,
    ca: options.Ca = None,
    live: options.Live = False,
    as_json: options.Json = False,
    no_color: options.NoColor = False,
) -> None:
    """Continue PROMPT: draft on this device, verify at the edge.

    Green tokens were drafted here and accepted, blue ones copied here; magenta ones the edge proposed; yellow ones
    corrected a draft; cyan ones came on top; the rest the edge wrote alone. A rate or a round trip emulates a link
    to an edge on this machine. With --chat, PROMPT is a question.

      airdraft run "def f(x):" --edge ws://HOST:8571 --live
      airdraft run "Once upon" --target ./my-8b.gguf --draft ./my-small.gguf --max-tokens 80
    """
    scheme, spec = spec_of(scheme, SchemeSpec(STREAM, k, bits, downlink, race or "always", resolution, verify))
    link, own = emulated_link(edge, uplink_mbps, downlink_mbps, rtt_ms), own_edge(edge, engine, fit)
    branches = _check(scheme, draft_length, rule, race, chat_template is None or chat, lookup, tree)
    trust, wanted, told = options.trusted(ca), options.fitting(draft), draft or tokenizer_of
    chosen.check_target(edge, target)
    if target is None:
        target = chosen.CHAT_TARGET if chat and chat_template is None else "target"
    served, spares = None if edge else target, scheme == SERVER and offline != "draft"
    draft, tokenizer_of = needed(draft, draft_engine, tokenizer_of, served, edge, token, trust, spares)
    place = chosen.place_of(served, draft, draft_engine, tokenizer_of) if chat else None
    params, guide = chosen.sampling_of(place, chosen.given(temperature, top_k, top_p, min_p)), _guided(schema, regex)
    scheme = unmodelled(scheme, lookup) if draft == NONE else scheme
    spec = structs.replace(spec, name=STREAM if scheme == "auto" else scheme)
    words, expected, pace = _input() if prompt == "-" else prompt, _read(predict, scheme), profile(profile_name)
    (urls, patience), feed = reach(edge, target, profile_name, link, offline, own), watched(live, as_json)
    template = chosen.template_of(place, draft if edge else target, chat_template) if place is not None else None

    async def write() -> None:
        model, tokenizer, stored = loaded(draft, draft_engine, tokenizer_of, draft_fit, prompts, edge, token, trust)
        policy = Auto(tokenizer.vocab_size, races=(race or "always",), k=k, bits=bits) if scheme == "auto" else None
        ends = RULES[rule](wire_of(spec, tokenizer.vocab_size)) if rule else None
        ids = tokenizer.encode(words) if template is None else prompt_of(template, words)
        request = Request(
            ids, spec, params, seed, max_tokens, draft_length, policy=policy, rule=ends,
            prediction=tokenizer.encode(expected, special=False), private=private_of(ids, template, words), guide=guide,
        )  # fmt: skip
        async with urls as url, connected(
            url, Paced(model, pace.draft_s), tokenizer, patience, token, trust, stall_s, lookup, branches, stored, feed
        ) as writer:  # fmt: skip
            shown = writer, request, tokenizer, profile_name
            await (_as_json(*shown) if as_json else _as_text(*shown, "" if template else words, no_color, feed, link))

    with wanted:
        check_vocabulary(draft if told else None, draft_engine, tokenizer_of, served)
        bring(served, engine, fit)
        asyncio.run(write())


def emulated_link(edge: str | None, uplink_mbps: float, downlink_mbps: float, rtt_ms: float) -> local.Link | None:
    """The link to emulate, if any. Raises: `BadParameterError` for one to an edge that is elsewhere."""
    link = local.Link(uplink_mbps, downlink_mbps, rtt_ms)
    if link == local.Link(math.inf, math.inf, 0.0):
        return None
    if edge is not None:
        raise BadParameterError(
            "--edge and an emulated link are given; put `airdraft link --to EDGE` between, and pass its address"
        )
    return link


def reach(
    edge: str | None, target: str, profile_name: str, link: local.Link | None, offline: str, words: list[str]
) -> tuple[contextlib.AbstractAsyncContextManager[str], Offline]:
    """The addresses of `edge`, or of one that serves `target` on this machine; and what to do while none answers.

    words: further options of that one.

    Raises: `BadParameterError` for a wish about an edge that goes away, where it does not come back.
    """
    if edge is not None:
        return contextlib.nullcontext(edge), cast(Offline, offline)
    if offline != "stall":
        raise BadParameterError(f"--offline {offline} is for an edge that may go away; name it, --edge URL")
    return local.edge(target, profile_name, link, words), "error"


def watched(live: bool, as_json: bool) -> Feed | None:
    """What tells a text's events, if `--live` asks for it. Raises: `BadParameterError` beside JSON."""
    if live and as_json:
        raise BadParameterError("--live is for people and --json for programs; leave one of them out")
    return Feed() if live else None


def imitated(profile_name: str, link: local.Link | None) -> str:
    """What of a text's figures is not real; empty if all is."""
    parts = [f"compute imitates {profile_name}"] if profile_name != "none" else []
    return ", ".join([*parts, *(["link emulated"] if link else [])])


def unmodelled(scheme: str, lookup: bool) -> str:
    """What `auto` is on a device without a draft model. Copies cost nothing, so there is nothing to choose."""
    return scheme if scheme != "auto" else STREAM if lookup else SERVER


def _check(
    scheme: str, draft_length: int | None, rule: str | None, race: str | None, templated: bool, lookup: bool, tree: str
) -> int | None:
    """Check that options go together. `templated`: whether a given template is used. Raises: `BadParameterError`.

    Returns: what `tree` says, see `Request.branches`.
    """
    if not templated:
        raise BadParameterError("--chat-template is for a question; give --chat, too, or leave it out")
    if scheme == "auto" and draft_length is not None:
        raise BadParameterError("--draft-length is given, and auto chooses it; leave it out, or name a --scheme")
    if scheme not in SCHEMES and scheme != "auto":
        raise BadParameterError(f"scheme {scheme!r} is unknown; choose one of {', '.join(SCHEMES)}, auto")
    check_lookup(scheme, lookup)
    if (scheme, race, draft_length) == (STREAM, "off", 0):
        raise BadParameterError("--draft-length is 0 and --race is off, so nobody would write; give at least 1")
    if rule is not None and rule not in RULES:
        raise BadParameterError(f"rule {rule!r} is unknown; choose one of {', '.join(RULES)}")
    if rule is not None and (scheme not in ROUNDS or draft_length is not None):
        raise BadParameterError(f"--rule takes the place of --draft-length, and needs --scheme {', '.join(ROUNDS)}")
    return options.branches(tree, scheme)


def check_lookup(scheme: str, lookup: bool) -> None:
    """Raises: `BadParameterError` for copies under a scheme that drafts nothing."""
    if lookup and scheme == SERVER:
        raise BadParameterError(f"--lookup drafts, and --scheme {SERVER} does not; leave one of them out")


def _read(file: Path | None, scheme: str) -> str:
    """The text in `file`. Raises: `BadParameterError` if it cannot be read, is too long or of no use to the scheme."""
    if file is None:
        return ""
    if scheme in ROUNDS:
        raise BadParameterError(f"--predict is of no use to --scheme {scheme}; take auto, {STREAM} or {SERVER}")
    if text := read_text(file, _MOST_PREDICTED, "predict"):
        return text
    raise BadParameterError(f"--predict {file} holds no text; give what the answer may be, or leave it out")


def _guided(schema: str | None, regex: str | None) -> GuideSpec | None:
    """The grammar that the text is to keep to. Raises: `BadParameterError` if there are two, or it is none."""
    if schema is not None and regex is not None:
        raise BadParameterError("--schema and --regex are given; give one of them")
    if schema is not None:
        return schema_of(schema)
    return None if regex is None else of_regex(regex)


def needed(
    draft: str | None, engine: str | None, tokenizer: str | None, served: str | None, edge: str | None,
    token: str | None, trust: ssl.SSLContext | None, spares: bool, default: str = SHIPPED[0],
) -> tuple[str, str | None]:  # fmt: skip
    """The draft to load, and the model whose tokenizer is read without one.

    draft: None is the one that ships and fits; `default` while no edge answers.
    served: the target that this command serves; None: it is that of `edge`.
    spares: whether no draft is wanted where none is named for another reason.
    Raises: `RefusedError` if no draft that ships fits the target of `edge`, `ModelError`.
    """
    spares = spares and engine is None
    if draft is None and (tokenizer or served):
        draft = NONE if spares else draft_for(tokenizer or served or "")
        tokenizer = tokenizer if draft == NONE else None
    elif draft is None:
        draft = asyncio.run(draft_at(options.edges(edge or ""), token, trust, default))
    if spares and tokenizer is None and draft != NONE:
        draft, tokenizer = NONE, draft  # its tokenizer is all that is needed of it
    return draft, (tokenizer or served) if draft == NONE else tokenizer


def loaded(
    draft: str, engine: str | None, tokenizer: str | None, fit: Fit, prompts: str | None, edges: str | None,
    token: str | None, trust: ssl.SSLContext | None,
) -> tuple[LanguageModel, Tokenizer, StoredPrompts | None]:  # fmt: skip
    """The draft, and the prompts published for it. Raises: `ModelError`, as `load_draft` and `StoredPrompts.at` do.

    edges, token, trust: what one of these edges is shown where the prompts lie there.
    """
    if prompts is not None and draft == NONE:
        raise BadParameterError("--prompts is for a draft, and there is none; name one with --draft, or leave it out")
    model, words = load_draft(draft, engine=engine, tokenizer=tokenizer, fit=fit, digest=prompts is not None)
    if prompts is None:
        return model, words, None
    engine_of = OneByOne(model, info_of(model).digest)
    return model, words, StoredPrompts.at(prompts, engine_of, options=_shown_to(prompts, edges, token, trust))


def _shown_to(prompts: str, edges: str | None, token: str | None, trust: ssl.SSLContext | None) -> dict[str, Any]:
    """What requests carry to a store at one of the edges, on a way as safe as the edge's own; to others nothing."""
    place = urlsplit(prompts)
    own = {(each.scheme.replace("ws", "http"), each.hostname) for each in map(urlsplit, (edges or "").split(","))}
    if (place.scheme, place.hostname) not in own:
        return {}
    bearer = {"headers": {"Authorization": f"Bearer {token}"}} if token else {}
    return bearer | ({"ssl": trust} if trust is not None and place.scheme == "https" else {})


def check_vocabulary(draft: str | None, engine: str | None, tokenizer: str | None, served: str | None) -> None:
    """Compare the tokenizers before any weight is read. Raises: `RefusedError`, `ModelError`.

    draft: None: one that was found for the target. served: the target; None: that of an edge elsewhere, which compares.
    """
    if draft is None or served is None or (draft == NONE and tokenizer == served):
        return
    own = Tokenizer(text_folder(draft_files(draft, engine=engine, tokenizer=tokenizer)))
    if own.digest != Tokenizer(text_files(served)).digest:
        raise RefusedError(
            Code.VOCABULARY,
            f"{tokenizer or draft} and the target {served} do not share one vocabulary; pick a draft with the target's "
            "own tokenizer, or take none, --draft none",
        )


def bring(served: str | None, engine: str | None, fit: Fit) -> None:
    """Fetch and import the target that an edge's process will serve: here progress shows, and may take its time.

    Raises: `ModelError`.
    """
    if served is not None:
        resolve(served, engine, fit)


@contextlib.asynccontextmanager
async def connected(
    urls: str, model: LanguageModel, tokenizer: Tokenizer, offline: Offline, token: str | None,
    trust: ssl.SSLContext | None, stall_s: float, lookup: bool = False, branches: int | None = None,
    prompts: StoredPrompts | None = None, feed: Feed | None = None,
) -> AsyncIterator[Writer]:  # fmt: skip
    """A writer that has tried to reach one of the edges `urls`. Raises: `LinkError` unless drafts are shown offline."""
    async with Writer(
        options.edges(urls), model, tokenizer.digest, tokenizer.vocab_size, offline=offline, token=token, ssl=trust,
        give_up_s=GIVE_UP_S, stall_s=stall_s, told=_Notes(waits=offline != "error"), lookup=lookup,
        branches=branches, prompts=prompts, reader=Guides(tokenizer),
        traces=Traces(None, "device", feed=feed) if feed else None,
    ) as writer:  # fmt: skip
        try:
            await writer.connect()
        except LinkError:
            if offline != "draft":
                raise
        if writer.exactness is not None and writer.losses:
            typer.echo(f"airdraft: texts of this edge are {writer.exactness.words}", err=True)
        yield writer


class _Notes:
    """Reports on standard error that the edge is lost, and that one is back."""

    def __init__(self, waits: bool) -> None:
        self._waits = waits
        self._lost = self._met = False

    def __call__(self, state: EdgesState) -> None:
        here = isinstance(state, Connected)
        begin = "\n" if sys.stderr.isatty() else ""  # a text is being written on this line
        if isinstance(state, Away) and self._waits and self._met and not self._lost:
            _note(f"{begin}airdraft: {state}; waiting up to {GIVE_UP_S:g} s")
        elif here and self._lost:
            _note(f"{begin}airdraft: {state}; the text goes on")
        self._met, self._lost = self._met or here, not here


def _note(words: str) -> None:
    """Print on standard error as it is now: a board may stand there, which moves out of the way."""
    print(words, file=sys.stderr, flush=True)  # noqa: T201


def _input() -> str:
    """All of standard input."""
    try:
        found = sys.stdin.buffer.read(_MOST_INPUT + 1)
        if len(found) > _MOST_INPUT:
            raise BadParameterError(f"standard input has more than {_MOST_INPUT} bytes; shorten the prompt")
        return found.decode()
    except OSError as error:
        raise BadParameterError(f"standard input cannot be read ({why(error)}); give it a text") from error
    except UnicodeDecodeError as error:
        raise BadParameterError(f"standard input is not UTF-8 text ({error.reason}); convert it first") from error


async def _as_text(
    writer: Writer, request: Request, tokenizer: Tokenizer, profile_name: str, begin: str, no_color: bool,
    feed: Feed | None, link: local.Link | None,
) -> None:  # fmt: skip
    """Print `begin`, and tokens as they are committed. Those committed before an error are printed, and stand.

    feed: see `watched`. link: that is emulated.
    """
    about = imitated(profile_name, link)
    console, cost = Console(no_color=no_color, highlight=False), CostMeter(request.counts)
    async with onto(console, feed, writer, request.policy is not None, about) as screen:
        screen.print(Text(begin, "dim"), end="", soft_wrap=True)
        printer = TokenPrinter(screen, tokenizer)
        try:
            with cost.measuring(writer):
                async for event in writer.write(request):
                    if isinstance(event, Committed):
                        printer.committed(event)
                    elif isinstance(event, Unverified) and console.is_terminal:  # only a terminal can take it back
                        printer.unverified(event)
                    elif isinstance(event, Corrected) and console.is_terminal:
                        printer.corrected(event)
        finally:
            printer.end()
    _sum_up(console, request, cost, profile_name)


def _sum_up(console: Console, request: Request, cost: CostMeter, profile_name: str) -> None:
    """Print what a text has cost, and what `auto` chose."""
    counts = cost.counts
    parts = [f"{counts.committed} tokens in {cost.seconds:.2f} s"]
    if profile_name != "none":
        parts[0] += f" (compute imitates {profile_name})"
    if counts.drafted:
        parts.append(f"{counts.accepted} of {counts.drafted} drafts accepted")
    if counts.committed:
        parts.append(f"{counts.forwards / counts.committed:.2f} target forwards a token")
    if counts.raced:
        parts.append(f"{counts.raced} raced")
    figures = cost.figures()
    up, down = figures["uplink_bits_per_token"], figures["downlink_bits_per_token"]
    parts.append(f"{up:.0f} bits up and {down:.0f} down a token")
    noted(console, Text(", ".join(parts), "dim"))
    if request.policy is not None:
        noted(console, Text(f"auto chose last: {request.policy.why()}", "dim"))


async def _as_json(writer: Writer, request: Request, tokenizer: Tokenizer, profile_name: str) -> None:
    """Print one object at the end, with the committed tokens even if an error follows."""
    tokens: list[int] = []
    reason, cost = "error", CostMeter(request.counts)
    try:
        with cost.measuring(writer):
            async for event in writer.write(request):
                if isinstance(event, Committed):
                    tokens += event.tokens
                elif isinstance(event, Finished):
                    reason = event.reason
    finally:
        record = {"text": tokenizer.decode(tokens), "ids": tokens, "reason": reason, "seed": request.seed}
        policy = request.policy
        record |= {"scheme": "auto" if policy else request.scheme.name, "why": policy.why() if policy else None}
        record |= {"losses": writer.losses} if writer.losses else {}
        record |= {"prompt_tokens_fetched": writer.fetched} if writer.fetched else {}
        print(json.dumps(record | {"profile": profile_name} | cost.figures()))  # noqa: T201
