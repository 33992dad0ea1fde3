"""`airdraft run` while its edge dies, comes back, stays away, or serves over TLS to who has a token."""

from __future__ import annotations

import json
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from airdraft import cli
from airdraft.core.sampling import SamplingParams
from airdraft.sim import alone

from ..edge.threaded import Edge, shipped

PROMPT = "def parse(text):\n"
SERVER = ("--scheme", "server", "--max-tokens", "60")
Run = Callable[..., tuple[int | str | None, str, str]]


@pytest.fixture
def edges() -> Iterator[list[Edge]]:
    edges = [Edge(), Edge()]
    try:
        for edge in edges:
            edge.start()
        yield edges
    finally:
        for edge in edges:
            edge.end()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit code, standard output and standard error of `airdraft run`."""

    def run(*words: str) -> tuple[int | str | None, str, str]:
        monkeypatch.setattr(sys, "argv", ["airdraft", "run", PROMPT, *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    return run


def truth(most: int = 60) -> list[int]:
    target, tokenizer = shipped("target")
    params = SamplingParams(0.7)
    return list(alone.write(target, tokenizer.encode(PROMPT), params, 0, most, vocab_size=tokenizer.vocab_size))


def when_writing(edge: Edge, act: Callable[[], object]) -> threading.Thread:
    """Do something once the edge is in the midst of a text, which does not go on before the edge is killed."""
    edge.held = True

    def wait() -> None:
        assert edge.writing.wait(60)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_an_edge_that_comes_back(edges: list[Edge], run: Run) -> None:
    def again() -> None:
        edges[0].kill()
        edges[0].start()

    thread = when_writing(edges[0], again)
    code, out, notes = run("--edge", edges[0].url, "--json", *SERVER)
    thread.join()
    assert (code, json.loads(out)["ids"]) == (0, truth())
    lost, found = notes.splitlines()
    assert lost.startswith("airdraft: away: ")
    assert lost.endswith("; waiting up to 60 s")
    assert found == f"airdraft: connected to {edges[0].url}; the text goes on"


def test_the_other_edge(edges: list[Edge], run: Run) -> None:
    thread = when_writing(edges[0], edges[0].kill)
    code, out, notes = run("--edge", f"{edges[0].url}, {edges[1].url}", "--json", *SERVER)
    thread.join()
    assert (code, json.loads(out)["ids"]) == (0, truth())
    assert notes.endswith(f"connected to {edges[1].url}; the text goes on\n")


@pytest.mark.parametrize("offline", ["stall", "draft", "error"])
def test_an_edge_that_stays_away(edges: list[Edge], run: Run, monkeypatch: pytest.MonkeyPatch, offline: str) -> None:
    monkeypatch.setattr(sys.modules["airdraft.cli.run"], "GIVE_UP_S", 0.6)
    thread = when_writing(edges[0], edges[0].kill)
    code, out, notes = run("--edge", edges[0].url, "--no-color", "--offline", offline, *SERVER)
    thread.join()
    assert code == 2
    text = out.removeprefix(PROMPT).removesuffix("\n")
    assert text
    assert shipped("target")[1].decode(truth()).startswith(text)
    lines = notes.strip().splitlines()
    if offline == "error":
        assert len(lines) == 1
        assert lines[0].startswith(f"airdraft: no edge answers at {edges[0].url}")
    else:
        assert len(lines) == 2
        assert lines[1].startswith("airdraft: given up after 0.6 s without an edge")


def test_a_certificate_of_ones_own(run: Run, tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    edge = Edge(context)
    try:
        edge.start()
        url = f"wss://localhost:{edge.port}"
        code, out, _ = run("--edge", url, "--ca", str(tmp_path / "ca.pem"), "--json", *SERVER)
        assert (code, json.loads(out)["ids"]) == (0, truth())
        code, _, line = run("--edge", url, *SERVER)
        assert code == 2
        assert "cannot be trusted" in line
        assert "--ca FILE" in line
        code, _, line = run("--edge", url, "--ca", str(tmp_path / "nope.pem"), *SERVER)
        assert code == 2
        assert "give a PEM file" in line
    finally:
        edge.end()


def test_a_token_from_the_environment(edges: list[Edge], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRDRAFT_TOKEN", "no good")
    code, _, line = run("--edge", edges[0].url, *SERVER)
    assert code == 2
    assert "give it as it was issued" in line
    assert "no good" not in line
