"""Finds a model by name: the pairs that ship, a folder, a file, another program's store, or the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, get_args

from airdraft.errors import ModelError, first_line
from airdraft.models.files.fetch import chat_target
from airdraft.models.files.hub import HubName, fetched
from airdraft.models.files.stores import STORES, stored
from airdraft.models.files.variants import GGUF
from airdraft.models.files.weights import is_gguf, model_folder
from airdraft.models.imports.read import GgufFile

Shipped = Literal["target", "draft", "chat-draft"]


def shipped(which: Shipped) -> Path:
    """The folder of a model that ships with airdraft. Raises `ModelError` if it is not there."""
    here = Path(__file__).resolve()
    for root in (here.parents[2], here.parents[4]):  # inside a wheel; at the root of a checkout
        folder = root / "pair" / which
        if (folder / "config.json").is_file():
            return folder
    raise ModelError(f"the shipped {which} model is missing; install airdraft again, or name a folder or a hub id")


def name_of(name: str) -> str:
    """What others may call the model that is called `name` here: never a path of this machine.

    Of a folder it is the last part, of a GGUF file that without the suffix, of a graph its folder's; of a model in a
    store what the store calls it. Other names stay.
    """
    named = Path(name).expanduser()
    if named.is_file():
        return named.stem if is_gguf(named) else model_folder(named).resolve().name or "model"
    if stored(name) is not None:
        return name.partition(":")[2]
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


def locate(
    name: str, formats: Mapping[str, str], fits: Callable[[GgufFile], None] = lambda file: None
) -> tuple[Path, str]:
    """Where the model called `name` lies, and its format where the hub's names told it, else an empty word.

    It is one of the two pairs, `target` and `draft`, `chat-target` and `chat-draft`; a folder; a GGUF file or a graph;
    a model in a store, such as `ollama:llama3.2`; or one on the hub, see `hub`. Of them `chat-target` and those on the
    hub are downloaded, once.
    formats: that may be taken of a hub repository, see `variants.pick`. fits: see `hub.fetched`.
    Raises: `ModelError` if there is no such model.
    """
    for which in get_args(Shipped):
        if name == which:
            return shipped(which), ""
    if name == "chat-target":
        return chat_target(), ""
    try:
        path = Path(name).expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError) as problem:  # no such home, too long, not to be entered, a zero byte
        raise ModelError(f"{name!r} cannot be looked for ({first_line(problem)}); check the path") from problem
    if name and is_folder:  # an empty name would be the current folder
        _check_files(path)
        return path, ""
    if is_file and (path.suffix == ".onnx" or is_gguf(path)):
        return path, ""
    if is_file:
        raise ModelError(f"{name} is neither a GGUF file nor a graph; name one, or the folder that holds the model")
    in_store = stored(name)
    if in_store is not None:
        store, rest = in_store
        return store.find(rest), GGUF
    hub_name = HubName.of(name)
    if hub_name is None:
        raise ModelError(
            f"no model {name!r}; name 'target', 'draft', 'chat-target', 'chat-draft', a folder, a .gguf file, a hub id "
            f"org/name or org/name:Q4_K_M, or a model in a store, {', '.join(f'{each}:NAME' for each in STORES)}; "
            "`airdraft models` lists what is here"
        )
    return fetched(hub_name, formats, fits)
