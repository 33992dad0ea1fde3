"""`airdraft chat`: several turns with a model, drafted here and verified at an edge."""

from __future__ import annotations

import functools
import math
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from airdraft.chat.talk import Settings, Talk
from airdraft.cli import chosen, options
from airdraft.cli.chat.behind import Behind
from airdraft.cli.chat.conversing import Conversation
from airdraft.cli.chat.typed import Typed
from airdraft.cli.fitted import DRAFT, TARGET, fitted, own_edge
from airdraft.cli.output import noted
from airdraft.cli.run import (
    Schema,
    bring,
    check_lookup,
    check_vocabulary,
    connected,
    emulated_link,
    imitated,
    loaded,
    needed,
    reach,
    unmodelled,
    watched,
)
from airdraft.cli.schemas import schema_of
from airdraft.demo.live import onto
from airdraft.demo.show import legend
from airdraft.device.stall import STALL_S
from airdraft.models.engines.nothing import NONE
from airdraft.models.fit import Fit
from airdraft.models.registry import ANY


@fitted(fit=TARGET, draft_fit=DRAFT)
def chat(
    edge: options.UnnamedEdge = None,
    target: Annotated[
        str | None,
        typer.Option(
            help=f"Target MODEL of an edge on this machine. Without it: {chosen.CHAT_TARGET}, downloaded once.",
            rich_help_panel="Models",
        ),
    ] = None,
    engine: options.TargetEngine = None,
    fit: Fit = ANY,
    draft: options.UnnamedDraft = None,
    draft_fit: Fit = ANY,
    draft_engine: options.DraftEngine = None,
    lookup: options.Lookup = False,
    tree: options.Tree = "auto",
    tokenizer_of: options.TokenizerOf = None,
    prompts: options.DraftPrompts = None,
    chat_template: options.ChatTemplateFile = None,
    system: Annotated[str | None, typer.Option(help="System prompt. Without it: the template's.")] = None,
    scheme: options.Scheme = "auto",
    schema: Schema = None,
    temperature: chosen.Temperature = None,
    top_k: chosen.TopK = None,
    top_p: chosen.TopP = None,
    min_p: chosen.MinP = None,
    seed: options.Seed = 0,
    max_tokens: Annotated[int, typer.Option(help="Most tokens of an answer.", rich_help_panel="Sampling")] = 512,
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
    """Chat with a model: drafted here, verified at the edge.

    Ctrl-C stops an answer, Ctrl-D ends the chat, /help lists the commands. From a script, each line of standard
    input is a message or a command:

      printf 'Hello!\\nSay that in French.\\n' | airdraft chat --json

      airdraft chat --target ./my-8b.gguf --draft ./my-small.gguf --live
    """
    check_lookup(scheme, lookup)
    branches = options.branches(tree, scheme)
    link = emulated_link(edge, uplink_mbps, downlink_mbps, rtt_ms)
    chosen.check_target(edge, target)
    words = own_edge(edge, engine, fit)
    target = chosen.CHAT_TARGET if target is None else target
    urls, patience = reach(edge, target, "none", link, offline, words)
    trust, feed = options.trusted(ca), watched(live, as_json)
    given = chosen.given(temperature, top_k, top_p, min_p)
    served = None if edge is not None else target
    named, told = draft, draft or tokenizer_of
    draft, tokenizer_of = needed(
        draft, draft_engine, tokenizer_of, served, edge, token, trust, spares=False, default=chosen.CHAT_DRAFT
    )
    # What the target's own files say is better than what the draft's do, where they are here.
    place = chosen.place_of(served, draft, draft_engine, tokenizer_of)
    scheme = unmodelled(scheme, lookup) if draft == NONE else scheme
    form = None if schema is None else (schema, schema_of(schema))
    settings = Settings(chosen.sampling_of(place, given), seed, scheme, max_tokens, form)
    template = chosen.template_of(place, served or draft, chat_template)
    check_vocabulary(draft if told else None, draft_engine, tokenizer_of, served)
    bring(served, engine, fit)
    model, tokenizer, stored = loaded(draft, draft_engine, tokenizer_of, draft_fit, prompts, edge, token, trust)
    interactive = sys.stdin.isatty() and not as_json
    console = Console(no_color=no_color, highlight=False)
    notes = console if console.is_terminal and not as_json else Console(stderr=True, no_color=no_color, highlight=False)
    with options.fitting(named), Behind.started() as behind, behind.within(urls) as reached:
        reaching = connected(reached, model, tokenizer, patience, token, trust, stall_s, lookup, branches, stored, feed)
        with behind.within(reaching) as writer:
            talk = Talk(writer, tokenizer, template, settings)
            talk.history.system = system
            if interactive:
                alone = "drafted by copying" if lookup else "without a draft"
                _greet(notes, served, edge, alone if draft == NONE else f"drafted here by {draft}")
            screen = functools.partial(onto, console, feed, writer, about=imitated("none", link))
            Conversation(talk, writer, tokenizer, behind, console, screen, notes, as_json, interactive).go_on(
                Typed(interactive)
            )


def _greet(notes: Console, served: str | None, edge: str | None, by: str) -> None:
    """Say to a person who writes what, and with which colours."""
    noted(notes, Text(f"{served or 'the target'} at {edge or 'an edge on this machine'}, {by}:"))
    notes.print(legend())
    notes.print(Text("/help lists the commands, Ctrl-D ends the chat", "dim"))
