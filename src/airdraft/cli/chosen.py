"""Chats where an option is left out: the template and the sampling that commands choose."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from airdraft.api.recommended import Recommended, recommended
from airdraft.api.template import ChatTemplate
from airdraft.core.sampling import SamplingParams
from airdraft.errors import BadParameterError, ModelError
from airdraft.models.registry import draft_files, text_files

_log = logging.getLogger(__name__)

CHAT_TARGET, CHAT_DRAFT = "chat-target", "chat-draft"

Target = Annotated[
    str | None,
    typer.Option(
        help=f"Target MODEL of an edge on this machine. Without it: target, or with --chat {CHAT_TARGET}, downloaded "
        "once.",
        rich_help_panel="Models",
    ),
]
_ELSE = "Without it, in a chat: the model's own generation_config.json, or"
Temperature = Annotated[float | None, typer.Option(help=f"0 is greedy. {_ELSE} 0.7.", rich_help_panel="Sampling")]
TopK = Annotated[
    int | None, typer.Option("--top-k", help=f"0 keeps every token. {_ELSE} 0.", rich_help_panel="Sampling")
]
TopP = Annotated[
    float | None, typer.Option("--top-p", help=f"1 keeps every token. {_ELSE} 1.", rich_help_panel="Sampling")
]
MinP = Annotated[
    float | None, typer.Option("--min-p", help=f"0 keeps every token. {_ELSE} 0.", rich_help_panel="Sampling")
]
Chat = Annotated[
    bool,
    typer.Option("--chat", help="PROMPT is a question: apply the model's chat template.", rich_help_panel="Models"),
]
DEFAULTS: dict[str, float] = {"temperature": 0.7, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


def check_target(edge: str | None, target: str | None) -> None:
    """Raises: `BadParameterError` for a target that would mean nothing."""
    if edge is not None and target is not None:
        raise BadParameterError("--edge and --target are given; that edge has its own target, so leave one of them out")


def place_of(served: str | None, draft: str, engine: str | None, tokenizer: str | None) -> Path:
    """Where the files lie that say how to ask: the target's where this command serves it, else the draft's.

    Raises: `ModelError`.
    """
    return text_files(served) if served else draft_files(draft, engine=engine, tokenizer=tokenizer)


def template_of(place: Path, name: str, file: Path | None) -> ChatTemplate:
    """The chat template in `file`, or of the model called `name`, which lies at `place`. Raises: `ModelError`."""
    template = ChatTemplate.of(place, file)
    if template is None:
        raise ModelError(
            f"{name} has no chat template; name a chat model, as --target {CHAT_TARGET} --draft {CHAT_DRAFT}, or a "
            "template, --chat-template FILE"
        )
    return template


def of_api(place: Path, file: Path | None) -> tuple[ChatTemplate | None, Mapping[str, Any]]:
    """The chat template in `file`, or of the model at `place`, and the sampling it recommends for chats, for an API.

    A model may have neither. What is recommended and not done is logged.
    Raises: `ModelError` for a broken template, or a recommendation out of range.
    """
    template = ChatTemplate.of(place, file)
    if template is None:
        return None, {}
    model = recommended(place)
    if model.undone is not None:
        _log.warning("%s", model.undone)
    return template, model.values


def given(
    temperature: float | None, top_k: float | None, top_p: float | None, min_p: float | None
) -> dict[str, float | None]:
    """Sampling options by name; None for one that was left out."""
    return dict(zip(DEFAULTS, (temperature, top_k, top_p, min_p), strict=True))


def sampling_of(place: Path | None, options_given: dict[str, float | None]) -> SamplingParams:
    """The parameters that are given, for each other one what the model at `place` recommends, and else `DEFAULTS`.

    A penalty that it recommends, too, is not done, and a line on standard error says so.
    Raises: `ModelError` for a recommendation out of range, `BadParameterError` for what is given so.
    """
    chosen = {name: value for name, value in options_given.items() if value is not None}
    model = Recommended() if place is None else recommended(place, chosen)
    if model.undone is not None:
        print(f"airdraft: {model.undone}", file=sys.stderr)  # noqa: T201
    return SamplingParams(**{**DEFAULTS, **model.values, **chosen})
