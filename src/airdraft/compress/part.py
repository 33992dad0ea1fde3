"""What is written so far of a model, in a hidden folder beside it, so that a run that was stopped goes on.

A failure takes the folder away. Only what stops a process from outside leaves it: Ctrl-C, or the end of the process.
"""

from __future__ import annotations

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
        if error is None or isinstance(error, Exception):
            shutil.rmtree(self.folder, ignore_errors=True)

    def state(self) -> dict[str, NDArray[Any]]:
        """What was saved last; nothing, if nothing was."""
        try:
            with np.load(self.folder / _STATE) as found:
                return dict(found)
        except (FileNotFoundError, EOFError, ValueError, zipfile.BadZipFile):
            return {}  # none, or cut off with the machine's power
        except OSError as problem:
            raise unwritable(self._out, problem) from problem

    def save(self, state: dict[str, NDArray[Any]]) -> None:
        """Save arrays in place of those before. Raises: `ModelError` if there is no room."""
        new = self.folder / f"new-{_STATE}"
        try:
            np.savez(new, **state)  # type: ignore[arg-type]  # of its other arguments none has such a name
            os.replace(new, self.folder / _STATE)
        except OSError as problem:
            raise unwritable(self._out, problem) from problem

    def finish(self, name: str, report: str) -> None:
        """Put what the folder holds as `name` in its place, and the report with it. Raises: `ModelError`."""
        made = self.folder / name
        try:
            if made.is_dir():
                (made / REPORT).write_text(report, "utf-8")
            else:
                (self.folder / REPORT).write_text(report, "utf-8")
                os.replace(self.folder / REPORT, self._out.with_suffix(".json"))
            os.replace(made, self._out)
        except OSError as problem:
            raise unwritable(self._out, problem) from problem


def unwritable(out: Path, problem: OSError) -> ModelError:
    """The error for a place where nothing can be written, or no more."""
    return ModelError(f"{out} cannot be written ({first_line(problem)}); choose another place")
