"""Models that other programs keep on this machine: Ollama's, LM Studio's and llama.cpp's, each a GGUF file.

`ollama:llama3.2:1b` is named as Ollama names it, `lmstudio:publisher/repo:Q4_K_M` and `llamacpp:org/repo:Q4_K_M` as
`lms` and `llama-server -hf` do. Files and manifests are strangers' data: what they say is bounded and checked.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from airdraft.errors import ModelError
from airdraft.models.files.config import read_json, shown
from airdraft.models.files.hub import cache_of_hub, repositories
from airdraft.models.files.variants import PART, ggufs, listed, quant_of, quantised
from airdraft.models.files.weights import visible

_MOST_ENTRIES = 20_000
"""Of a store's folders, looked at."""
_MOST_MANIFEST = 1 << 22
"""Bytes."""
_MOST_LAYERS = 1000
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_PLACE = re.compile(r"[A-Za-z0-9_][\w.-]{0,127}")
"""A part of an Ollama name, which is a folder's or a file's name, too."""
_REGISTRY, _LIBRARY, _LATEST = "registry.ollama.ai", "library", "latest"
_KIND = "application/vnd.ollama.image."


@dataclass(frozen=True)
class Kept:
    """One GGUF file in a store."""

    name: str
    """As MODEL, without the store."""
    path: Path
    problem: str = ""
    """Why it cannot be used; empty if it can."""


@dataclass(frozen=True)
class Store:
    """One program's models."""

    title: str
    folders: Callable[[], list[Path]]
    """Where they may lie, the first first."""
    models: Callable[[Path], Iterator[Kept]]
    """Those in one folder."""
    fetch: str
    """What brings one, for messages; `{}` is its name."""
    files: bool = True
    """Whether a name is that of a repository, and a quantisation picks one of its files."""

    def held(self) -> list[Kept]:
        """Everything in it, the first of two of one name."""
        found: dict[str, Kept] = {}
        for folder in self.folders():
            if os.path.isdir(folder):  # also False, and no error, where it may not be looked into
                for kept in self.models(folder):
                    found.setdefault(kept.name, kept)
        return list(found.values())

    def find(self, name: str) -> Path:
        """The GGUF file of the model that is called `name` in this store. Raises: `ModelError`."""
        if not name.strip() or len(name) > 500 or not name.isprintable() or ".." in name:
            raise ModelError(f"{shown(name)} is no name of a model of {self.title}; `airdraft models` lists them")
        held = self.held()
        exact = [kept for kept in held if kept.name in (name, f"{name}:{_LATEST}" if not self.files else name)]
        if exact:
            return _usable(exact[0])
        if self.files:
            repo, _, quant = name.partition(":")
            own = {kept.name: kept for kept in held if _belongs(kept.name, repo)}
            if own and quant:
                return _usable(own[quantised(f"{self.title}'s {repo}", own, quant)])
            files = ggufs(own)
            if len(files) == 1:
                return _usable(own[files[0]])
            if files:
                raise ModelError(f"{self.title} has several files of {repo}; name one: {listed(files)}")
        raise self._missing(name, [kept.name for kept in held])

    def _missing(self, name: str, names: list[str]) -> ModelError:
        folders = self.folders()
        here = [folder for folder in folders if os.path.isdir(folder)]
        lower = {each.lower(): each for each in names}
        near = [lower[each] for each in difflib.get_close_matches(name.lower(), lower, 3, 0.5)]
        near += [each for each in names if name.split(":", maxsplit=1)[0].lower() in each.lower() and each not in near][
            :3
        ]
        if not here:
            has = "which does not exist or cannot be looked into"
        else:
            has = f"which has {listed(near or names)}" if names else "which has no model"
        place = " or ".join(str(folder) for folder in here or folders[:1])
        return ModelError(
            f"{self.title} has no model {shown(name)} in {place}, {has}; fetch it, `{self.fetch.format(name)}`, or "
            "name one of those that `airdraft models` lists"
        )


def _usable(kept: Kept) -> Path:
    if kept.problem:
        raise ModelError(kept.problem)
    return kept.path


def _belongs(name: str, repo: str) -> bool:
    """Whether the file called `name` is one of a repository, where `/` may be written `_`, as llama.cpp does."""
    name, repo = name.lower(), repo.lower()
    return name.startswith((f"{repo}/", f"{repo.replace('/', '_')}_"))


def _of_environment(variable: str, *folders: str | Path) -> list[Path]:
    """What a variable of the environment names, or else these folders."""
    named = os.environ.get(variable)
    return [Path(named).expanduser()] if named else [Path(folder).expanduser() for folder in folders]


def _ollama_folders() -> list[Path]:
    # The second is where the service of the Linux installer keeps them.
    return _of_environment("OLLAMA_MODELS", "~/.ollama/models", "/usr/share/ollama/.ollama/models")


def _ollama(folder: Path) -> Iterator[Kept]:
    """Manifests lie under manifests/HOST/NAMESPACE/MODEL/TAG, what they list under blobs/."""
    manifests = (folder / "manifests").glob("*/*/*/*")
    for path in islice(manifests, _MOST_ENTRIES):
        parts = path.relative_to(folder / "manifests").parts
        if not os.path.isfile(path) or not all(_PLACE.fullmatch(part) for part in parts):
            continue
        host, space, model, tag = parts
        name = f"{model}:{tag}"
        if (host, space) != (_REGISTRY, _LIBRARY):
            name = f"{space}/{name}" if host == _REGISTRY else f"{host}/{space}/{name}"
        try:
            yield Kept(name, _ollama_blob(folder, path, name))
        except ModelError as problem:
            yield Kept(name, path, str(problem))


def _ollama_blob(folder: Path, manifest: Path, name: str) -> Path:
    """The GGUF file of a manifest. Raises: `ModelError`."""
    again = f"`ollama pull {name}`"
    if manifest.stat().st_size > _MOST_MANIFEST:
        raise ModelError(f"{manifest} has more than {_MOST_MANIFEST} bytes, which no manifest has; {again}")
    layers = read_json(manifest).get("layers")
    if not isinstance(layers, list) or len(layers) > _MOST_LAYERS or not all(isinstance(each, dict) for each in layers):
        raise ModelError(f"{manifest} lists no layers; {again}")
    kinds: dict[str, list[dict[str, Any]]] = {}
    for layer in layers:
        kinds.setdefault(str(layer.get("mediaType")).removeprefix(_KIND), []).append(layer)
    if "adapter" in kinds:
        raise ModelError(f"Ollama's {name} is a model and an adapter to it, which is not applied here; name the model")
    models = kinds.get("model", [])
    if len(models) != 1:
        what = "no GGUF file" if not models else f"{len(models)} GGUF files"
        raise ModelError(f"Ollama's {name} consists of {what}; choose a model that is one GGUF file")
    digest = _DIGEST.fullmatch(str(models[0].get("digest")))
    if digest is None:
        raise ModelError(f"{manifest} says digest = {shown(models[0].get('digest'))}, which is none; {again}")
    blob = folder / "blobs" / f"sha256-{digest[1]}"
    if not os.path.isfile(blob):
        raise ModelError(f"Ollama's {name} lacks {blob}; {again}")
    size = models[0].get("size")
    if type(size) is int and size != blob.stat().st_size:
        raise ModelError(f"{blob} of Ollama's {name} has {blob.stat().st_size} bytes of {size}; {again}")
    return blob


def _lmstudio_folders() -> list[Path]:
    """The home that LM Studio's pointer file names, or its usual ones; the models may have been moved elsewhere."""
    homes = [Path("~/.lmstudio").expanduser(), Path("~/.cache/lm-studio").expanduser()]
    try:
        with Path("~/.lmstudio-home-pointer").expanduser().open(encoding="utf-8") as file:
            homes.insert(0, Path(file.read(4096).strip()))
    except (OSError, ValueError):
        pass
    found = []
    for home in homes:
        try:
            moved = read_json(home / "settings.json").get("downloadsFolder")
        except ModelError:
            moved = None
        found += [Path(moved)] if isinstance(moved, str) and moved and moved.isprintable() else []
        found.append(home / "models")
    return list(dict.fromkeys(found))


def _lmstudio(folder: Path) -> Iterator[Kept]:
    return _files(folder, "*/*/*.gguf")


def _llamacpp_folders() -> list[Path]:
    if sys.platform == "darwin":
        usual = "~/Library/Caches/llama.cpp"
    elif sys.platform == "win32":
        usual = f"{os.environ.get('LOCALAPPDATA', '~')}/llama.cpp"
    else:
        usual = f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/llama.cpp"
    # Since 2026 it keeps files in the hub's cache, or in LLAMA_CACHE laid out as that is.
    return [*_of_environment("LLAMA_CACHE", usual), cache_of_hub()]


def _llamacpp(folder: Path) -> Iterator[Kept]:
    """Files called org_repo_FILE.gguf, and repositories laid out as in the hub's cache."""
    yield from _files(folder, "*.gguf")
    for _, repo, here in islice(repositories(folder), _MOST_ENTRIES):
        if here is not None:
            yield from (Kept(f"{repo}/{kept.name}", kept.path, kept.problem) for kept in _files(here, "**/*.gguf"))


def _files(folder: Path, pattern: str) -> Iterator[Kept]:
    names = {path.relative_to(folder).as_posix(): path for path in islice(visible(folder, pattern), _MOST_ENTRIES)}
    for name in ggufs(name for name, path in names.items() if os.path.isfile(path)):
        part = PART.fullmatch(name)
        problem = "" if part is None or int(part[3]) == 1 else f"{names[name]} is one of {int(part[3])} parts; "
        if problem:
            problem += "name its path and --engine llamacpp, which joins them"
        yield Kept(name, names[name], problem)


STORES: dict[str, Store] = {
    "ollama": Store("Ollama", _ollama_folders, _ollama, "ollama pull {}", files=False),
    "lmstudio": Store("LM Studio", _lmstudio_folders, _lmstudio, "lms get {}"),
    "llamacpp": Store("llama.cpp", _llamacpp_folders, _llamacpp, "llama-server -hf {}"),
}
"""By what a name of one begins with, before the colon."""


def stored(name: str) -> tuple[Store, str] | None:
    """The store that a MODEL names, and the name there; None if it names none."""
    first, colon, rest = name.partition(":")
    return (STORES[first], rest) if colon and first in STORES else None


def short_names(held: list[Kept]) -> dict[str, str]:
    """The shortest name that means the same file, of each by its name: with the quantisation in place of the file."""
    repos: dict[str, list[str]] = {}
    for kept in held:
        repo, slash, _ = kept.name.rpartition("/")
        if slash and repo.count("/") == 1 and quant_of(kept.name):
            repos.setdefault(f"{repo}:{quant_of(kept.name)}", []).append(kept.name)
    return {names[0]: short for short, names in repos.items() if len(names) == 1}
