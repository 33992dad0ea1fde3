"""A modem's CSI out of a real pipe and a real file: what is taken, what is left out, what a forecast makes of it."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from airdraft.channel.generate import Complex
from airdraft.cli import options
from airdraft.control.forecast import STEP_S
from airdraft.control.foresight import Foreseeing
from airdraft.device.modem import MOST_LINE, Modem, sighted
from airdraft.errors import BadParameterError
from airdraft.link.nr import NrLink


def line(slot: Complex, noise: float = 1.0) -> bytes:
    """A slot [subcarriers, antennas] as a modem's tool writes it."""
    values = (slot * np.sqrt(noise)).astype(np.complex64).view(np.float32).ravel().tolist()
    return json.dumps({"csi": values, "antennas": slot.shape[1], "noise": noise}).encode() + b"\n"


def soon(come: Callable[[], bool]) -> bool:
    """Whether it comes within a minute."""
    until_s = time.monotonic() + 60
    while not come() and time.monotonic() < until_s:
        time.sleep(0.01)
    return come()


def random_slot(seed: int, shape: tuple[int, int] = (32, 4)) -> Complex:
    rng = np.random.default_rng(seed)
    found: Complex = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)
    return found


def test_slots_come_through_a_pipe_and_a_second_writer_may_follow(tmp_path: Path) -> None:
    pipe = tmp_path / "csi"
    os.mkfifo(pipe)
    modem = Modem(pipe, slots=3)
    for turn in range(2):
        given = [random_slot(10 * turn + at) for at in range(3)]
        with pipe.open("wb") as out:
            out.writelines(line(slot, noise=1e-9) for slot in given)

        def came(given: list[Complex] = given) -> bool:
            for slot in given:  # on a busy machine the pipe's may be stale by now
                modem.take(line(slot))
            csi = modem.csi()
            return csi is not None and bool(np.allclose(csi, given, rtol=1e-5))

        assert soon(lambda: bool(modem._slots) and np.allclose(modem._slots[-1], given[-1], rtol=1e-5))  # noqa: B023
        assert soon(came)


def test_a_file_is_read_from_its_end_on(tmp_path: Path) -> None:
    file = tmp_path / "csi.jsonl"
    file.write_bytes(line(random_slot(1)))
    modem = Modem(file, slots=1)

    def came() -> bool:  # again and again: it may not have found the end yet
        with file.open("ab") as out:
            out.write(line(random_slot(2))[:40])
            out.flush()
            time.sleep(0.05)
            out.write(line(random_slot(2))[40:])
        return bool(modem._slots)

    time.sleep(0.3)
    assert not modem._slots
    assert soon(came)
    assert np.allclose(modem._slots[0], random_slot(2), rtol=1e-5)


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        (b"hello\n", "malformed"),
        (b'{"csi": [1, 2], "noise": 1}\n', "2 numbers are not two or more subcarriers"),
        (b'{"csi": [1, 2, 3, 4, 5], "noise": 1}\n', "5 numbers are not"),
        (b'{"csi": [1, 2, 3, 4], "noise": 0}\n', "noise"),
        (b'{"csi": [1, 2, 3, 4], "noise": 1, "rssi": 3}\n', "rssi"),
        (b'{"csi": [1, 2, 3, 1e300], "noise": 1}\n', "not finite"),
        (b'{"csi": [1, 2, 3, NaN], "noise": 1}\n', "malformed"),
        (b" " * (MOST_LINE + 1), "longer than"),
        (line(random_slot(1, (8, 2))), "8 subcarriers and 2 antennas; the model is for 32 and 4"),
    ],
)
def test_a_line_that_is_no_slot_is_left_out_and_told_once(
    tmp_path: Path, bad: bytes, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "csi.jsonl"
    file.touch()
    modem = Modem(file, slots=1, shape=(32, 4))
    with caplog.at_level(logging.WARNING):
        modem.take(bad)
        modem.take(bad)
    assert len(caplog.records) == 1
    assert what in caplog.text
    assert 'give {"csi"' in caplog.text
    assert not modem._slots
    modem.take(line(random_slot(3)))
    assert modem._slots


def test_a_modem_that_falls_silent_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "csi").touch()
    modem = Modem(tmp_path / "csi", slots=1)
    modem.take(line(random_slot(1)))
    time.sleep(0.3)
    assert modem.csi() is None


def test_a_jam_makes_drafts_late_to_the_guard_alone(tmp_path: Path) -> None:
    """CSI of a simulated cell whose jammer is on, through a real pipe."""
    pipe = NrLink(jam_interval_s=0.1, jam_s=60.0, seed=1).uplink()
    pipe.send(0.0, 1)
    assert pipe.jammed(3.0)
    csi = pipe.csi(3.0)
    assert csi is not None
    late = {}
    for name in ("snr", "guard"):
        fifo = tmp_path / name
        os.mkfifo(fifo)
        learner, stop = Foreseeing(sighted(name, fifo)()), threading.Event()

        def write(fifo: Path = fifo, stop: threading.Event = stop) -> None:
            with fifo.open("wb") as out:
                while not stop.is_set():
                    out.writelines(line(slot) for slot in csi)
                    out.flush()

        writer = threading.Thread(target=write)
        writer.start()
        steps = iter(range(10**6))

        def said(learner: Foreseeing = learner, steps: object = steps) -> bool:
            return learner.late(1, STEP_S * next(steps), 0, 0)  # type: ignore[call-overload,no-any-return]

        late[name] = soon(said) if name == "guard" else any(said() for _ in range(100))
        stop.set()
        writer.join()
    assert late == {"snr": False, "guard": True}


def test_options_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadParameterError, match="no file and no pipe"):
        options.forecast("snr", tmp_path / "none")
    with pytest.raises(BadParameterError, match="--forecast ewma does not read it"):
        options.forecast("ewma", tmp_path)
