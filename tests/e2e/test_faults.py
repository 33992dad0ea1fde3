"""Faults for real: edges and links killed, stopped and started again in the midst of a text; a link of the kernel's."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from airdraft.core.sampling import SamplingParams
from airdraft.models.registry import load
from airdraft.sim import alone

from .processes import ENVIRONMENT, announced, command, read_until, started

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

PROMPT = "def main():\n"
TOKENS = 160
SLOW = ("--profile", "phone-8b")
BEAT = ("--heartbeat-s", "1")


def written(temperature: float, seed: int) -> list[int]:
    """What the target alone writes, computed here."""
    target, tokenizer = load("target")
    prompt, params = tokenizer.encode(PROMPT), SamplingParams(temperature)
    return list(alone.write(target, prompt, params, seed, TOKENS, vocab_size=tokenizer.vocab_size))


@functools.cache
def truth() -> tuple[int, str]:
    """A seed whose text is long, and that text."""
    seed, ids = next((seed, ids) for seed in range(40) if len(ids := written(0.7, seed)) >= 100)
    return seed, load("target")[1].decode(ids)


class Writing:
    """A device in the midst of its text."""

    def __init__(self, edges: str, scheme: str, *before: str) -> None:
        """`before`: words of a command line that runs the device's."""
        seed, self.expected = truth()
        options = ("--scheme", scheme, "--seed", str(seed), "--max-tokens", str(TOKENS), "--no-color")
        line = [*before, *command("run", PROMPT, "--edge", edges, *options)]
        self.process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)
        self.said = read_until(self.process, len(PROMPT) + 20)

    def told(self, word: str) -> str:
        """Standard error up to the piece with this word."""
        assert self.process.stderr is not None
        said = b""
        while word.encode() not in said and (piece := os.read(self.process.stderr.fileno(), 4096)):
            said += piece
        assert word.encode() in said
        return said.decode()

    def finish(self, seconds: float = 90) -> str:
        """Check that the whole text is the target's own. Returns what was said on standard error."""
        assert len(self.said) < len(PROMPT) + len(self.expected.encode()), "the text was complete before the fault"
        rest, errors = self.process.communicate(timeout=seconds)
        assert self.process.returncode == 0, errors
        assert (self.said + rest).decode().startswith(PROMPT + self.expected + "\n")
        return errors.decode()

    def __enter__(self) -> Writing:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.mark.parametrize("scheme", ["stream", "coupled", "server", "auto"])
def test_an_edge_killed_and_started_again(scheme: str) -> None:
    with started("edge", "--port", "0", "--json", *SLOW) as edge:
        url = announced(edge)["url"]
        with Writing(url, scheme) as text:
            edge.kill()
            edge.wait()
            with started("edge", "--port", url.rpartition(":")[2], "--json", *SLOW) as again:
                announced(again)
                notes = text.finish()
    assert "airdraft: away: " in notes
    assert f"connected to {url}; the text goes on" in notes


def test_an_edge_killed_and_another_that_takes_over() -> None:
    with started("edge", "--port", "0", "--json", *SLOW) as edge, started("edge", "--port", "0", "--json") as other:
        url, second = announced(edge)["url"], announced(other)["url"]
        with Writing(f"{url},{second}", "stream") as text:
            edge.kill()
            assert f"connected to {second}" in text.finish()


def test_a_link_killed_and_started_again() -> None:
    with started("edge", "--port", "0", "--json", *SLOW) as edge:
        to = ("link", "--to", announced(edge)["url"], "--rtt-ms", "30", "--json")
        with started(*to, "--port", "0") as link:
            url = announced(link)["url"]
            with Writing(url, "stream") as text:
                link.kill()
                link.wait()
                time.sleep(1.0)
                with started(*to, "--port", url.rpartition(":")[2]) as again:
                    announced(again)
                    assert "the text goes on" in text.finish()


def test_an_edge_stopped_for_longer_than_the_heartbeats() -> None:
    with (
        started("edge", "--port", "0", "--json", *SLOW, *BEAT) as edge,
        Writing(announced(edge)["url"], "stream") as text,
    ):
        edge.send_signal(signal.SIGSTOP)
        notes = text.told("silent")
        edge.send_signal(signal.SIGCONT)
        notes += text.finish()
    assert "the text goes on" in notes


# ---- A link of the kernel's ------------------------------------------------------------------------------------------

NAMES = f"airdraft-{os.getpid()}-edge", f"airdraft-{os.getpid()}-device"
PORTS = f"ad{os.getpid() % 100000}e", f"ad{os.getpid() % 100000}d"
ADDRESSES = "10.213.7.1", "10.213.7.2"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def namespaces() -> Iterator[tuple[str, str]]:
    """Two network namespaces, the edge's and the device's, with a link of 1 Mbit/s between them."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if not (shutil.which("ip") and shutil.which("tc")):
        pytest.skip("there is no ip or no tc here (Debian: iproute2)")
    try:
        try:
            for name in NAMES:
                ip("netns", "add", name)
            ip("link", "add", PORTS[0], "type", "veth", "peer", "name", PORTS[1])
            for name, port, address in zip(NAMES, PORTS, ADDRESSES, strict=True):
                ip("link", "set", port, "netns", name)
                ip("-n", name, "address", "add", f"{address}/30", "dev", port)
                ip("-n", name, "link", "set", port, "up")
                ip("-n", name, "link", "set", "lo", "up")
                limit = ("rate", "1mbit", "burst", "4kb", "latency", "500ms")
                ip("netns", "exec", name, "tc", "qdisc", "add", "dev", port, "root", "tbf", *limit)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this kernel gives no namespaces, veth or tbf: {error.stderr.decode().strip()}")
        yield NAMES
    finally:
        for name in NAMES:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
        # Where it was not in a namespace yet.
        subprocess.run(["ip", "link", "delete", PORTS[0]], check=False, capture_output=True)


@pytest.mark.parametrize("scheme", ["stream", "dense"])
def test_a_text_over_a_link_of_the_kernels(namespaces: tuple[str, str], scheme: str) -> None:
    serve = command("edge", "--host", ADDRESSES[0], "--port", "0", "--json")
    inside = ["ip", "netns", "exec", namespaces[0], *serve]
    with subprocess.Popen(inside, stdout=subprocess.PIPE, env=ENVIRONMENT) as edge:
        try:
            url = announced(edge)["url"]
            device = ("ip", "netns", "exec", namespaces[1])
            seed, expected = truth()
            if scheme == "dense":  # the target's own text when greedy; its packets are long
                expected = load("target")[1].decode(written(0.0, seed))
            options = ("--scheme", scheme, "--seed", str(seed), "--temperature", "0" if scheme == "dense" else "0.7")
            line = [
                *device,
                *command("run", PROMPT, "--edge", url, "--no-color", "--max-tokens", str(TOKENS), *options),
            ]
            done = subprocess.run(line, capture_output=True, env=ENVIRONMENT, timeout=120, check=False)
            assert (done.returncode, done.stderr) == (0, b"")
            assert done.stdout.decode().startswith(PROMPT + expected + "\n")
        finally:
            edge.kill()
