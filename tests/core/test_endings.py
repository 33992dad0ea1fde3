"""The end of a text, and its resumption: end-of-text tokens, limits, contexts."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from airdraft.core.edge import Limits
from airdraft.core.events import Committed
from airdraft.core.messages import SchemeSpec, Verdict
from airdraft.core.sampling import SamplingParams
from airdraft.errors import BadParameterError
from airdraft.sim import alone
from airdraft.sim.conformance import TableModel
from airdraft.sim.pair import Pair

from .tables import SPECS, DeviceSide, EdgeSide, alike, drafting, hello, opening, request, table, welcome

SHARED = ["server", "coupled"]  # what is written is known in advance, token for token


def script(*tokens: int, vocab: int = 5, eos_ids: tuple[int, ...] = (4,), context: int = 64) -> TableModel:
    """Make a model that writes `tokens` after a prompt of two, and then 0."""

    def row(prefix: tuple[int, ...]) -> np.ndarray:
        at = len(prefix) - 2
        return np.eye(vocab, dtype=np.float32)[tokens[at] if 0 <= at < len(tokens) else 0] * 50

    return TableModel(row, vocab, context, eos_ids)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize(
    ("draft", "accepted"), [(script(1, 2, 4), 3), (script(1, 2, 3), 2)], ids=["accepted", "recovered"]
)
def test_an_end_of_text_token_ends_the_text(spec: SchemeSpec, draft: TableModel, accepted: int) -> None:
    text = Pair(draft, script(1, 2, 4)).write(request(spec, draft_length=3))
    assert (text.tokens, text.reason) == ([1, 2, 4], "stop")
    if spec.name != "server":
        assert text.counts.accepted == accepted


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_the_bonus_may_be_the_end_of_the_text(spec: SchemeSpec) -> None:
    text = Pair(script(1, 2, 4), script(1, 2, 4)).write(request(spec, draft_length=2))
    assert (text.tokens, text.reason) == ([1, 2, 4], "stop")
    if spec.name != "server":
        assert text.commits == [Committed(1, (1, 2, 4), 2, "bonus")]


def test_nothing_is_drafted_past_the_end_of_text() -> None:
    device = DeviceSide(script(1, 4, 1, 1, 1), welcome())
    _, draft = device.open(request(draft_length=5))
    assert draft.count == 2  # type: ignore[attr-defined]


def test_a_hostile_device_cannot_get_tokens_past_the_end_of_text() -> None:
    edge = EdgeSide(script(1, 4, 3, 2, 1))
    *_, verdict = edge.send(hello(), opening(), drafting((0, 1), (1, 4, 3, 2)))
    assert isinstance(verdict, Verdict)
    assert (verdict.accepted, verdict.token, verdict.committed) == (2, None, 4)
    (error,) = edge.send(drafting((0, 1, 1, 4), (0,), seq=2))
    assert error.code == "state"  # type: ignore[attr-defined]


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_text_has_exactly_the_tokens_asked_for(spec: SchemeSpec) -> None:
    target = table(2)
    pair = Pair(alike(target, 3, 0.2), target, limits=Limits(max_draft=4))
    for draft_length, max_tokens, seed in product((0, 1, 2, 5, 99), (1, 2, 3, 7), range(2)):
        asked = request(spec, seed=seed, max_tokens=max_tokens, draft_length=draft_length)
        text = pair.write(asked)
        assert (len(text.tokens), text.reason) == (max_tokens, "length"), asked
        assert asked.counts.committed == max_tokens
        assert asked.counts.drafted <= asked.counts.rounds * min(4, draft_length)
        if spec.name in SHARED:
            assert text.tokens == list(alone.write(target, (0, 1), SamplingParams(), seed, max_tokens))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_text_ends_where_the_targets_context_does(spec: SchemeSpec) -> None:
    for context in (3, 4, 6):
        target = table(2, context=context)
        text = Pair(table(1), target).write(request(spec, max_tokens=50))
        assert (len(text.tokens), text.reason) == (context - 2, "length")
        if spec.name in SHARED:
            assert text.tokens == list(alone.write(target, (0, 1), SamplingParams(), 7, 50))


def test_a_prompt_that_fills_the_context_is_refused() -> None:
    pair = Pair(table(1), table(2, context=4))
    with pytest.raises(BadParameterError, match="the target's context is 4"):
        pair.write(request(prompt=(0, 1, 2, 3)))
    assert len(pair.write(request(prompt=(0, 1, 2))).tokens) == 1


class Strict(TableModel):
    """A table that refuses more positions than its context, as real models do."""

    longest = 0

    def forward(self, cache: list[int], keep: int, tokens: object, rows: int) -> np.ndarray:
        out = super().forward(cache, keep, tokens, rows)  # type: ignore[arg-type]
        self.longest = max(self.longest, len(cache))
        assert self.longest <= self.max_context
        return out


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_draft_model_with_a_small_context_only_stops_drafting(spec: SchemeSpec) -> None:
    target = table(2, context=20)
    for context in (1, 2, 3, 5, 8):
        draft = Strict(alike(target, 3, 0.2).row, 5, context)
        text = Pair(draft, target).write(request(spec, max_tokens=10))
        assert len(text.tokens) == 10, f"a context of {context}"
        if spec.name in SHARED:
            assert text.tokens == list(alone.write(target, (0, 1), SamplingParams(), 7, 10))


@pytest.mark.parametrize("name", SHARED)
def test_a_text_resumed_anywhere_equals_the_uninterrupted_one(name: str) -> None:
    target = table(2, vocab=30)
    draft = alike(target, 3)
    for seed in range(8):
        whole = Pair(draft, target).write(request(SPECS[name], seed=seed, max_tokens=12)).tokens
        assert whole == list(alone.write(target, (0, 1), SamplingParams(), seed, 12))
        for cut in range(12):
            head = tuple(whole[:cut])
            rest = Pair(draft, target).write(request(SPECS[name], seed=seed, max_tokens=12, committed=head))
            assert whole[:cut] + rest.tokens == whole


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_resumed_text_still_has_the_tokens_asked_for(spec: SchemeSpec) -> None:
    text = Pair(table(1), table(2)).write(request(spec, max_tokens=9, committed=(1, 2, 3)))
    assert (len(text.tokens), text.reason) == (6, "length")


@pytest.mark.parametrize("committed", [(1, 2, 3), (1, 2, 3, 0), (4,)])
def test_a_complete_text_is_not_resumed(committed: tuple[int, ...]) -> None:
    pair = Pair(table(1, eos_ids=(4,)), table(2, eos_ids=(4,)))
    with pytest.raises(BadParameterError, match="nothing is left to write"):
        pair.write(request(max_tokens=3, committed=committed))


@pytest.mark.parametrize(
    "bad",
    [
        {"prompt": ()},
        {"prompt": (0, 5)},
        {"prompt": (-1,)},
        {"committed": (9,)},
        {"max_tokens": 0},
        {"draft_length": -1},
        {"seed": -1},
        {"seed": 1 << 63},
        {"scheme": SchemeSpec("nothing")},
        {"scheme": SchemeSpec("topk", k=-1)},
        {"scheme": SchemeSpec("topk", bits=25)},
        {"scheme": SchemeSpec("split", downlink="pigeon")},
    ],
)
def test_a_request_that_cannot_be_served_is_refused_before_anything_is_sent(bad: dict[str, object]) -> None:
    device = DeviceSide(table(1), welcome())
    with pytest.raises(BadParameterError):
        device.open(request(**bad))  # type: ignore[arg-type]
    assert device.machine.take() == b""


def test_a_prompt_longer_than_a_frame_is_refused() -> None:
    device = DeviceSide(table(1), welcome(max_frame=100, max_context=4096))
    with pytest.raises(BadParameterError, match="the edge takes 100"):
        device.open(request(prompt=(0,) * 1000))


def test_drafts_are_no_longer_than_a_frame_holds() -> None:
    """Dense rows are long. Eight of 300 tokens would not pass an edge that takes frames of 2000 bytes."""
    target = table(2, vocab=300)
    pair = Pair(alike(target, 3, 0.1), target, limits=Limits(max_frame=2000))
    asked = request(SPECS["dense"], draft_length=8)
    assert pair.write(asked).reason == "length"
    assert 0 < asked.counts.drafted <= 3 * asked.counts.rounds


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_padded_vocabulary_is_cut_to_its_tokens(spec: SchemeSpec) -> None:
    """Many models score more columns than the tokenizer has tokens, even likely ones. No such id is ever written."""
    edge = EdgeSide(table(2, vocab=9, scale=0.1), run=True)
    target = table(2, vocab=9, scale=0.1)
    edge.machine._target = type(edge.machine._target)("test", "target", bytes(16), 5, 64, ())
    device = DeviceSide(table(1, vocab=9, scale=0.1), run=True)
    device.machine._hello = hello(5)
    (greeting,) = edge.send(hello(5))
    device.send(greeting)
    device.events.clear()
    out = device.open(request(spec, seed=3, max_tokens=6))
    while out:
        out = device.send(*edge.send(*out))
    written = [token for event in device.events if isinstance(event, Committed) for token in event.tokens]
    assert len(written) == 6
    assert max(written) < 5
    if spec.name in SHARED:
        assert written == list(alone.write(target, (0, 1), SamplingParams(), 3, 6, vocab_size=5))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_prompt_may_end_with_an_end_of_text_token(spec: SchemeSpec) -> None:
    """Many models have one token for both ends of a text."""
    text = Pair(script(1, 2, 4), script(1, 2, 4)).write(request(spec, prompt=(0, 4)))
    assert (text.tokens, text.reason) == ([1, 2, 4], "stop")
