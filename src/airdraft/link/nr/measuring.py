"""What a modem measures of a cell in real time, written as its tool would: for `airdraft device --csi`.

A line is one slot as JSON, `{"csi": [re, im, ...], "antennas": 4, "noise": 1.0}`, subcarrier by subcarrier.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import msgspec
import numpy as np

from airdraft.channel.generate import Complex
from airdraft.errors import BadParameterError
from airdraft.link.nr import NrPipe
from airdraft.link.nr.csi import SLOTS
from airdraft.link.nr.tdd import SLOT_S

_log = logging.getLogger(__name__)

_LOOK_S = SLOTS * SLOT_S
"""Between looks, so that each slot is written once."""
_BEHIND_S = 0.1
"""Slots that are older are left out: the reader was too slow."""
_DIGITS = 3
"""Of numbers in noise of power 1."""


def lines(csi: Complex) -> bytes:
    """Write slots, [slots, subcarriers, antennas] in noise of power 1, a line each."""
    numbers = np.round(np.ascontiguousarray(csi).view(np.float32).astype(np.float64), _DIGITS)
    rows = numbers.reshape(len(csi), -1).tolist()
    encode, antennas = msgspec.json.encode, csi.shape[2]
    return b"".join(encode({"csi": row, "antennas": antennas, "noise": 1.0}) + b"\n" for row in rows)


class Measuring:
    """Writes the channel of an uplink that is in use, by a thread of its own as long as the process lives."""

    def __init__(self, pipe: NrPipe, path: Path, clock: Callable[[], float]) -> None:
        """
        Args:
            pipe: the uplink; nothing is written before its first byte.
            path: a file to append to, or a named pipe, which waits for a reader and may get another; made if it is not
                there.
            clock: the one by which the uplink is used.
        Raises: `BadParameterError` if it cannot be written.
        """
        self._pipe, self._path, self._clock = pipe, path, clock
        try:
            if not path.exists():
                os.mkfifo(path)
            mode = path.stat().st_mode
        except OSError as error:
            raise BadParameterError(f"--csi {path} cannot be made ({error.strerror}); give another file") from error
        if not (stat.S_ISFIFO(mode) or stat.S_ISREG(mode)) or not os.access(path, os.W_OK):
            raise BadParameterError(f"--csi {path} cannot be written; give a file, or a pipe that is made there")
        threading.Thread(target=self._run, name="measuring", daemon=True).start()

    def _run(self) -> None:
        try:
            while True:
                try:
                    with self._path.open("ab") as out:
                        self._follow(out)
                except BrokenPipeError:
                    continue  # the reader is gone: wait for another
        except OSError as error:
            _log.warning("%s cannot be written any more (%s); nothing is measured", self._path, error.strerror)

    def _follow(self, out: IO[bytes]) -> None:
        at_s = self._clock()
        while True:
            at_s = max(at_s + _LOOK_S, self._clock() - _BEHIND_S)
            if (wait_s := at_s - self._clock()) > 0:
                time.sleep(wait_s)
            csi = self._pipe.csi(at_s)
            if csi is not None:
                out.write(lines(csi))
                out.flush()
