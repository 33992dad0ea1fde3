"""Finds the folder of a model by name: the pairs that ship, a folder, or a repository of the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

import huggingface_hub

from airdraft.errors import ModelError, first_line
from airdraft.models.fetch import chat_target

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
Shipped = Literal["target", "draft", "chat-draft"]
_ALWAYS = ("*.json", "*.jinja")


def shipped(which: Shipped) -> Path:
    """The folder of a model that ships with airdraft. Raises `ModelError` if it is not there."""
    here = Path(__file__).resolve()
    for root in (here.parents[1], here.parents[3]):  # inside a wheel; at the root of a checkout
        folder = root / "pair" / which
        if (folder / "config.json").is_file():
            return folder
    raise ModelError(f"the shipped {which} model is missing; install airdraft again, or name a folder or a hub id")


def name_of(name: str, path: Path) -> str:
    """What others may call the model that is called `name` here and lies at `path`: never a path of this machine.

    `target`, `draft` and hub ids stay; of a folder it is the last part, of a GGUF file that without the suffix, whether
    it runs as it is or was imported.
    """
    named = Path(name).expanduser()
    for each in (path, named):
        if each.is_file():
            return each.stem
    if name in ("target", "draft") or not named.is_dir():
        return name
    return named.resolve().name or "model"


def _check_files(folder: Path) -> None:
    """Check that nothing in a model's folder would be waited for. Raises: `ModelError` for a pipe, device or socket."""
    try:
        for path in (*folder.iterdir(), *folder.glob("onnx/*")):
            # What is neither, and is there all the same: a link that leads nowhere is not.
            if path.exists() and not (path.is_file() or path.is_dir()):
                raise ModelError(f"{path} is no file; put the model's own there")
    except OSError as problem:
        raise ModelError(f"{folder} cannot be looked at ({first_line(problem)}); check the path") from problem


def locate(name: str, wanted: Sequence[str], linked: Callable[[Path], list[str]]) -> Path:
    """Where the model called `name` lies: one of the two pairs, a folder, a GGUF file, or a hub id `org/name`.

    The pairs are `target` and `draft`, `chat-target` and `chat-draft`. Of them `chat-target` is downloaded, once.
    Of a hub model config and tokenizer and the files `wanted` (patterns), then those that `linked` names of the folder,
    are downloaded once, into the hub's own cache.
    Raises: `ModelError` if there is no such model.
    """
    for which in get_args(Shipped):
        if name == which:
            return shipped(which)
    if name == "chat-target":
        return chat_target()
    try:
        folder = Path(name).expanduser()
        is_folder, is_file = folder.is_dir(), folder.is_file()
    except (OSError, RuntimeError, ValueError) as problem:  # no such home, too long, not to be entered, a zero byte
        raise ModelError(f"{name!r} cannot be looked for ({first_line(problem)}); check the path") from problem
    if name and is_folder:  # an empty name would be the current folder
        _check_files(folder)
        return folder
    if is_file and folder.suffix == ".gguf":
        return folder
    if is_file:
        raise ModelError(f"{name} is a file; name the folder that holds it")
    if not _HUB_ID.fullmatch(name):
        raise ModelError(
            f"no model {name!r}; name 'target', 'draft', 'chat-target', 'chat-draft', a folder with a model.onnx or a "
            "hub id org/name"
        )
    files = [*_ALWAYS, *wanted]
    try:
        folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=files))
        named = linked(folder)
        if not all((folder / file).is_file() for file in named):
            huggingface_hub.snapshot_download(name, allow_patterns=[*files, *named])
    except ModelError:
        raise
    except Exception as problem:  # its errors and those of the HTTP library beneath share no base class
        raise ModelError(
            f"no folder {name!r}, and the hub did not give a model of that id ({type(problem).__name__}); "
            "check the path or the id, and that the network or the cache at HF_HOME has it"
        ) from problem
    return folder
