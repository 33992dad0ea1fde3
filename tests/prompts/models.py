"""The shipped target, loaded once for all tests of prompts: its trial takes longer than most of them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from airdraft.models.registry import load, load_target


@cache
def steady() -> Any:
    """As an edge serves it. Nobody changes it."""
    return load_target("target")[0]


@cache
def plain() -> Any:
    """The engine itself, with a digest."""
    model: Any = load("target")[0]
    model.info = replace(model.info, digest=b"t" * 16)
    return model
