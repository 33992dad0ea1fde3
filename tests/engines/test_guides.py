"""Guides over engines elsewhere, which tell only their likeliest tokens: the target's own text.

An engine that cannot be asked for more, `cut`, refuses what it cannot tell. A real vLLM and a real llama-server can.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from airdraft.core.messages import GuideSpec, SchemeSpec
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams
from airdraft.device.writer import Writer
from airdraft.edge.server import EdgeServer, Service
from airdraft.errors import AirdraftError, BadParameterError, GuideError, RefusedError
from airdraft.guides import Bias, Guides, of_bias, of_choices, of_json, of_regex
from airdraft.guides.known import check_known, known
from airdraft.models.base import EngineInfo, FloatArray, OneByOne, Part, TargetEngine
from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.files.folder import shipped
from airdraft.models.registry import load_target
from airdraft.models.text import Tokenizer
from airdraft.sim import alone

from .conftest import Tmp, _llama_server

pytest.importorskip("llguidance")

SLOW = (pytest.mark.slow, pytest.mark.timeout(600))

Name = {
    "type": "object", "properties": {"name": {"type": "string", "maxLength": 20}}, "required": ["name"],
    "additionalProperties": False,
}  # fmt: skip
TOKENIZER = Tokenizer(shipped("target"))
GUIDES = Guides(TOKENIZER)
PROMPT = TOKENIZER.encode("def parse(line):\n    return ")
FORMS = {
    "letters": of_regex("[a-z_ .(),=]{30,60}"),
    "object": of_json({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}),
    "no digits": of_regex("[^0-9]{40,400}"),
    "improbable": of_regex("[qxzQXZ]{8,12}"),
    "choice": of_choices(["zebra", "quartz", "Xylophone 7"]),
    "name": of_json(Name),
}
PARAMS = {
    "greedy": SamplingParams(0.0), "two": SamplingParams(0.8, top_k=2),
    "0.7": SamplingParams(0.7, top_k=20), "1": SamplingParams(1.0, top_k=20, top_p=0.95),
}  # fmt: skip
SCHEMES = ("stream", "coupled", "server", "dense")
TOLD = {(name, "greedy") for name in ("letters", "object", "no digits", "name")} | {
    (name, "two") for name in ("no digits", "name")
}
"""What `cut` can write: of the others the likeliest tokens hold too few somewhere."""


@dataclass
class Cut:
    """An engine that tells of each row of another only so many tokens."""

    inner: OneByOne
    most: int

    @property
    def info(self) -> EngineInfo:
        return replace(self.inner.info, top_k=self.most)

    def new_cache(self) -> Any:
        return self.inner.new_cache()

    def verify(self, batch: list[Part]) -> list[FloatArray | AirdraftError]:
        found = list[FloatArray | AirdraftError]()
        for rows in self.inner.verify(batch):
            if isinstance(rows, AirdraftError):
                found.append(rows)
                continue
            found.append(rows.copy())
            for row in found[-1]:  # type: ignore[union-attr]
                row[np.argsort(-row, kind="stable")[self.most :]] = -np.inf
        return found


@contextmanager
def _cut(_: Tmp) -> Iterator[TargetEngine]:
    yield Cut(OneByOne(OnnxModel(shipped("target"))), 20)  # type: ignore[misc]


@contextmanager
def _vllm(request: pytest.FixtureRequest) -> Iterator[TargetEngine]:
    found: Any = load_target("target", engine="vllm", urls=[request.getfixturevalue("vllm_url")])[0]
    if request.param == NARROW:
        found._widest = found.info.top_k
    yield found


NARROW = "vllm-narrow"
"""A vLLM that tells no more of the likeliest tokens than each row has: others are drawn."""


@pytest.fixture(
    scope="module", params=["cut", *(pytest.param(name, marks=SLOW) for name in ("llamaserver", "vllm", NARROW))]
)
def engine(request: pytest.FixtureRequest, tmp_path_factory: Tmp) -> Iterator[TargetEngine]:
    made: dict[str, Any] = {"cut": _cut, "llamaserver": _llama_server}
    with made.get(request.param, lambda _: _vllm(request))(tmp_path_factory) as found:
        yield found


def text_of(asked: Request, engine: TargetEngine) -> list[int] | AirdraftError:
    """What a device with the shipped draft gets from an edge with this engine."""

    async def write() -> list[int]:
        service = Service(reader=GUIDES)
        async with EdgeServer(engine, TOKENIZER.digest, TOKENIZER.vocab_size, service=service) as server:
            await server.start("127.0.0.1", 0)
            url = f"ws://127.0.0.1:{server.port}"
            async with Writer(
                [url], OnnxModel(shipped("draft")), TOKENIZER.digest, TOKENIZER.vocab_size, reader=GUIDES,
                offline="error",
            ) as writer:  # fmt: skip
                found = list[int]()
                async for event in writer.write(asked):
                    found += getattr(event, "tokens", ())
                return found

    try:
        return asyncio.run(write())
    except AirdraftError as error:
        return error


def own(spec: GuideSpec, params: SamplingParams, seed: int, most: int) -> list[int]:
    """What the target alone writes, which has whole rows."""
    model = OnnxModel(shipped("target"))
    guide = GUIDES.make(spec, model.eos_ids)
    return list(alone.write(model, PROMPT, params, seed, most, TOKENIZER.vocab_size, guide))


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("law", PARAMS)
def test_a_guided_text_is_the_targets_own(
    engine: TargetEngine, name: str, law: str, request: pytest.FixtureRequest
) -> None:
    if NARROW in request.node.name and name == "letters" and PARAMS[law].top_k == 20:
        pytest.skip("of 3,000 tokens that are allowed, up to 20 would be drawn one after the other, at each place")
    spec, params, refused = FORMS[name], PARAMS[law], 0
    schemes = SCHEMES if law == "greedy" else SCHEMES[:-1]
    for seed in range(3 if isinstance(engine, Cut) else 1):
        true = own(spec, params, seed, 24)
        for scheme in schemes if isinstance(engine, Cut) else {schemes[0], schemes[-1]}:
            found = text_of(Request(PROMPT, SchemeSpec(scheme), params, seed, 24, guide=spec), engine)
            if isinstance(found, AirdraftError):
                assert isinstance(found, RefusedError | GuideError)
                assert "the engine tells" in str(found), found
                refused += 1
            else:
                assert found == true, (name, law, scheme, seed)
    assert bool(refused) == (isinstance(engine, Cut) and (name, law) not in TOLD), refused


def test_penalties_are_refused(engine: TargetEngine) -> None:
    spec = of_bias(Bias(frequency_penalty=1.0, guide=FORMS["letters"]))
    found = text_of(Request(PROMPT, SchemeSpec("stream"), PARAMS["two"], 1, 8, guide=spec), engine)
    assert isinstance(found, RefusedError)
    assert found.code == "guide"
    assert str(found).startswith("the guide has penalties or biases")


@pytest.mark.parametrize("needed", [1, 2, 5])
def test_a_row_is_taken_exactly_if_it_tells_enough(needed: int) -> None:
    """A cut row and the whole one give one distribution, or the cut one is refused."""
    rng, guide = np.random.default_rng(3), GUIDES.make(of_regex("[a-e]+"), (0,))
    params = SamplingParams(0.0) if needed == 1 else SamplingParams(1.0, top_k=needed)
    allowed = guide.allowed()
    assert allowed is not None
    taken = 0
    for most in (1, 3, 40, 400, 4000):
        whole = np.where(allowed, rng.normal(size=allowed.size), -np.inf).astype(np.float32)
        scores = np.where(np.isfinite(whole), whole, rng.normal(size=allowed.size))
        cut = np.where(scores >= np.sort(scores)[-most], whole, -np.inf).astype(np.float32)
        told = np.isfinite(cut).sum()
        if told >= min(needed, allowed.sum()):
            best = np.argsort(-whole)[:needed]
            assert set(best) <= set(np.flatnonzero(np.isfinite(known(guide, params).bent(cut))))
            taken += 1
        else:
            with pytest.raises(GuideError, match="likeliest of them the engine tells"):
                known(guide, params).bent(cut)
    assert 0 < taken < 5


def test_a_mistake_says_what_to_do() -> None:
    with pytest.raises(BadParameterError, match="leave them out"):
        check_known(GuideSpec("biased", json.dumps({})))
