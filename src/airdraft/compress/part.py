"""What is written so far of a model, in a hidden folder beside it, so that a run that was stopped goes on.

A failure takes the folder away. Only what stops a process from outside leaves it: Ctrl-C, or the end of the process.
"""

from __future__ import annotations

import errno
import os
import shutil
import zipfile
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airdraft.errors import ModelError, first_line

REPORT = "report.json"
_STATE = "state.npz"
_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


class Unfinished:
    """The folder of what will be `out`. What another `key` left there is taken away.

    key: a digest of all that the result follows from.
    """

    def __init__(self, out: Path, key: str) -> None:
        self._out, self._key = out, key
        self.folder = out.parent / f".{out.name}.part"

    def __enter__(self) -> Unfinished:
        """Make the folder, or find it. Raises: `ModelError`."""
        try:
            if not (self.folder / self._key).exists():
                shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / self._key).touch()
        except OSError as problem:
            raise unwritable(self._out, problem) from problem
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Raises: `ModelError` that names `out`, where an `OSError` tells that nothing could be written."""
        if error is None or isinstance(error, Exception):
            shutil.rmtree(self.folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise unwritable(self._out, error) from error

    def check_room(self, size: int) -> None:
        """Raises: `OSError` if the disk has no room for so many bytes."""
        room = shutil.disk_usage(self.folder).free
        if room < size:
            raise OSError(errno.ENOSPC, f"it takes {size / 1e6:.1f} MB, and there is room for {room / 1e6:.1f} MB")

    def state(self) -> dict[str, NDArray[Any]]:
        """What was saved last; nothing, if nothing was."""
        try:
            with np.load(self.folder / _STATE) as found:
                return dict(found)
        except (FileNotFoundError, EOFError, ValueError, zipfile.BadZipFile):
            return {}  # none, or cut off with the machine's power

    def save(self, state: dict[str, NDArray[Any]]) -> None:
        """Save arrays in place of those before."""
        new = self.folder / f"new-{_STATE}"
        np.savez(new, **state)  # type: ignore[arg-type]  # of its other arguments none has such a name
        os.replace(new, self.folder / _STATE)

    def anew(self, name: str) -> Path:
        """An empty folder within, whatever was left there."""
        made = self.folder / name
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        return made

    def finish(self, made: Path, report: str) -> None:
        """Put what the folder holds as `made` in its place, and the report with it."""
        beside = not made.is_dir()
        said = (self.folder if beside else made) / REPORT
        said.write_text(report, "utf-8")
        os.replace(made, self._out)
        if beside:
            os.replace(said, self._out.with_suffix(".json"))


def unwritable(out: Path, problem: OSError) -> ModelError:
    """The error for a place where nothing can be written, or no more. It names `out`, not what lies there meanwhile."""
    remedy = "make room, or choose another place" if problem.errno in _FULL else "choose another place"
    return ModelError(f"{out} cannot be written ({problem.strerror or first_line(problem)}); {remedy}")
