"""The options that fit a model to its machine, the same for every command that loads one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from airdraft.errors import BadParameterError
from airdraft.models.engines.llamacpp_rooms import KV_TYPES
from airdraft.models.fit import Fit

_PANEL = "Machine"
_OPTIONS: dict[str, tuple[type, dict[str, Any], str]] = {
    "threads": (
        int,
        {"min": 1, "max": 1024},  # with many more a start takes minutes, and the machine is no one else's
        "Threads of {its} forwards. Without it: as many as are fastest, by a trial.",
    ),
    "context": (int, {"min": 1}, "Most positions of a text, where fewer will do than {its} own."),
    "kv_type": (
        str,
        {},
        f"llamacpp: {', '.join(each.name for each in KV_TYPES)}, the type of {{its}} keys and values.",
    ),
    "gpu_layers": (int, {"min": 0}, "llamacpp: {its} layers on a GPU. Without it: all, if there is one."),
    "splice": (
        bool,
        {},
        "onnx and hf: texts that begin alike keep {its} keys and values of that once, and share its attention. Rows "
        "are rounded otherwise than without; see docs/prompts.md.",
    ),
}
"""By the field of a `Fit`: its type, its bounds, what it does."""
_OF_TARGETS = {"splice"}
"""Fields that no draft has a use for."""
TARGET: tuple[str, ...] = ("--",)
DRAFT: tuple[str, ...] = ("--draft-",)
ONLY_DRAFT: tuple[str, ...] = ("--draft-", "--")
"""Beginnings of the options: of a target, a draft beside one, and a draft where there is no target."""


def fitted(**fits: Sequence[str]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of a `Fit`, for each of these parameters under names that begin so."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        options = {
            (name, field): _option(field, begins)
            for name, begins in fits.items()
            for field in _OPTIONS
            if field not in _OF_TARGETS or tuple(begins) == TARGET
        }

        @functools.wraps(command)
        def wrapped(**given: Any) -> None:
            asked: dict[str, dict[str, Any]] = {name: {} for name in fits}
            for name, field in options:
                asked[name][field] = given.pop(f"{name}_{field}")
            command(**given, **{name: Fit(**fields) for name, fields in asked.items()})

        keyword = inspect.Parameter.KEYWORD_ONLY
        own = [each.replace(kind=keyword) for each in signature.parameters.values() if each.name not in fits]
        more = [
            inspect.Parameter(f"{name}_{field}", keyword, default=None, annotation=annotation)
            for (name, field), annotation in options.items()
        ]
        wrapped.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
        return wrapped

    return decorate


def _option(field: str, begins: Sequence[str]) -> Any:
    kind, bounds, says = _OPTIONS[field]
    names = [begin + field.replace("_", "-") for begin in begins]
    whose = "the target's" if tuple(begins) == TARGET else "the draft's"
    option = typer.Option(*names, help=says.format(its=whose), rich_help_panel=_PANEL, **bounds)
    return Annotated[kind | None, option]


def own_edge(edge: str | None, engine: str | None, fit: Fit) -> list[str]:
    """The options of an edge that a command starts. Raises: `BadParameterError` if `edge` is one that it does not."""
    words = [*([] if engine is None else ["--engine", engine]), *fit.words()]
    if edge is not None and words:
        raise BadParameterError(f"{words[0]} is for an edge on this machine, and --edge names one; give it there")
    return words
