"""Folders made of GGUF files and checkpoints, kept in a cache: each is imported once, whatever it is called.

They lie in the cache folder, under a digest of what they were made of. Deleting any of them is safe.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from airdraft.errors import ModelError, why
from airdraft.models.files.digest import digest, file_digest, files_digest
from airdraft.models.files.kept import cache_folder
from airdraft.models.files.weights import checkpoint_files, is_gguf, model_folder
from airdraft.models.imports.read import GgufFile
from airdraft.models.imports.write import check_header, import_checkpoint, import_gguf, text_paths, write_text_files

GGUFS, CHECKPOINTS = "gguf", "checkpoint"
"""Folders in the cache folder that hold imports, by what they were made of."""
FORM = "5"
"""Of what an import writes; a new number makes files be imported again."""


def imported(path: Path, fits: Callable[[GgufFile], object] = check_header) -> Path:
    """The folder that the GGUF file `path` was, or is now, imported to; progress goes to standard error.

    What older versions made of it is deleted then. fits: refuses its header, before all of the file is read for its
    digest.
    Raises: `ModelError` if it cannot be imported.
    """
    fits(GgufFile(path))
    return _once(import_gguf, path, cache_folder() / GGUFS / f"{file_digest(path).hex()[:32]}-{FORM}")


def imported_checkpoint(path: Path) -> Path:
    """As `imported`, of the checkpoint in safetensors in the folder `path`; see `import_checkpoint`."""
    beside = [file for file in text_paths(path) if file.is_file()]
    held = files_digest([*checkpoint_files(path), *beside])
    key = digest(held, *(file.name.encode() for file in beside)).hex()  # which of them there are
    return _once(import_checkpoint, path, cache_folder() / CHECKPOINTS / f"{key}-{FORM}")


def _once(make: Callable[[Path, Path, Callable[[float], None]], object], path: Path, folder: Path) -> Path:
    """`folder`, which `make` makes of `path` unless it is there."""
    if not folder.is_dir():
        progress = _Line(f"importing {path}")
        try:
            make(path, folder, progress)
        except ModelError:
            if not folder.is_dir():  # another process may have been faster
                raise
        finally:
            progress.end()
        _delete_older(folder)
    return folder


def _delete_older(folder: Path) -> None:
    """Delete what older versions imported of the same file. Where that is not possible, it stays."""
    digest = folder.name.removesuffix(f"-{FORM}")
    for older in (folder.with_name(f"{digest}-{form}") for form in range(1, int(FORM))):
        gone = older.with_name(f".{older.name}.gone")  # in one step: half a folder would be taken for an import
        with contextlib.suppress(OSError):
            older.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def text_folder(path: Path) -> Path:
    """The folder with the tokenizer of the model at `path`: itself, or one made of a GGUF file's header.

    Where that has a tokenizer of an unknown kind, a tokenizer.json beside the file goes for it.
    Raises: `ModelError` if there is none.
    """
    if not path.is_file() or not is_gguf(path):
        return model_folder(path)
    file = GgufFile(path)
    header = hashlib.sha256(FORM.encode() + file.header()).hexdigest()[:32]
    folder = cache_folder() / "text" / header
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            write_text_files(path, made)
            made.rename(folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except ModelError:
        if (path.parent / "tokenizer.json").is_file():
            return path.parent
        raise
    except OSError as problem:
        if not folder.is_dir():  # another process may have been faster
            raise ModelError(f"{folder} cannot be written ({why(problem)}); set XDG_CACHE_HOME") from problem
    return folder


class _Line:
    """One line on standard error that tells how far something is: rewritten on a terminal, else written once."""

    def __init__(self, what: str) -> None:
        self._what, self._shown = what, -1
        self._terminal = sys.stderr.isatty()

    def __call__(self, share: float) -> None:
        percent = int(100 * share)
        if percent == self._shown:
            return
        if self._terminal:
            print(f"\rairdraft: {self._what}: {percent} %", end="", file=sys.stderr, flush=True)  # noqa: T201
        elif self._shown < 0:
            print(f"airdraft: {self._what}", file=sys.stderr, flush=True)  # noqa: T201
        self._shown = percent

    def end(self) -> None:
        """Leave the line."""
        if self._terminal and self._shown >= 0:
            print(file=sys.stderr)  # noqa: T201
