"""airdraft as a library: the clients of the package, against an edge that serves the shipped target."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import pytest

import airdraft
from airdraft.client import Committed, Corrected, Finished, Unverified
from airdraft.core.sampling import SamplingParams
from airdraft.errors import BadParameterError, LinkError, ModelError
from airdraft.sim import alone

from .edge.loopback import run
from .edge.threaded import Edge, shipped

PROMPT = "def parse(text):\n"


@cache
def truth(seed: int = 0, temperature: float = 0.7, most: int = 40) -> tuple[int, ...]:
    target, tokenizer = shipped("target")
    params = SamplingParams(temperature)
    return tuple(alone.write(target, tokenizer.encode(PROMPT), params, seed, most, vocab_size=tokenizer.vocab_size))


def text(*args: Any, **options: Any) -> str:
    return shipped("target")[1].decode(truth(*args, **options))


@pytest.fixture
def edge() -> Iterator[Edge]:
    edge = Edge()
    try:
        edge.start()
        yield edge
    finally:
        edge.end()


@pytest.fixture
def client(edge: Edge) -> Iterator[airdraft.Client]:
    before = ours()
    with airdraft.Client(edge.url) as client:
        yield client
    assert ours() <= before


def ours() -> set[threading.Thread]:
    """What clients have started."""
    return {thread for thread in threading.enumerate() if thread.name.startswith(("airdraft client", "draft"))}


def test_a_text_in_pieces_is_the_targets_own(client: airdraft.Client) -> None:
    pieces = list(client.stream(PROMPT, max_tokens=40))
    assert len(pieces) > 1  # how many tokens come at once is the machine's affair
    assert "".join(pieces) == text()
    assert "".join(client.stream(shipped("target")[1].encode(PROMPT), max_tokens=40)) == text()


def test_without_a_draft_the_edge_writes_and_texts_survive(edge: Edge) -> None:
    tokenizers = (None, "target", shipped("target")[1])
    for tokenizer in tokenizers:
        with airdraft.Client(edge.url, draft=None, tokenizer=tokenizer) as client:
            for scheme in ("auto", "server"):
                found = client.complete(PROMPT, max_tokens=20, scheme=scheme)
                assert (found.tokens, found.counts.drafted) == (truth(most=20), 0)
            with pytest.raises(BadParameterError, match="scheme stream drafts, and there is no draft model"):
                client.complete(PROMPT, scheme="stream")

    edge.writing.clear()
    with airdraft.Client(edge.url, draft=None) as client:
        pieces, stream = list[str](), client.stream(PROMPT, max_tokens=40)
        for piece in stream:
            pieces.append(piece)
            if len(pieces) == 3:
                edge.kill()
                edge.start()
        assert "".join(pieces) == text()


def test_a_device_without_a_draft_copies_when_asked(edge: Edge) -> None:
    target, tokenizer = shipped("target")
    prompt = "def parse(text):\n    return text.split()\n\n\ndef parse(text):\n"
    params = SamplingParams(0.0)
    own = tuple(alone.write(target, tokenizer.encode(prompt), params, 0, 40, vocab_size=tokenizer.vocab_size))
    for draft in (None, "draft"):
        with airdraft.Client(edge.url, draft=draft, lookup=True) as client:
            for scheme in ("auto", "stream", "coupled", "split"):
                found = client.complete(prompt, max_tokens=40, temperature=0.0, scheme=scheme)
                assert found.tokens == own
                assert found.counts.drafted > 0 or scheme == "auto"  # which may leave all of it to the edge
    with pytest.raises(BadParameterError, match="lookup is 'yes'; give a bool"):
        airdraft.Client(edge.url, lookup="yes")  # type: ignore[arg-type]


class Shirt(msgspec.Struct):
    """What a text may be read as."""

    colour: Literal["red", "green", "blue"]
    size: Annotated[int, msgspec.Meta(ge=1, le=9)]
    tags: Annotated[list[Literal["new", "old"]], msgspec.Meta(max_length=2)] = []


class Odd(msgspec.Struct):
    """A type that asks for more than its schema says."""

    size: Literal[2, 4]

    def __post_init__(self) -> None:
        raise ValueError("it is even")


def test_a_text_is_of_the_type_that_was_asked_for(edge: Edge) -> None:
    with airdraft.Client(edge.url) as client:
        found = [client.complete(PROMPT, schema=Shirt, temperature=1.0, seed=seed).value for seed in range(4)]
        assert all(isinstance(each, Shirt) for each in found), found
        colour = client.complete(PROMPT, schema={"enum": ["red", "blue"]}, temperature=1.0, seed=0)
        assert colour.value in ("red", "blue")
        text = client.complete(PROMPT, schema=Shirt, temperature=1.0, seed=0)
        assert text.value == found[0] == msgspec.json.decode(text.text, type=Shirt)
        assert "".join(client.stream(PROMPT, schema=Shirt, temperature=1.0, seed=0)) == text.text
        assert client.complete(PROMPT, schema=Shirt, max_tokens=2).value is None
        with pytest.raises(BadParameterError, match="give a type of msgspec or pydantic, or a schema"):
            client.complete(PROMPT, schema=3)
        with pytest.raises(ModelError, match="its type refuses it"):
            client.complete(PROMPT, schema=Odd)


class Knowing:
    """A drafter that proposes a known text from where its own agrees with it, right or wrong at the end."""

    known: ClassVar[list[int]] = []

    def want(self, text: Sequence[int], drafts: Sequence[int], most: int, at: object = None) -> Sequence[int]:
        end = len(text) + len(drafts)
        return self.known[end : end + most] if [*text, *drafts] == self.known[:end] else ()

    def told(self, row: object) -> Sequence[int]:
        return ()

    def cut(self, at: int) -> None:
        pass


def test_a_drafter_of_ones_own_drafts_in_the_place_of_the_usual_ones(edge: Edge) -> None:
    target, tokenizer = shipped("target")
    prompt = tokenizer.encode(PROMPT)
    texts = (
        list(alone.write(target, prompt, SamplingParams(0.7), seed, 40, vocab_size=tokenizer.vocab_size))
        for seed in range(3, 50)
    )
    seed, own = next((seed, each) for seed, each in enumerate(texts, 3) if len(each) == 40)
    Knowing.known = [*prompt, *own[:20], *reversed(own[20:])]
    for draft in (None, "draft"):
        with airdraft.Client(edge.url, draft=draft, drafter=Knowing) as client:
            for options in ({}, {"scheme": "coupled", "draft_length": 4}):
                found = client.complete(PROMPT, max_tokens=40, temperature=0.7, seed=seed, **options)
                assert list(found.tokens) == own
                assert found.counts.draft_rows == 0
                assert not options or found.counts.accepted >= 14
    with pytest.raises(BadParameterError, match="drafter is 'mine'; give an object with __call__"):
        airdraft.Client(edge.url, drafter="mine")  # type: ignore[arg-type]


def test_without_a_draft_there_is_nothing_to_show_offline(edge: Edge) -> None:
    with pytest.raises(BadParameterError, match="there is no draft model to write meanwhile"):
        airdraft.Client(edge.url, draft=None, offline="draft")
    with pytest.raises(BadParameterError, match="tokenizer is given, and the draft has one"):
        airdraft.Client(edge.url, tokenizer="target")
    with pytest.raises(BadParameterError, match="tokenizer is no name"):
        airdraft.Client(edge.url, draft=None, tokenizer=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("scheme", ["auto", "stream", "coupled", "server"])
def test_a_text_as_a_whole(client: airdraft.Client, scheme: str) -> None:
    found = client.complete(PROMPT, max_tokens=40, seed=5, scheme=scheme)
    assert (found.tokens, found.text, str(found)) == (truth(5), text(5), text(5))
    assert found.reason == ("stop" if truth(5)[-1] in shipped("target")[0].eos_ids else "length")
    assert found.counts.committed == len(truth(5))
    length = None if scheme == "auto" else 3
    greedy = client.complete(PROMPT, max_tokens=40, temperature=0, scheme=scheme, draft_length=length)
    assert greedy.tokens == truth(0, 0.0)


def test_log_probabilities_come_with_a_text(edge: Edge, client: airdraft.Client) -> None:
    """Of every token once, though the edge dies amid the text."""
    found = client.complete(PROMPT, max_tokens=40, logprobs=2)
    assert found.tokens == truth()
    assert tuple(each.token for each in found.logprobs) == truth()
    assert all(each.logprob <= each.top[0][1] <= 0 and len(each.top) == 2 for each in found.logprobs)
    assert client.complete(PROMPT, max_tokens=8).logprobs == ()
    told, died = [], False
    for event in client.events(PROMPT, max_tokens=40, logprobs=0, scheme="server"):
        told += event.logprobs if isinstance(event, Committed) else ()
        if len(told) > 5 and not died:
            died = True
            edge.kill()
            edge.start()
    assert tuple(each.token for each in told) == truth()
    expected = pytest.approx([each.logprob for each in found.logprobs], abs=1e-3)
    assert [each.logprob for each in told] == expected


def test_several_threads_write_at_once(client: airdraft.Client) -> None:
    found: dict[int, str] = {}

    def write(seed: int) -> None:
        found[seed] = "".join(client.stream(PROMPT, max_tokens=40, seed=seed))

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {seed: text(seed) for seed in range(4)}


def test_an_edge_that_dies_and_comes_back_is_not_noticed(edge: Edge, client: airdraft.Client) -> None:
    pieces = []
    for at, piece in enumerate(client.stream(PROMPT, max_tokens=40, scheme="server")):
        pieces.append(piece)
        if at == 5:
            edge.kill()
            assert client.state.startswith(("away", "connected"))
            edge.start()
    assert "".join(pieces) == text()


def test_an_error_comes_where_the_text_is_read(edge: Edge) -> None:
    with airdraft.Client([edge.url], offline="error") as client:
        with pytest.raises(BadParameterError, match="max-tokens"):
            client.complete(PROMPT, max_tokens=0)
        with pytest.raises(BadParameterError, match="scheme 'nope'"):
            list(client.stream(PROMPT, scheme="nope"))
        with pytest.raises(TypeError, match="max_token"):
            client.complete(PROMPT, max_token=1)  # type: ignore[call-arg]
        edge.held = True
        pieces = client.stream(PROMPT, max_tokens=1000, temperature=0, scheme="server")
        begin = [next(pieces) for _ in range(3)]
        edge.kill()
        with pytest.raises(LinkError, match="no edge answers"):
            begin += pieces
        edge.start()
        assert client.complete(PROMPT, max_tokens=40).tokens == truth()


def test_a_client_that_cannot_be_made() -> None:
    before = ours()
    with pytest.raises(LinkError, match="no edge answers at ws://127"):
        airdraft.Client("ws://127.0.0.1:9")
    with pytest.raises(LinkError, match="is no address"):
        airdraft.Client("nonsense")
    with pytest.raises(ModelError, match="no model 'nope'"):
        airdraft.Client("ws://127.0.0.1:9", draft="nope")
    with pytest.raises(BadParameterError, match="offline is 'maybe'"):
        airdraft.Client("ws://127.0.0.1:9", offline="maybe")  # type: ignore[arg-type]
    assert ours() <= before


def test_a_text_left_in_its_midst_is_given_up_and_the_client_goes_on(client: airdraft.Client) -> None:
    for piece in client.stream(PROMPT, max_tokens=1000, scheme="server"):
        assert piece
        break
    unused = client.stream(PROMPT)
    assert client.complete(PROMPT, max_tokens=40).tokens == truth()
    del unused


def test_closing_ends_what_other_threads_write(edge: Edge, client: airdraft.Client) -> None:
    edge.held = True
    errors: list[Exception] = []
    begun = threading.Event()

    def write() -> None:
        try:
            for _ in client.stream(PROMPT, max_tokens=1000, temperature=0, scheme="server"):
                begun.set()
        except LinkError as error:
            errors.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    assert begun.wait(60)
    client.close()
    thread.join(60)
    assert "closed" in str(errors[0])
    with pytest.raises(LinkError, match="make another"):
        client.complete(PROMPT)
    with pytest.raises(LinkError, match="make another"):
        next(iter(client.stream(PROMPT)))
    client.close()


@pytest.mark.parametrize("away", [False, True])
@pytest.mark.parametrize("way", ["stream", "complete"])
def test_ctrl_c_ends_a_wait(edge: Edge, client: airdraft.Client, away: bool, way: str) -> None:
    if away:
        edge.kill()
    timer = threading.Timer(0.4, os.kill, (os.getpid(), signal.SIGINT))
    began = time.perf_counter()

    def write() -> None:
        timer.start()
        while True:
            list(client.stream(PROMPT, max_tokens=900)) if way == "stream" else client.complete(PROMPT, max_tokens=900)

    with pytest.raises(KeyboardInterrupt):
        write()
    timer.join()
    client.close()
    assert time.perf_counter() - began < 40  # without an edge a text waits for a minute


def test_offline_from_the_start(edge: Edge) -> None:
    edge.kill()
    shown: list[int] = []
    committed: list[int] = []
    kinds, away = set(), True
    with airdraft.Client(edge.url, offline="draft") as client:
        begin = len(client.tokenizer.encode(PROMPT))
        for event in client.events(PROMPT, max_tokens=40):
            kinds.add(type(event))
            if isinstance(event, Unverified):
                assert not committed
                shown += event.tokens
                if away and (len(shown) >= 12 or event.ended):
                    away = False
                    edge.start()
            elif isinstance(event, Corrected):
                del shown[event.position - begin :]
            elif isinstance(event, Committed):
                committed += event.tokens
                shown[: len(committed)] = committed
    assert kinds == {Unverified, Corrected, Committed, Finished}
    assert tuple(committed) == truth()
    assert tuple(shown) == truth()


def test_the_asynchronous_client(edge: Edge) -> None:
    async def main() -> None:
        async with airdraft.AsyncClient(edge.url, draft=shipped("draft")) as client:
            assert client.state == f"connected to {edge.url}"

            async def write(seed: int) -> str:
                return "".join([piece async for piece in client.stream(PROMPT, max_tokens=40, seed=seed)])

            assert await asyncio.gather(write(0), write(1)) == [text(0), text(1)]
            assert (await client.complete(PROMPT, max_tokens=40)).tokens == truth()
            async with contextlib.aclosing(client.stream(PROMPT, max_tokens=900)) as pieces:
                async for _ in pieces:
                    break
        edge.kill()
        with pytest.raises(LinkError, match="no edge answers"):
            async with airdraft.AsyncClient(edge.url, draft=shipped("draft")):
                pass

    run(main)


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert airdraft.__version__ == project["version"]


def test_importing_the_package_imports_nothing_heavy_nor_does_help() -> None:
    heavy = {"numpy", "onnxruntime", "websockets", "tokenizers", "asyncio"}
    program = (
        f"import sys, airdraft; airdraft.__version__; found = {heavy!r} & set(sys.modules); assert not found, found\n"
        "from airdraft.cli import app; app(['--help'], standalone_mode=False)\n"
        "assert not {'numpy', 'onnxruntime', 'airdraft.cli.run'} & set(sys.modules)\n"
        "import airdraft.cli.edge; assert 'uvicorn' not in sys.modules\n"
        "assert airdraft.Client.__module__ == 'airdraft.client'\n"
        "from airdraft import AsyncClient, Text\n"
    )
    source = str(Path(airdraft.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": source}, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = airdraft.nope


def test_private_prompts(client: airdraft.Client) -> None:
    """The text is the same, wherever it begins to be private."""
    for private in (True, len(PROMPT) - 2, False):
        assert client.complete(PROMPT, max_tokens=40, private=private).text == text()
    for wrong in (-1, len(PROMPT), 0.5):
        with pytest.raises(BadParameterError, match="private") as refused:
            client.complete(PROMPT, private=wrong)  # type: ignore[arg-type]
        assert refused.value.field == "private"
    with pytest.raises(BadParameterError, match="no place in a prompt of 2"):
        client.complete([1, 2], private=2)
