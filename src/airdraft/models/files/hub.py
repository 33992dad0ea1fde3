"""Models of the Hugging Face hub: how one is named, what of its repository is fetched, and what its cache holds.

`org/repo` is the one model of a repository, `org/repo:Q4_K_M` its GGUF file of that quantisation, `org/repo/FILE` that
graph or GGUF file. What is named so is taken from the hub's cache, where that has it, without asking the network.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants

from airdraft.errors import ModelError, first_line
from airdraft.models.files.config import codes_of
from airdraft.models.files.variants import BESIDE, CODES, GGUF, ONNX, Variant, check_runs, ggufs, pick
from airdraft.models.files.weights import external_files, visible
from airdraft.models.imports.checkpoint import check_described
from airdraft.models.imports.read import GgufFile, ShortHeaderError

_log = logging.getLogger(__name__)

_PART = r"[A-Za-z0-9][\w.-]{0,95}"
_NAME = re.compile(
    rf"(?P<repo>{_PART}/{_PART})(?::(?P<quant>[\w.-]{{1,40}})|/(?P<file>[^\\]{{1,400}}\.(?:gguf|onnx)))?"
)
_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_MOST_FILES = 100_000
_PATIENCE_S = 10.0
_LARGE_BYTES, _HEAD_BYTES = 1 << 27, 1 << 24
"""Of a file that is looked at before it is fetched, and of what is looked at; the largest headers have some 20 MB."""
_SIGN_IN = "sign in with `hf auth login`, or set HF_TOKEN"


@dataclass(frozen=True)
class HubName:
    """A model on the hub, as a user names it."""

    repo: str
    quant: str | None = None
    file: str | None = None

    @classmethod
    def of(cls, name: str) -> HubName | None:
        """The model called `name`; None if that is no such name."""
        found = _NAME.fullmatch(name)
        if found is None or ".." in name or not name.isprintable():
            return None
        if found["file"] is not None and not all(found["file"].split("/")):
            return None
        return cls(found["repo"], found["quant"], found["file"])


def fetched(name: HubName, formats: Mapping[str, str], fits: Callable[[GgufFile], None]) -> tuple[Path, str]:
    """Where the model lies in the hub's cache, downloaded if it is not there, and its format.

    A graph or a GGUF file is a path of its own, all else the folder. Progress goes to standard error.
    formats: see `pick`. fits: refuses the header of a GGUF file that would be of no use, before all of it is fetched.
    Raises: `ModelError` if there is no such model, it cannot be had, or cannot be run.
    """
    here = snapshot(name.repo)
    if here is not None and (name.quant or name.file):
        variant = _whole(name, here, formats)
        if variant is not None:
            check_runs(name.repo, variant, formats)
            return here / variant.file, variant.format
    try:
        # Its list of files alone would be asked for five times, in half a minute, where there is no network.
        found = huggingface_hub.HfApi().model_info(name.repo, timeout=_PATIENCE_S)
    except Exception as problem:  # errors of the hub's library and of the HTTP library beneath share no base class
        cached = None if here is None else _whole(name, here, formats)
        if here is None or cached is None:
            raise _failed(name.repo, problem) from problem
        check_runs(name.repo, cached, formats)
        return here / cached.file, cached.format
    names = [file.rfilename for file in (found.siblings or [])[:_MOST_FILES]]
    variant = pick(name.repo, names, formats, name.quant, name.file)
    if variant.format == CODES:
        described = _downloaded(name.repo, BESIDE)
        if codes_of(described):
            check_described(described)
        else:
            variant = pick(name.repo, names, _without_codes(formats))
    check_runs(name.repo, variant, formats)
    if variant.format == GGUF and len(variant.files) == 1:
        _check_head(name.repo, variant.file, fits)
    folder = _downloaded(name.repo, variant.patterns)
    named = _linked(folder, variant)
    if not all((folder / file).is_file() for file in named):
        _downloaded(name.repo, [*variant.patterns, *named])
    return folder / variant.file, variant.format


def _downloaded(repo: str, patterns: Sequence[str]) -> Path:
    """The folder of a repository in the hub's cache, with the files that fit the patterns. Raises: `ModelError`."""
    try:
        return Path(huggingface_hub.snapshot_download(repo, allow_patterns=[*patterns]))
    except Exception as problem:
        raise _failed(repo, problem) from problem


def _without_codes(formats: Mapping[str, str]) -> dict[str, str]:
    return {form: lack for form, lack in formats.items() if form != CODES}


def _check_head(repo: str, name: str, fits: Callable[[GgufFile], None]) -> None:
    """Refuse a large GGUF file from its beginning. Raises: `ModelError`."""
    try:
        with huggingface_hub.HfFileSystem().open(f"{repo}/{name}", "rb", cache_type="none") as remote:
            size = int(remote.size or 0)
            head = remote.read(_HEAD_BYTES) if size >= _LARGE_BYTES else b""
    except Exception as problem:  # what is wrong, if it lasts, the download says
        _log.info("the beginning of %s in %s cannot be had: %s", name, repo, problem)
        return
    if not head:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "head.gguf"
        path.write_bytes(head)
        try:
            fits(GgufFile(path, size=size))
        except ShortHeaderError:  # it is longer than what was read
            return
        except ModelError as problem:
            raise ModelError(str(problem).replace(str(path), f"{repo}/{name}")) from problem


def snapshot(repo: str, cache: Path | None = None) -> Path | None:
    """The folder of the newest state of a repository in the hub's cache; None if there is nothing of it.

    cache: another folder of that layout.
    """
    folder = (cache or cache_of_hub()) / f"models--{repo.replace('/', '--')}"
    try:
        with (folder / "refs" / "main").open(encoding="ascii") as file:
            commit = file.read(100).strip()
    except (OSError, ValueError):
        return None
    found = folder / "snapshots" / commit
    return found if _COMMIT.fullmatch(commit) and os.path.isdir(found) else None


def repositories(cache: Path) -> Iterator[tuple[Path, str, Path | None]]:
    """Each repository in a folder laid out as the hub's cache: its place, its name, and its newest state, if whole."""
    for path in islice(cache.glob("models--*--*"), _MOST_FILES):
        repo = path.name.removeprefix("models--").replace("--", "/")
        yield path, repo, snapshot(repo, cache) if HubName.of(repo) else None


def cache_of_hub() -> Path:
    """The folder of the hub's cache: HF_HUB_CACHE, or `hub` in HF_HOME."""
    return Path(constants.HF_HUB_CACHE).expanduser()


def names_in(folder: Path) -> list[str]:
    """Names of the files in a folder and below, with `/` between folders, without hidden ones and links to nothing."""
    found = []
    for path in visible(folder, "**/*"):
        if os.path.isfile(path):  # False, and no error, where it may not be looked at
            found.append(path.relative_to(folder).as_posix())
        if len(found) >= _MOST_FILES:
            break
    return sorted(found)


def _whole(name: HubName, folder: Path, formats: Mapping[str, str]) -> Variant | None:
    """What is named, if all of it is in the cache. Raises: `ModelError` if several are, and none is named."""
    names = names_in(folder)
    try:
        variant = pick(name.repo, names, formats, name.quant, name.file)
        if variant.format == CODES and not codes_of(folder):
            variant = pick(name.repo, names, _without_codes(formats))
    except ModelError:
        if len(ggufs(names)) > 1 and not (name.quant or name.file):
            raise
        return None
    # Where one of the small files is there, all are: they were fetched first, and together.
    beside = [] if variant.format == GGUF else ["config.json"]
    needed = [*beside, *variant.files, *_linked(folder, variant)]
    return variant if all((folder / file).is_file() for file in needed) else None


def _linked(folder: Path, variant: Variant) -> list[str]:
    """Further files of a graph, as it names them; relative to the folder."""
    if variant.format != ONNX or not (folder / variant.file).is_file():
        return []
    within = Path(variant.file).parent
    return [(within / file).as_posix() for file in external_files(folder / variant.file)]


def _failed(repo: str, problem: Exception) -> ModelError:
    """Why a repository cannot be had, and what to do."""
    from huggingface_hub import errors  # noqa: PLC0415  # which brings the HTTP library: a quarter of a second

    if isinstance(problem, ModelError):
        return problem
    cause: BaseException = problem
    while cause.__cause__ is not None and isinstance(cause, errors.LocalEntryNotFoundError):
        cause = cause.__cause__
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if isinstance(cause, errors.GatedRepoError):
        return ModelError(f"{repo} is gated; accept its terms at {constants.ENDPOINT}/{repo}, then {_SIGN_IN}")
    if isinstance(cause, errors.RepositoryNotFoundError) or status in (401, 404):
        return ModelError(f"the hub has no model {repo}, or it is private; check the path or the id, or {_SIGN_IN}")
    if isinstance(cause, errors.HfHubHTTPError) and status is not None:
        return ModelError(
            f"the hub answered {status} for {repo}; " + (_SIGN_IN if status == 403 else "try again later")
        )
    offline = isinstance(cause, errors.OfflineModeIsEnabled)
    why = "HF_HUB_OFFLINE is set" if offline else f"{type(cause).__name__}: {first_line(Exception(cause))}"
    elsewhere = isinstance(cause, errors.EntryNotFoundError | ConnectionError)
    if isinstance(cause, OSError) and cause.errno is not None and not elsewhere:
        return ModelError(f"{repo} cannot be kept in {cache_of_hub()} ({why}); make room, or set HF_HUB_CACHE")
    rest = "unset it" if offline else "check the network"
    return ModelError(
        f"{repo} is not, or not whole, in the hub's cache {cache_of_hub()}, and the hub cannot be reached ({why}); "
        f"{rest}, or check the path or the id"
    )
