"""CSI that a modem's tool writes, line by line, into a file or a pipe.

A line is one slot as JSON: `{"csi": [re, im, re, im, ...], "antennas": 4, "noise": 1e-9}`, subcarrier by subcarrier
with the antennas of each side by side, and the power of the noise in the same unit. A file is read from its end on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, Annotated

import msgspec
import numpy as np

from airdraft.channel.features import reading
from airdraft.channel.generate import Complex
from airdraft.channel.learned import LearnedChannel
from airdraft.control.forecast import Forecaster, Sighted, forecaster
from airdraft.errors import BadParameterError

_log = logging.getLogger(__name__)

MOST_LINE = 1 << 20
"""Longest line in bytes."""
STALE_S = 0.2
"""A modem whose last slot is older says nothing."""
_PAUSE_S = 0.005
"""Between looks at a file that has nothing new."""


class _Slot(msgspec.Struct, forbid_unknown_fields=True):
    csi: list[float]
    noise: Annotated[float, msgspec.Meta(gt=0)]
    antennas: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1


class Modem:
    """The latest slots of a modem, read by a thread of its own as long as the process lives."""

    def __init__(self, path: Path, slots: int = 20, shape: tuple[int, int] | None = None) -> None:
        """
        Args:
            path: a file or a named pipe.
            slots: how many are kept.
            shape: subcarriers and antennas of every slot; None: any.
        Raises: `BadParameterError` if there is no such file.
        """
        if not path.exists() or path.is_dir():
            raise BadParameterError(f"{path} is no file and no pipe; make one (mkfifo) that the modem's tool writes to")
        self._path, self._shape = path, shape
        self._slots: deque[Complex] = deque(maxlen=slots)
        self._at_s, self._told, self._lock = -STALE_S, "", threading.Lock()
        threading.Thread(target=self._read, name="modem", daemon=True).start()

    def csi(self) -> Complex | None:
        """Return the latest slots, [slots, subcarriers, antennas], noise 1; None unless all are there and fresh."""
        with self._lock:
            fresh = len(self._slots) == self._slots.maxlen and time.monotonic() - self._at_s < STALE_S
            return np.stack(self._slots) if fresh else None

    def _read(self) -> None:
        try:
            while True:
                with self._path.open("rb") as file:
                    if file.seekable():
                        file.seek(0, 2)
                    self._follow(file)
        except OSError as error:
            _log.warning("%s cannot be read any more (%s); the modem's CSI is not used", self._path, error.strerror)

    def _follow(self, file: IO[bytes]) -> None:
        """Read lines: of a pipe until its writer is gone, of a file for ever."""
        part = b""
        while True:
            line = file.readline(MOST_LINE + 1 - len(part))
            if not line:
                if not file.seekable():
                    return
                time.sleep(_PAUSE_S)
                continue
            part += line
            if part.endswith(b"\n") or len(part) > MOST_LINE:
                self.take(part)
                part = b""

    def take(self, line: bytes) -> None:
        """Take a line. One that is no slot is left out, and the log says so once for each reason."""
        try:
            slot = self._slot(line)
        except (msgspec.DecodeError, ValueError) as error:
            if str(error) != self._told:
                self._told = str(error)
                _log.warning('%s: a line is left out (%s); give {"csi": [re, im, ...], "antennas": N, "noise": POWER}',
                             self._path, error)  # fmt: skip
            return
        with self._lock:
            if self._slots and self._slots[-1].shape != slot.shape:
                self._slots.clear()
            self._slots.append(slot)
            self._at_s = time.monotonic()

    def _slot(self, line: bytes) -> Complex:
        if len(line) > MOST_LINE:
            raise ValueError(f"it is longer than {MOST_LINE} bytes")
        row = msgspec.json.decode(line, type=_Slot)
        if len(row.csi) % (2 * row.antennas) or len(row.csi) < 4 * row.antennas:
            raise ValueError(f"{len(row.csi)} numbers are not two or more subcarriers of {row.antennas} antennas")
        values = np.array(row.csi) / np.sqrt(row.noise)
        if not np.all(np.abs(values) < 1e15):
            raise ValueError("a value is not finite, or the noise is too small for it")
        slot: Complex = values.astype(np.float32).view(np.complex64).reshape(-1, row.antennas)
        if self._shape not in (None, slot.shape):
            raise ValueError(f"it has {slot.shape[0]} subcarriers and {slot.shape[1]} antennas; the model is for "
                             f"{self._shape[0]} and {self._shape[1]}")  # fmt: skip
        return slot


def sighted(name: str, path: Path) -> Callable[[], Forecaster]:
    """Make a maker of forecasters that are told what a modem measures: one of `SIGHTED`.

    Raises: `BadParameterError` if there is no such file.
    """
    model = LearnedChannel() if name == "model" else None
    slots, *shape = (model.window[0] // 2, *model.window[1:]) if model else (20,)
    modem = Modem(path, slots, (shape[0], shape[1]) if model else None)
    read = reading(name, model)
    return lambda: Sighted(forecaster("ridge"), lambda _: read(modem.csi()))
