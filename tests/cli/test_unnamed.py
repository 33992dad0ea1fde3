"""A draft that nobody named: the one that ships and has the target's vocabulary, or none, and never a wrong one."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from airdraft import AsyncClient, Client
from airdraft.cli.unnamed import draft_for
from airdraft.device.shipped import draft_at
from airdraft.edge.server import EdgeServer
from airdraft.errors import LinkError, RefusedError
from airdraft.models.base import OneByOne
from airdraft.models.files.folder import shipped
from airdraft.models.registry import load
from airdraft.models.text import Tokenizer

from ..e2e.processes import airdraft, announced, started
from ..pairs import renamed

NOBODY = "ws://127.0.0.1:9"


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target of a vocabulary that no draft has."""
    return renamed("target", tmp_path_factory.mktemp("other") / "other")


@pytest.fixture(scope="module")
def edges(other: Path) -> Iterator[dict[str, str]]:
    """Edges by the vocabulary that their target has; those of no chat serve the shipped target."""
    model, chats = load("target")[0], load("chat-draft")[0]
    folders = {"draft": shipped("target"), "chat-draft": shipped("chat-draft"), "other": other}
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    servers = {}
    try:
        for name, folder in folders.items():
            tokenizer = Tokenizer(folder)
            servers[name] = EdgeServer(
                OneByOne(chats if name == "chat-draft" else model), tokenizer.digest, tokenizer.vocab_size
            )
            asyncio.run_coroutine_threadsafe(servers[name].start("127.0.0.1", 0), loop).result(30)
        yield {name: f"ws://127.0.0.1:{server.port}" for name, server in servers.items()}
        for server in servers.values():
            asyncio.run_coroutine_threadsafe(server.close(), loop).result(30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.mark.parametrize("name", ["draft", "chat-draft"])
def test_an_edges_vocabulary_chooses(edges: dict[str, str], name: str) -> None:
    assert asyncio.run(draft_at([edges[name]])) == name
    assert asyncio.run(draft_at([NOBODY, edges[name]], default="x")) == name


def test_a_vocabulary_that_no_draft_has(edges: dict[str, str]) -> None:
    with pytest.raises(RefusedError, match=r"another vocabulary .* --draft none --tokenizer MODEL") as caught:
        asyncio.run(draft_at([edges["other"]]))
    assert caught.value.code == "vocabulary"


def test_no_edge_answers() -> None:
    assert asyncio.run(draft_at([NOBODY, NOBODY], default="x")) == "x"


def test_a_model_here_chooses(other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [draft_for(name) for name in ("target", "draft", "chat-draft")] == ["draft", "draft", "chat-draft"]
    assert capsys.readouterr().err == ""
    assert draft_for(str(other)) == "none"
    line = capsys.readouterr().err
    assert line.startswith(f"airdraft: no draft that ships has the vocabulary of {other}")
    assert line.count("\n") == 1


@pytest.mark.slow
def test_a_device_takes_the_draft_of_its_edges_target(edges: dict[str, str]) -> None:
    with started("device", "--edge", edges["chat-draft"], "--port", "0", "--json") as device:
        told = announced(device)
        assert told["edge"] == edges["chat-draft"]
        # The start line says what the edge has told of its target.
        assert told["exactness"] == {"batch": None, "width": None, "company": None, "prompts": "exact"}
    code, _, line = airdraft("device", "--edge", edges["other"], "--port", "0", "--json")
    assert (code, line.count("\n")) == (2, 1)
    assert "name a draft model with the target's own tokenizer" in line


@pytest.mark.parametrize("name", [pytest.param("draft", marks=pytest.mark.slow), "chat-draft"])
@pytest.mark.slow
def test_a_client_takes_the_draft_of_its_edges_target(edges: dict[str, str], name: str) -> None:
    digest = Tokenizer(shipped(name)).digest
    with Client(edges[name]) as client:
        assert client.tokenizer.digest == digest

    async def awaited() -> bytes:
        client = AsyncClient(edges[name])
        with pytest.raises(LinkError, match="the draft is chosen when the client connects"):
            client.tokenizer  # noqa: B018
        async with client:
            return client.tokenizer.digest

    assert asyncio.run(awaited()) == digest


def test_a_client_whose_edge_has_a_vocabulary_that_no_draft_has(edges: dict[str, str]) -> None:
    with pytest.raises(RefusedError, match="name one that has, draft=MODEL, or take none, draft=None"):
        Client(edges["other"])
    with pytest.raises(LinkError):
        Client(NOBODY)


@pytest.mark.slow
def test_a_probe_takes_the_draft_of_its_edges_target(edges: dict[str, str]) -> None:
    code, out, line = airdraft("plan", "--probe", edges["chat-draft"], "--json")
    assert (code, line) == (0, "")
    assert json.loads(out)["measured"]["vocab_size"] == Tokenizer(shipped("chat-draft")).vocab_size
    code, _, line = airdraft("plan", "--probe", edges["other"])
    assert (code, line.count("\n")) == (2, 1)


@pytest.mark.slow
def test_a_run_without_a_draft_that_fits_is_written_by_the_edge(other: Path) -> None:
    words = ("run", "def f(x):", "--json", "--max-tokens", "8")
    code, out, line = airdraft(*words, "--target", str(other))
    assert code == 0
    assert line.startswith("airdraft: no draft that ships")
    own = airdraft(*words)
    assert (own[0], own[2]) == (0, "")
    record = json.loads(out)
    assert (record["scheme"], record["drafted"], record["ids"]) == ("server", 0, json.loads(own[1])["ids"])


@pytest.mark.parametrize(
    "words",
    [("--target", "target"), pytest.param(("--target", "target", "--draft", "draft"), marks=pytest.mark.slow)],
)
def test_a_question_to_a_model_that_has_no_template(words: tuple[str, ...]) -> None:
    code, out, line = airdraft("run", "--chat", "Why is the sky blue?", *words)
    assert (code, out) == (2, "")
    assert line.startswith("airdraft: target has no chat template; name a chat model")
