"""`airdraft edge`: a target model, served to devices."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from airdraft.api.template import ChatTemplate
from airdraft.cli import chosen, options
from airdraft.cli.edge_process import ApiPort, Certificate, EdgeProcess
from airdraft.cli.fitted import DRAFT, TARGET, fitted
from airdraft.cli.paged import on_edge, readable, told
from airdraft.cli.texts import read_text
from airdraft.core.connection import HEARTBEAT_S
from airdraft.core.edge import Limits
from airdraft.core.messages import MAX_FRAME
from airdraft.edge import tls
from airdraft.edge.access import Access
from airdraft.edge.offering import Offering
from airdraft.edge.server import Capacity, EdgeServer, Service
from airdraft.errors import BadParameterError, ModelError, why
from airdraft.guides import Guides
from airdraft.listening import room_for
from airdraft.models.base import TargetEngine
from airdraft.models.fit import Fit, kept_bytes
from airdraft.models.profile import PacedEngine, Profile, profile
from airdraft.models.registry import ANY, HERE, REMOTE, TOP_K, load_helping, load_target, resolve
from airdraft.models.text import Tokenizer
from airdraft.prompts.arriving import StoredPrompts
from airdraft.prompts.codecs import CODECS, EXACT
from airdraft.prompts.codecs import named as codec_named
from airdraft.prompts.codecs.base import Codec
from airdraft.prompts.documents import Documents
from airdraft.prompts.documents import loss as documents_loss
from airdraft.prompts.loss import loss
from airdraft.proposers import LEARNING, NONE, PROPOSERS, USUAL, drafting, maker, named
from airdraft.scheduler import Helping
from airdraft.telemetry import logs
from airdraft.telemetry.trace import Traces

_log = logging.getLogger(__name__)

PAGE_PORT = 8573
"""The API's port where there is a page, and no other is given."""
ENGINE, ACCESS, LIMITS, OPERATION = "Engine", "Access", "Limits", options.OPERATION

_Name = Annotated[
    str | None,
    typer.Option(
        help="What clients call the model. Without it: its folder's name, or its id.", rich_help_panel="Models"
    ),
]
_Engine = Annotated[
    str | None,
    typer.Option(
        help=f"What runs the target: {', '.join(HERE)}, or one that runs elsewhere: {', '.join(REMOTE)}. "
        "Without it: the one whose files the folder holds.",
        rich_help_panel=ENGINE,
    ),
]
_Urls = Annotated[
    list[str] | None,
    typer.Option(help="Where such an engine answers; once for each replica.", rich_help_panel=ENGINE),
]
_EngineTopK = Annotated[
    int | None,
    typer.Option(
        help=f"Most likely tokens to ask such an engine for; {TOP_K} without it. A text is exact with at most this "
        "--top-k, or greedy.",
        min=1,
        rich_help_panel=ENGINE,
    ),
]
_MaxBatch = Annotated[
    int | None,
    typer.Option(
        help="Texts in one call of the engine; without it, as many as it takes.", min=1, rich_help_panel=ENGINE
    ),
]
_KvTokens = Annotated[
    int | None,
    typer.Option(
        help="Tokens of all texts whose keys and values are kept; a text that loses them is fed again.",
        min=1,
        rich_help_panel=ENGINE,
    ),
]
_Draft = Annotated[
    str | None,
    typer.Option(
        help="Draft MODEL of the edge's own, with the target's vocabulary: it drafts between the target's forwards as "
        "long as that saves time, with and without devices. With --api-port it reads prompts for devices that have "
        "the same draft: see docs/prompts.md.",
        rich_help_panel="Models",
    ),
]
_Propose = Annotated[
    str,
    typer.Option(
        help=f"What the edge itself may propose to the target in streams: {', '.join(PROPOSERS)}, with commas between "
        f"them, or {NONE}. The text is the same; it comes sooner where the edge is right.",
        rich_help_panel=ENGINE,
    ),
]
_Prompts = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Where published prompts lie, a folder or s3://BUCKET/PATH: see `airdraft prompt publish`. Their keys and "
        "values come from there while the rest is computed; the text is the same.",
        rich_help_panel=ENGINE,
    ),
]
_PromptsCodec = Annotated[
    str,
    typer.Option(
        help=f"How they are written there: {', '.join(CODECS)}. All but {EXACT.name} change texts, and each answer "
        "says so: see docs/prompts.md.",
        rich_help_panel=ENGINE,
    ),
]
_Documents = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Files of text that the target reads once, and takes over wherever they stand in a prompt. Texts after "
        "them change, and each answer says so: see docs/prompts.md.",
        rich_help_panel=ENGINE,
    ),
]
_USUALLY = ",".join(USUAL)
_MOST_DOCUMENT = 1 << 24
"""Bytes of one document, more than a context holds."""
_TlsCert = Annotated[
    Path | None,
    typer.Option(help="Certificate chain, PEM. wss:// is served then, and nothing else.", rich_help_panel=ACCESS),
]
_TlsKey = Annotated[Path | None, typer.Option(help="Its key, PEM.", rich_help_panel=ACCESS)]
_Tokens = Annotated[
    Path | None,
    typer.Option(
        help="Bearer tokens that are let in: one a line, or .toml with quotas. SIGHUP reads it, and the "
        "certificate, again.",
        rich_help_panel=ACCESS,
    ),
]
_MaxConnections = Annotated[
    int, typer.Option(help="Connections at once, on either port.", min=1, rich_help_panel=LIMITS)
]
_MaxTexts = Annotated[int, typer.Option(help="Texts at once on all connections.", min=1, rich_help_panel=LIMITS)]
_MaxSessions = Annotated[int, typer.Option(help="Texts at once on one connection.", rich_help_panel=LIMITS)]
_MaxDraft = Annotated[int, typer.Option(help="Tokens in one draft.", rich_help_panel=LIMITS)]
_MaxFrame = Annotated[int, typer.Option(help="Bytes in one frame.", rich_help_panel=LIMITS)]
_IdleS = Annotated[
    float,
    typer.Option(
        help="Seconds after which a text without progress, or a connection without a text, is ended; 0: never.",
        min=0,
        rich_help_panel=LIMITS,
    ),
]
_HandshakeS = Annotated[float, typer.Option(help="Seconds that a handshake may take.", min=0.1, rich_help_panel=LIMITS)]
_HeartbeatS = Annotated[
    float,
    typer.Option(
        help="Seconds between heartbeats, the devices' too. A peer that is silent for three of them is given up.",
        rich_help_panel=LIMITS,
    ),
]
_DrainS = Annotated[
    float,
    typer.Option(
        help="Seconds that open texts get to end after SIGTERM; a second one ends at once.",
        min=0,
        rich_help_panel=OPERATION,
    ),
]
_ApiPortNumber = Annotated[
    int | None,
    typer.Option(
        help="Serve OpenAI's API here too, on the same host, with the same certificate and tokens: the target "
        "alone, for clients without a draft.",
        min=0,
        max=65535,
        rich_help_panel=OPERATION,
    ),
]


@fitted(fit=TARGET, draft_fit=DRAFT)
def edge(
    target: options.Target = "target",
    draft: _Draft = None,
    name: _Name = None,
    engine: _Engine = None,
    url: _Urls = None,
    engine_top_k: _EngineTopK = None,
    fit: Fit = ANY,
    draft_fit: Fit = ANY,
    max_batch: _MaxBatch = None,
    kv_tokens: _KvTokens = None,
    kept_mb: options.KeptMb = None,
    propose: _Propose = _USUALLY,
    prompts: _Prompts = None,
    prompts_codec: _PromptsCodec = EXACT.name,
    documents: _Documents = None,
    host: options.Host = "127.0.0.1",
    port: options.Port = 8571,
    allow_host: options.AllowHost = None,
    chat_template: options.ChatTemplateFile = None,
    profile_name: options.Profile = "none",
    tls_cert: _TlsCert = None,
    tls_key: _TlsKey = None,
    tokens: _Tokens = None,
    max_connections: _MaxConnections = 1024,
    max_texts: _MaxTexts = 1024,
    max_sessions: _MaxSessions = 16,
    max_draft: _MaxDraft = 32,
    max_frame: _MaxFrame = MAX_FRAME,
    idle_s: _IdleS = 300.0,
    handshake_s: _HandshakeS = 10.0,
    heartbeat_s: _HeartbeatS = HEARTBEAT_S,
    drain_s: _DrainS = 30.0,
    api_port: _ApiPortNumber = None,
    metrics_port: options.MetricsPort = None,
    metrics_host: options.MetricsHost = "127.0.0.1",
    log_level: options.LogLevel = "warning",
    log_json: options.LogJson = False,
    trace_dir: options.TraceDir = None,
    trace_tokens: options.TraceTokens = False,
    page: options.ShowPage = False,
    as_json: options.Json = False,
    until_eof: options.UntilEof = False,
) -> None:
    """Serve a target model: verify what devices draft, or stream.

    Listens on this machine only unless told otherwise. A network needs a certificate and tokens, see docs/operate.md:

      airdraft edge --host 0.0.0.0 --tls-cert chain.pem --tls-key key.pem --tokens tokens.toml

    With vLLM on this machine, the folder only for its tokenizer and config:

      airdraft edge --target FOLDER --engine vllm --url http://127.0.0.1:8000
    """
    api_port = PAGE_PORT if page and api_port is None else api_port
    if chat_template is not None and api_port is None:
        raise BadParameterError("--chat-template is for the API's chats; give --api-port, too, or leave it out")
    limits, pace = _limits(max_frame, max_draft, max_sessions, heartbeat_s), profile(profile_name)
    level, traces = options.log_level(log_level), options.traces(trace_dir, "edge", trace_tokens, page)
    certificate, codec = _certificate(tls_cert, tls_key), _codec(prompts, prompts_codec, documents)
    service = Service(
        tls=certificate.context if certificate else None, access=Access(tokens) if tokens else None,
        connections=max_connections, handshake_s=handshake_s, idle_s=idle_s or None, traces=traces,
        **_proposing(propose),
    )  # fmt: skip
    allowed, shown = options.host_names(allow_host), None if name is None else options.model_name(name)
    crowded = room_for(max_connections * (1 if api_port is None else 2))
    model, tokenizer = load_target(target, engine=engine, urls=url or (), top_k=engine_top_k, fit=fit)
    model.info = replace(model.info, name=shown or model.info.name)
    service = _helped(service, draft, tokenizer, draft_fit, pace, prompts)
    paced, read = _said(PacedEngine(model, pace.target_s) if pace.target_s else model, codec, tokenizer, documents)
    capacity = Capacity(max_texts, max_batch, kv_tokens, kept_bytes(kept_mb))
    server = EdgeServer(paced, tokenizer.digest, tokenizer.vocab_size, limits, capacity, service)
    logs.configure(level, log_json)
    server.scheduler.caches.elsewhere = StoredPrompts.at(prompts, paced, codec) if prompts else read
    if crowded is not None:
        _log.warning("%s", crowded)
    _log.info("texts of %s are %s", model.info.name, server.exactness.words)
    told(traces, tokenizer, readable(host, tokens))
    api = None
    if api_port is not None:
        offered = chosen.of_api(resolve(target, engine), chat_template)
        api = _api(server, tokenizer, *offered, [host, *allowed], api_port, max_connections, traces, pace)
    process = EdgeProcess(
        server, model.info.name, model.info.threads, host, port, metrics_host, metrics_port, api, certificate,
        imitated=pace.description if pace.target_s else None, tokens=len(service.access) if service.access else None,
        allowed=allowed, drain_s=drain_s, as_json=as_json, until_eof=until_eof,
    )  # fmt: skip
    asyncio.run(process.serve())


def _codec(prompts: str | None, name: str, documents: Path | None) -> Codec:
    """How published prompts are written. Raises: `BadParameterError` for a codec that is unknown, or of nothing."""
    if prompts is not None and documents is not None:
        raise BadParameterError(
            "--prompts and --documents are given, and a prompt has but one source; give one of them"
        )
    if prompts is None and name != EXACT.name:
        raise BadParameterError("--prompts-codec is for published prompts; give --prompts, too, or leave it out")
    return codec_named(name)


def _said(
    engine: TargetEngine, codec: Codec, tokenizer: Tokenizer, folder: Path | None
) -> tuple[TargetEngine, Documents | None]:
    """The engine, which says what a codec or documents do to its texts, and the documents.

    Raises: `ModelError` for one that gives no keys and values away, as `Documents.read` and `_texts`.
    """
    if folder is None and not codec.lossy:
        return engine, None
    lost = loss(engine, codec) if folder is None else documents_loss(engine)
    read = None if folder is None else Documents.read(engine, _texts(folder, tokenizer))
    engine.info = replace(engine.info, exactness=replace(engine.info.exactness, prompts=lost))
    return engine, read


def _texts(folder: Path, tokenizer: Tokenizer) -> dict[str, list[int]]:
    """The tokens of each file in a folder, by its path. Raises: `BadParameterError` for what is no text or too long."""
    try:
        files = sorted(each for each in folder.iterdir() if each.is_file())
    except OSError as error:
        raise BadParameterError(f"--documents {folder} cannot be read ({why(error)}); give files of text") from error
    found = {str(each): tokenizer.encode(read_text(each, _MOST_DOCUMENT)) for each in files}
    if not found:
        raise BadParameterError(f"--documents {folder} has no files; put each document there, or leave it out")
    return found


def _proposing(words: str) -> dict[str, Any]:
    """The fields of a `Service` that say who proposes. Raises: `BadParameterError` for a name that is unknown."""
    names = named(words)
    return {"propose": maker(names), "learning": partial(maker, names) if set(names) & set(LEARNING) else None}


def _helped(
    service: Service, draft: str | None, target: Tokenizer, fit: Fit, pace: Profile, prompts: str | None
) -> Service:
    """The service with a reader of guides and the edge's own draft model, if there is one, which may have prompts too.

    Raises: `ModelError`, see `load_helping`, or for options of a model that is not there.
    """
    service = replace(service, reader=Guides(target))
    if draft is None:
        if fit.given:
            given = ", ".join(f"--draft-{name.replace('_', '-')}" for name in fit.given)
            raise BadParameterError(
                f"there is no draft at this edge for {given}; name one with --draft, or leave it out"
            )
        return service
    model = load_helping(draft, target, fit=fit)
    helping = Helping(PacedEngine(model, pace.edge_draft_s) if pace.edge_draft_s else model)
    if prompts is not None:
        try:
            helping.scheduler.caches.elsewhere = StoredPrompts.at(prompts, model)
        except ModelError as problem:  # the target may take them all the same
            _log.warning("the edge's draft reads prompts by itself: %s", problem)
    return replace(service, helping=helping, help=drafting(helping.context))


def _api(
    server: EdgeServer, tokenizer: Tokenizer, template: ChatTemplate | None, sampling: Mapping[str, Any],
    names: list[str], port: int, connections: int, traces: Traces | None, pace: Profile,
) -> ApiPort:  # fmt: skip
    """The port of the API, where devices get what the edge's own draft reads, if its engine gives that away, and where
    the page is, if there is one."""
    from airdraft.api.app import edge_app  # noqa: PLC0415  # a tenth of a start, for those who serve the API

    offering, helping = None, server.service.helping
    if helping is not None:
        try:
            offering = Offering(helping)
        except ModelError as problem:
            _log.warning("devices read prompts by themselves: %s", problem)
    app = edge_app(server, tokenizer, template, names, sampling, offering)
    on_edge(app, traces, server, template, names, pace)
    page = traces is not None and traces.feed is not None
    return ApiPort(app, port, connections, offers=offering is not None, page=page)


def _limits(max_frame: int, max_draft: int, max_sessions: int, heartbeat_s: float) -> Limits:
    """The limits of each connection. Raises: `BadParameterError` for one under which no text could be written."""
    if min(max_sessions, max_draft) < 1 or max_frame < 1024:
        raise BadParameterError("--max-sessions and --max-draft must be at least 1, --max-frame at least 1024 bytes")
    if not 0.01 <= heartbeat_s <= 3600:  # NaN lands here too
        raise BadParameterError(f"--heartbeat-s is {heartbeat_s:g}; give a time from 0.01 to 3600 s")
    return Limits(max_frame, max_draft, max_sessions, heartbeat_s)


def _certificate(chain: Path | None, key: Path | None) -> Certificate | None:
    """The certificate to serve with, if any. Raises: `BadParameterError` if only half of it is given, or it is
    unusable."""
    if chain is None and key is None:
        return None
    if chain is None or key is None:
        raise BadParameterError("--tls-cert and --tls-key go together; give both")
    return Certificate(tls.server_context(chain, key), chain, key)
