"""Schemas that commands take: a JSON schema in a file, or a type of Python by its module and name."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

from airdraft.cli.texts import read_text
from airdraft.core.messages import GuideSpec
from airdraft.errors import BadParameterError, first_line
from airdraft.guides import of_json, of_type

WORDS = "FILE|MODULE:TYPE"
"""How help writes such a schema."""
_MOST_BYTES = 1 << 20
"""Of a file, of which less may matter."""


def schema_of(words: str) -> GuideSpec:
    """Return what a text keeps to, by a file or a type. Modules are looked for in the working directory, too.

    Raises: `BadParameterError` if it cannot be found, or is no schema.
    """
    module, colon, name = words.partition(":")
    parts = [*module.split("."), *name.split(".")]
    if colon and all(part.isidentifier() for part in parts) and not Path(words).exists():
        return of_type(_type(module, name))
    if "\0" in words:
        raise BadParameterError("--schema has a NUL in its name; name a JSON file, or MODULE:TYPE")
    return of_json(read_text(Path(words), _MOST_BYTES, "schema"))


def _type(module: str, name: str) -> Any:
    try:
        with _here():
            found = importlib.import_module(module)
    except Exception as problem:  # whatever the module does
        what = f"--schema {module}:{name}: the module cannot be imported ({first_line(problem)})"
        raise BadParameterError(f"{what}; name a JSON file, or another module") from problem
    try:
        return reduce(getattr, name.split("."), found)
    except AttributeError as problem:
        raise BadParameterError(f"--schema {module}:{name}: {module} has no {name}; name another type") from problem


@contextlib.contextmanager
def _here() -> Iterator[None]:
    """The working directory among the places of modules, as with `python -m`."""
    sys.path.insert(0, "")
    try:
        yield
    finally:
        sys.path.remove("")
