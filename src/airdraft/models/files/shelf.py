"""The models on this machine: where each lies, what its header says, and which of them share a vocabulary.

Headers and configs are read, and never weights. What a vocabulary is takes a second for the largest, so it is kept in
the cache folder, under a hash of where it is written down.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

from airdraft.errors import ModelError
from airdraft.models.files.config import codes_of, read_config, read_json
from airdraft.models.files.fetch import CHAT_TARGET, fetched_file
from airdraft.models.files.folder import Shipped, shipped
from airdraft.models.files.hub import cache_of_hub, names_in, repositories
from airdraft.models.files.kept import cache_folder, keep, recall
from airdraft.models.files.stores import STORES, Kept, short_names
from airdraft.models.files.variants import GRAPHS, ggufs, graphs
from airdraft.models.files.weights import checkpoint, graph_files, visible, weight_bytes
from airdraft.models.imports.cache import CHECKPOINTS, FORM, GGUFS
from airdraft.models.imports.checkpoint import check_described
from airdraft.models.imports.decoder import decoder_of
from airdraft.models.imports.read import GgufFile, Unread
from airdraft.models.imports.tokenizer import kind_of, padded_from
from airdraft.models.registry import lack
from airdraft.models.text import Tokenizer, tokenizer_file, vocabulary_digest

_VOCABULARIES = "vocabularies"
_SHARD = re.compile(r"(.*)-\d{5}-of-(\d{5})(\..*)")
_TOKENS, _TYPES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"


@dataclass(frozen=True)
class Vocabulary:
    """Which token each id stands for."""

    tokens: int
    digest: str
    """Hexadecimal, equal for two models that can be draft and target of one text."""


@dataclass(frozen=True)
class Shelved:
    """One model, as far as its header tells."""

    name: str
    """As MODEL."""
    place: str
    """Who keeps it."""
    engine: str = ""
    """What runs it, if nothing else is asked for."""
    format: str = ""
    """How most of its weights are stored."""
    size_bytes: int = 0
    context: int | None = None
    vocabulary: Vocabulary | None = None
    note: str = ""
    """What is to be said of it."""
    usable: bool = True


def found(folders: list[Path]) -> list[Shelved]:
    """Every model here: those that ship, of stores, of the hub's cache, imported ones, and those below `folders`.

    One that cannot be read is there, not usable, with the reason. Raises: `ModelError` for a folder that is none.
    """
    below = (each for folder in folders for each in _below(folder))
    every = [*_ours(), *_of_stores(), *_of_hub(), *_of_imports(), *below]
    missing = {engine: lack(engine) for engine in {each.engine for each in every if each.engine}}
    return [
        replace(each, note="; ".join(filter(None, (each.note, missing[each.engine]))))
        if each.usable and missing.get(each.engine) else each
        for each in every
    ]  # fmt: skip


def shared(models: list[Shelved]) -> list[list[Shelved]]:
    """Those that share a vocabulary, group by group, the smallest first: any two are a draft and a target."""
    groups: dict[str, list[Shelved]] = {}
    for each in models:
        if each.usable and each.vocabulary is not None:
            groups.setdefault(each.vocabulary.digest, []).append(each)
    several = [sorted(group, key=lambda each: each.size_bytes) for group in groups.values() if len(group) > 1]
    return sorted(several, key=len, reverse=True)


def _ours() -> Iterator[Shelved]:
    for which in get_args(Shipped):
        yield _tried(which, "airdraft", _of_folder, shipped(which))
    path = fetched_file(CHAT_TARGET)
    if path.is_file():
        yield _tried("chat-target", "airdraft", _of_gguf, path)
    else:
        note = f"not here yet: {CHAT_TARGET.size / 1e6:.0f} MB are fetched when it is first named"
        yield Shelved("chat-target", "airdraft", note=note)


def _of_stores() -> Iterator[Shelved]:
    hub = cache_of_hub()
    for prefix, store in STORES.items():
        held = [kept for kept in store.held() if hub not in kept.path.parents]  # which has rows of its own
        short = short_names(held)
        for kept in held:
            yield _of_kept(f"{prefix}:{short.get(kept.name, kept.name)}", store.title, kept)


def _of_kept(name: str, place: str, kept: Kept) -> Shelved:
    if kept.problem:
        return Shelved(name, place, note=kept.problem, usable=False)
    return _tried(name, place, _of_gguf, kept.path)


def _of_hub() -> Iterator[Shelved]:
    for path, repo, folder in sorted(repositories(cache_of_hub())):
        if folder is None:
            yield Shelved(repo, "hub cache", note=f"{path} holds no whole state of it; fetch it again", usable=False)
            continue
        names = names_in(folder)
        files = [Kept(f"{repo}/{name}", folder / name) for name in ggufs(names)]
        short = short_names(files)
        for kept in files:
            yield _of_kept(short.get(kept.name, kept.name), "hub cache", kept)
        for name in graphs(names):
            whole = repo if name in GRAPHS else f"{repo}/{name}"
            yield _tried(whole, "hub cache", _of_folder, folder, folder / name)
        if checkpoint(names) and not graphs(names):
            yield _tried(repo, "hub cache", _of_folder, folder)


def _of_imports() -> Iterator[Shelved]:
    for folder in (each for kind in (GGUFS, CHECKPOINTS) for each in sorted(visible(cache_folder() / kind, "*"))):
        if folder.is_dir():
            yield _tried(str(folder), "imported", _of_import, folder)


def _below(folder: Path) -> Iterator[Shelved]:
    if not os.path.isdir(folder):
        raise ModelError(f"{folder} is no folder, or cannot be looked into; name one that holds models")
    names = names_in(folder)
    for name in ggufs(names):
        yield _tried(str(folder / name), "folder", _of_gguf, folder / name)
    for name in names:
        path = folder / name
        if path.name == "config.json" and (graphs(names_in(path.parent)) or checkpoint(names_in(path.parent))):
            yield _tried(str(path.parent), "folder", _of_folder, path.parent)


def _tried(name: str, place: str, read: Callable[..., Shelved], *arguments: Path) -> Shelved:
    """What `read` says of a model, or why it cannot."""
    try:
        return replace(read(*arguments), name=name, place=place)
    except (ModelError, OSError) as problem:
        return Shelved(name, place, note=str(problem), usable=False)


def _of_gguf(path: Path) -> Shelved:
    """What the header of a GGUF file says. Raises: `ModelError`."""
    file = GgufFile(path, lists=False)
    sizes: Counter[str] = Counter()
    for tensor in file.tensors.values():
        sizes[tensor.format.name] += tensor.size
    engine, note = "onnx", ""
    try:
        decoder_of(file)
        kind_of(file)
    except ModelError as problem:
        engine, note = "llamacpp", str(problem).removeprefix(f"{path} ")
    context = file.metadata.get(f"{file.family()}.context_length")
    return Shelved(
        "", "", engine, sizes.most_common(1)[0][0] if sizes else "", file.size,
        context if type(context) is int else None, _vocabulary_of_gguf(file), note,
    )  # fmt: skip


def _of_import(folder: Path) -> Shelved:
    """A GGUF file or a checkpoint as it was imported. Raises: `ModelError`."""
    found, source = _of_folder(folder), read_json(folder / "config.json").get("_name_or_path")
    old = "" if folder.name.endswith(f"-{FORM}") else ", by an older version: this copy is not used any more"
    return replace(found, note=f"imported from {source}{old}" if isinstance(source, str) else f"imported{old}")


def _of_folder(folder: Path, graph: Path | None = None) -> Shelved:
    """What the config of a model's folder says. Raises: `ModelError`."""
    names = names_in(folder)
    inner = next((folder / name for name in (*GRAPHS, *graphs(names)) if (folder / name).is_file()), None)
    graph = graph or inner
    config = read_config(folder)
    if graph is not None:
        lost = [path for path in graph_files(graph) if not path.is_file()]
        if lost:
            raise ModelError(f"{graph} lacks {lost[0]}, which holds weights of it; fetch it again")
        engine, form, size = "onnx", "onnx", weight_bytes(graph)
    else:
        files = checkpoint(names)
        _check_shards(folder, files)
        said = read_json(folder / "config.json")
        dtype = said.get("torch_dtype") or said.get("dtype")
        engine, form = "hf", f"safetensors {dtype}" if isinstance(dtype, str) and len(dtype) < 20 else "safetensors"
        if codes := codes_of(folder):
            check_described(folder)
            engine, form = "onnx", codes.upper()
        size = sum((folder / name).stat().st_size for name in files)
    return Shelved("", "", engine, form, size, config.max_context, _vocabulary_of_folder(folder))


def _check_shards(folder: Path, files: list[str]) -> None:
    """Check that a checkpoint has all its parts. Raises: `ModelError`."""
    for name in files:
        part = _SHARD.fullmatch(name)
        if part is not None and int(part[2]) != len(files):
            raise ModelError(
                f"{folder} has {len(files)} of the {int(part[2])} parts of {part[1]}{part[3]}; fetch it again"
            )


def _vocabulary_of_folder(folder: Path) -> Vocabulary | None:
    path = tokenizer_file(folder)
    if not path.is_file():
        return None
    with path.open("rb") as file:
        key = hashlib.file_digest(file, "sha256").hexdigest()
    rows = read_config(folder).vocab_size  # of which there may be fewer
    key = hashlib.sha256(f"{key} {rows}".encode()).hexdigest()

    def read() -> Vocabulary:
        tokenizer = Tokenizer(folder)
        return Vocabulary(tokenizer.vocab_size, tokenizer.digest.hex())

    return _kept(key, read)


def _vocabulary_of_gguf(file: GgufFile) -> Vocabulary | None:
    parts = [file.metadata.get(key) for key in (_TOKENS, _TYPES)]
    raw = [file.bytes_of(part) if isinstance(part, Unread) else repr(part).encode() for part in parts]
    key = hashlib.sha256(raw[0] + raw[1]).hexdigest()

    def read() -> Vocabulary | None:
        whole = GgufFile(file.path).metadata
        tokens, types = whole.get(_TOKENS), whole.get(_TYPES)
        if not isinstance(tokens, list) or not isinstance(types, list) or len(types) != len(tokens):
            return None
        end = padded_from(tokens, types)
        return Vocabulary(end, vocabulary_digest(enumerate(tokens[:end])).hex())

    return _kept(key, read)


def _kept(key: str, read: Callable[[], Vocabulary | None]) -> Vocabulary | None:
    """The vocabulary that is kept under `key`, or the one that `read` finds."""
    try:
        value: Any = json.loads(recall(_VOCABULARIES, key) or "")
        return Vocabulary(int(value["tokens"]), bytes.fromhex(value["digest"]).hex())
    except (ValueError, TypeError, KeyError):
        found = read()
    if found is not None:
        keep(_VOCABULARIES, key, json.dumps(asdict(found)))
    return found
