"""Heads that score more than the tokenizer has tokens, as Qwen2.5's do: two models that differ in that alone share a
vocabulary, and no row beyond it is ever chosen, whoever has more of them and whatever the scheme.

The padding here is loud: its rows are the highest of all, so a single one that counted would show.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from airdraft.core.events import Committed
from airdraft.core.messages import SchemeSpec
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams
from airdraft.core.schemes import SCHEMES, traits
from airdraft.device.client import EdgeConnection
from airdraft.edge.server import EdgeServer
from airdraft.models.base import TargetEngine
from airdraft.models.files.folder import shipped
from airdraft.models.registry import load, load_target
from airdraft.models.text import Tokenizer
from airdraft.sim import alone

onnx = pytest.importorskip("onnx", reason="writing ONNX files takes the onnx package")

from ..suites import mostly_slow  # noqa: E402
from .graphs import Shape, write_decoder  # noqa: E402

TOKENS = 4096
PADDED = {"bare": 0, "some": 64, "more": 192}
HOST = "127.0.0.1"
GREEDY, WARM, NARROW = SamplingParams(0.0), SamplingParams(1.0), SamplingParams(0.8, top_k=20, top_p=0.9)
LENGTH = 24
SIMILAR = (("more", "bare"), ("some", "more"))
"""Who has less padding, or more: as other pairs, which run often."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Of a draft and a target, each without padding and with two sizes of it; all else is equal."""
    made = {}
    for which, seed in (("draft", 1), ("target", 1)):
        bare = write_decoder(tmp_path_factory.mktemp(which), Shape(vocab=TOKENS, context=256, seed=seed))
        shutil.copy(shipped("target") / "tokenizer.json", bare)
        if which == "draft":
            _change(bare, bare, 0, noise=0.3)
        for name, extra in PADDED.items():
            out = tmp_path_factory.mktemp(f"{which}-{name}") / "model"
            made[which, name] = _change(bare, out, extra) if extra else bare
    return made


def _change(source: Path, out: Path, extra: int, noise: float = 0.0) -> Path:
    """The model with `extra` rows of padding in its head, or with noise on it, so that it resembles the other."""
    if out != source:
        shutil.copytree(source, out)
    model = onnx.load(source / "model.onnx")
    random = np.random.default_rng(7)
    for tensor in model.graph.initializer:
        value = onnx.numpy_helper.to_array(tensor)
        if value.shape == (TOKENS, 32):  # embeddings
            value = np.concatenate([value, np.zeros((extra, 32), np.float32)])
        elif value.shape == (32, TOKENS):  # head
            loud = 100 * random.standard_normal((32, extra)).astype(np.float32)
            value = value + noise * value.std() * random.standard_normal(value.shape).astype(np.float32)
            value = np.concatenate([value, loud], axis=1)
        tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    [logits] = [output for output in model.graph.output if output.name == "logits"]
    logits.type.tensor_type.shape.dim[2].dim_value = TOKENS + extra
    onnx.save(model, out / "model.onnx")
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"vocab_size": TOKENS + extra}))
    return out


@cache
def _serving(target: Path) -> tuple[TargetEngine, Tokenizer]:
    return load_target(str(target))


async def _texts(draft: Path, target: Path, requests: list[Request]) -> list[list[int]]:
    """What an edge and a device write, each with its own folder."""
    (engine, words), (model, tokenizer) = _serving(target), load(str(draft))
    async with EdgeServer(engine, words.digest, words.vocab_size) as server:
        await server.start(HOST, 0)
        url = f"ws://{HOST}:{server.port}"
        async with await EdgeConnection.connect(url, model, tokenizer.digest, tokenizer.vocab_size) as client:
            found = []
            for request in requests:
                events = [event async for event in client.write(request) if isinstance(event, Committed)]
                found.append([token for event in events for token in event.tokens])
            return found


@cache
def _bare(draft: Path, target: Path, scheme: str) -> list[list[int]]:
    """What a pair without padding writes."""
    return asyncio.run(_texts(draft, target, _requests(scheme)))


def _requests(scheme: str) -> list[Request]:
    prompt = Tokenizer(shipped("target")).encode("def parse(text):\n")
    # Measured lengths of rounds would be others each time, and with them the texts of schemes that draw coins.
    length = 3 if traits(scheme).rounds else None
    logprobs = 2 if traits(scheme).exact == "text" else None
    return [
        Request(prompt, SchemeSpec(scheme), params, seed, LENGTH, draft_length=length, logprobs=logprobs)
        for seed, params in enumerate((GREEDY, WARM, NARROW))
    ]


def test_the_padding_is_loud(folders: dict[tuple[str, str], Path]) -> None:
    """Else the tests below could not fail."""
    for which in ("draft", "target"):
        model, tokenizer = load(str(folders[which, "more"]))
        assert (model.vocab_size, tokenizer.vocab_size) == (TOKENS + PADDED["more"], TOKENS)
        rows = model.forward(model.new_cache(), 0, [1, 2, 3, 4, 5], 5)
        assert (rows.argmax(-1) >= TOKENS).all()


@pytest.mark.parametrize("scheme", mostly_slow(SCHEMES, often=("topk", "stream")))
@pytest.mark.parametrize(
    ("draft", "target"),
    [("bare", "more"), ("more", "some"), *(pytest.param(*each, marks=pytest.mark.slow) for each in SIMILAR)],
)
def test_every_scheme_writes_as_without_padding(
    folders: dict[tuple[str, str], Path], scheme: str, draft: str, target: str
) -> None:
    requests = _requests(scheme)
    padded = asyncio.run(_texts(folders["draft", draft], folders["target", target], requests))
    assert padded == _bare(folders["draft", "bare"], folders["target", "bare"], scheme)
    assert all(text and max(text) < TOKENS for text in padded)
    if traits(scheme).exact == "text":
        model, _ = load(str(folders["target", target]))
        for request, text in zip(requests, padded, strict=True):
            assert text == list(alone.write(model, request.prompt, request.params, request.seed, LENGTH, TOKENS))


def test_the_digest_is_of_the_tokenizer(folders: dict[tuple[str, str], Path]) -> None:
    assert len({load(str(folder))[1].digest for folder in folders.values()}) == 1


def test_ids_that_leave_a_gap(tmp_path: Path) -> None:
    """A tokenizer's ids may skip some: those after the gap are tokens all the same."""
    content = json.loads((shipped("target") / "tokenizer.json").read_text("utf-8"))
    content["model"]["vocab"]["after a gap"] = TOKENS + 10
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    assert Tokenizer(tmp_path).vocab_size == TOKENS + 11
