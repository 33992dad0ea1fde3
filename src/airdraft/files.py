"""Files that users name: read within bounds, and written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from airdraft.errors import BadParameterError, why

MOST_BYTES = 1 << 28
"""Most bytes of a file that is read at once: more than any trace, page or certificate has."""


def read_bytes(path: Path) -> bytes:
    """What is in a file. Raises: `OSError`, also for more than `MOST_BYTES`: a device may have no end."""
    with path.open("rb") as file:
        found = file.read(MOST_BYTES + 1)
    if len(found) > MOST_BYTES:
        raise OSError(errno.EFBIG, f"it has more than {MOST_BYTES:,} bytes")
    return found


def read_utf8(path: Path) -> str:
    """The text in a file. Raises: `OSError` as `read_bytes`, `UnicodeDecodeError`."""
    return read_bytes(path).decode()


@contextlib.contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file to write in the body, which takes the place of `path` at its end; what stood there stays until then.

    After an error there is no trace of it.
    A device or a pipe is written to as it is. mode: of a new file, less the umask. Raises: `OSError`.
    """
    if _direct(path):
        with path.open("wb") as file:
            yield file
        return
    place, part = _places(path)
    try:
        with open(part, "xb", opener=partial(os.open, mode=mode)) as file:
            yield file
        if place.exists():
            shutil.copymode(place, part)
        part.replace(place)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def output(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """`replacing` for a file that a user has named. Raises: `BadParameterError` if it cannot be written."""
    try:
        with replacing(path, mode) as file:
            yield file
    except OSError as error:
        raise _cannot(path, error) from error


def check_output(path: Path | None) -> None:
    """Find out whether `output` can write a file there: before a run of minutes, and not after it.

    Raises: `BadParameterError`.
    """
    if path is None or _direct(path):
        return
    place, part = _places(path)
    if not place.parent.is_dir():
        raise BadParameterError(f"{path} cannot be written: there is no folder {place.parent}; make it")
    try:
        if place.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        part.open("xb").close()
        part.unlink()
    except OSError as error:
        raise _cannot(path, error) from error


def _direct(path: Path) -> bool:
    """Whether what stands there cannot be replaced: it is no regular file, or a name of an open one (/dev/stdout)."""
    try:
        inside = os.path.abspath(path).startswith(("/dev/", "/proc/self/fd/"))
        return (inside or not path.is_file()) and path.exists() and not path.is_dir()
    except OSError:  # a name that is too long, say: what writes says so
        return False


def _places(path: Path) -> tuple[Path, Path]:
    """Where the file lies, links followed, and where it is written meanwhile."""
    place = Path(os.path.realpath(path))
    return place, place.with_name(f".{secrets.token_hex(6)}.part")


def _cannot(path: Path, error: OSError) -> BadParameterError:
    return BadParameterError(f"{path} cannot be written ({why(error)}); give another file")
