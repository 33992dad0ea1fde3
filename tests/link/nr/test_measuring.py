"""What `airdraft link --csi` writes is what `airdraft device --csi` reads, while bytes go through."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airdraft.channel.guard import shipped
from airdraft.device.modem import Modem
from airdraft.link.nr import NrLink
from airdraft.link.nr.measuring import Measuring, lines
from airdraft.models.registry import load

from ...e2e.processes import airdraft, announced, started
from ...e2e.test_processes import PROMPT, truth


def soon(come: Callable[[], Any]) -> bool:
    """Whether it comes, on a busy machine too."""
    until_s = time.monotonic() + 60
    while not come() and time.monotonic() < until_s:
        time.sleep(0.01)
    return bool(come())


@pytest.fixture
def edge() -> Iterator[int]:
    """The port of a server that takes bytes and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []

        def serve() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        for each in held:
            each.close()


def test_a_line_is_a_slot_as_the_device_reads_it(tmp_path: Path) -> None:
    pipe = NrLink(seed=2).uplink()
    pipe.send(0.0, 1)
    csi = pipe.csi(0.5)
    assert csi is not None
    (tmp_path / "csi").touch()
    modem = Modem(tmp_path / "csi")
    for line in lines(csi).splitlines(keepends=True):
        modem.take(line)
    np.testing.assert_allclose(np.stack(modem._slots), csi, atol=1e-3)


def test_each_slot_is_written_once_and_another_reader_may_follow(tmp_path: Path) -> None:
    pipe = NrLink(seed=3).uplink()
    Measuring(pipe, tmp_path / "csi", time.monotonic)
    for turn in range(2):
        with (tmp_path / "csi").open("rb") as reader:
            if not turn:
                pipe.send(time.monotonic(), 1)
            found = [reader.readline() for _ in range(200)]
        assert len(set(found)) == len(found)
        assert {len(json.loads(each)["csi"]) for each in found} == {2 * 32 * 4}


@pytest.mark.slow
def test_a_jam_of_the_link_is_seen_by_the_devices_guard_while_it_goes_on(tmp_path: Path, edge: int) -> None:
    fifo = tmp_path / "csi"
    words = [
        "--link",
        "nr:jams=1,outages=inf",
        "--to",
        f"ws://127.0.0.1:{edge}",
        "--port",
        "0",
        "--csi",
        str(fifo),
    ]
    with started("link", *words, "--json") as link:
        port = int(announced(link)["url"].rpartition(":")[2])
        modem, guard = Modem(fifo), shipped()
        assert modem.csi() is None
        seen = set()
        with socket.create_connection(("127.0.0.1", port)) as device:
            device.sendall(b"draft")

            def both() -> bool:
                csi = modem.csi()
                if csi is not None:
                    assert csi.shape == (20, 32, 4)
                    seen.add(guard.jammed(csi))
                return seen == {True, False}

            assert soon(both)


def streamed(url: str, seed: int) -> tuple[str, bool]:
    """A text of the device's API with its corrections, and whether any of it came unverified."""
    asked = {"model": "target", "prompt": PROMPT, "max_tokens": 200, "seed": seed, "temperature": 0.7, "stream": True}
    request = urllib.request.Request(  # noqa: S310  (this test's own)
        f"{url}/completions", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    text, unverified = "", False
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            (choice,) = json.loads(line[6:])["choices"]
            said = choice.get("airdraft", {})
            unverified |= said.get("verified") is False
            if correction := said.get("correction"):
                text = text[: correction["from"]] + correction["text"]
            text += choice["text"]
    return text, unverified


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_device_shows_drafts_in_a_jam_and_its_texts_stay_the_targets(tmp_path: Path) -> None:
    tokenizer, csi = load("target")[1], str(tmp_path / "csi")
    with contextlib.ExitStack() as stack:

        def serving(*words: str) -> str:
            url: str = announced(stack.enter_context(started(*words, "--port", "0", "--json")))["url"]
            return url

        edge = serving("edge", "--profile", "phone-8b")
        link = serving("link", "--link", "nr:jams=2", "--to", edge, "--csi", csi)
        device = serving("device", "--edge", link, "--forecast", "guard", "--csi", csi, "--offline", "draft")
        until_s, seed, seen = time.monotonic() + 150, 0, False
        while not seen and time.monotonic() < until_s:
            text, seen = streamed(device, seed)
            assert text == tokenizer.decode(truth(0.7, seed, 200))
            seed += 1
    assert seen


@pytest.mark.slow
def test_what_cannot_be_measured_or_written_is_one_line(tmp_path: Path) -> None:
    for words, said in (
        (["--rtt-ms", "20", "--csi", str(tmp_path / "csi")], "only nr has a channel"),
        (["--link", "rayleigh", "--csi", str(tmp_path / "csi")], "only nr has a channel"),
        (["--link", "nr", "--csi", str(tmp_path)], "cannot be written; give a file"),
        (["--link", "nr", "--csi", str(tmp_path / "none" / "csi")], "cannot be made"),
    ):
        code, out, err = airdraft("link", "--port", "0", *words)
        assert (code, out) == (2, ""), said
        assert said in err
        assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "csi").exists()  # nothing is made in vain
