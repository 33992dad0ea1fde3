"""The sampling that a model's makers recommend for chats, in its generation_config.json."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airdraft.core.sampling import SamplingParams
from airdraft.errors import BadParameterError, ModelError
from airdraft.models.files.config import read_json, shown
from airdraft.models.imports.cache import text_folder

NAMES = SamplingParams.__struct_fields__
_FILE = "generation_config.json"


@dataclass(frozen=True)
class Recommended:
    """What a model recommends for chats: that is used where nobody asks for something else."""

    values: Mapping[str, Any] = field(default_factory=dict)
    """By the names of `SamplingParams`, each within range."""
    undone: str | None = None
    """A line about what is recommended, too, and not done."""


def recommended(place: Path, given: Collection[str] = ()) -> Recommended:
    """Read what the model at `place` recommends, the parameters that are `given` left out.

    It is read as vLLM reads it: `do_sample` says nothing.
    Raises: `ModelError` for a value out of range.
    """
    path = text_folder(place) / _FILE
    said = read_json(path) if path.is_file() else {}
    names = [name for name in NAMES if name not in given and said.get(name) is not None]
    return Recommended({name: _checked(path, name, said[name]) for name in names}, _undone(path, said))


def _undone(path: Path, said: Mapping[str, Any]) -> str | None:
    penalty = said.get("repetition_penalty")
    if penalty in (None, 1):
        return None
    return (
        f"{path} recommends repetition_penalty {shown(penalty)}, which is not applied: texts are written "
        "without it, unless a request asks for it"
    )


def _checked(path: Path, name: str, value: Any) -> Any:
    try:
        return getattr(SamplingParams(**{name: value}), name)
    except BadParameterError as problem:
        raise ModelError(f"{path} says {name} = {shown(value)}, and {problem}; mend the file") from problem
