"""Log-probabilities are the target's own, under every scheme that leaves all tokens to the edge, and resumed or not."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.core.edge import Target
from airdraft.core.logprobs import (
    MOST_LIKELY,
    UNLIKELY,
    Logprob,
    decode_logprobs,
    encode_logprobs,
    logprob_of,
)
from airdraft.core.messages import Digest, Error, Logprobs, Opened, SchemeSpec, Switch, Tokens, Verdict
from airdraft.core.sampling import SamplingParams
from airdraft.errors import BadParameterError, RefusedError, RemoteProtocolError
from airdraft.sim.conformance import TableModel
from airdraft.sim.pair import Pair

from ..suites import examples, mostly_slow
from .tables import SPECS, STREAMS, DeviceSide, EdgeSide, alike, hello, opening, request, table, welcome

AT_EDGE = {name: spec for name, spec in {**SPECS, **STREAMS}.items() if spec.name != "split"}
SPLIT = SchemeSpec("split")


def expected(target: TableModel, text: tuple[int, ...], token: int, most: int) -> Logprob:
    """Compute them by definition, in plain Python."""
    row = [float(logit) for logit in target.row(text)]
    total = math.fsum(math.exp(logit) for logit in row)
    logs = [logit - math.log(total) for logit in row]
    best = sorted(range(len(row)), key=lambda each: (-logs[each], each))[:most]
    return Logprob(token, logs[token], tuple((each, logs[each]) for each in best))


def close(found: Logprob, wanted: Logprob) -> bool:
    near = found.logprob == pytest.approx(wanted.logprob, abs=1e-5)
    return found.token == wanted.token and near and [
        (token, pytest.approx(logprob, abs=1e-5)) for token, logprob in found.top
    ] == list(wanted.top)  # fmt: skip


@pytest.mark.parametrize("name", mostly_slow(AT_EDGE, often=("server", "topk-3x8", "dense-block", "coupled", "always")))
@pytest.mark.parametrize(
    "params", [SamplingParams(), SamplingParams(0.0), SamplingParams(0.7, top_k=3, top_p=0.9)], ids=str
)
def test_they_are_the_targets_own_for_every_token(name: str, params: SamplingParams) -> None:
    """Before temperature and truncation, whether a token was drafted, recovered, a bonus or raced."""
    target = table(1)
    both = Pair(alike(target, 2, 0.8), target)
    kinds = set()
    for seed in range(6):
        asked = replace(request(AT_EDGE[name], params, seed, max_tokens=12), logprobs=2)
        text, so_far = both.write(asked), tuple(asked.prompt)
        for commit in text.commits:
            kinds.add(commit.kind if commit.accepted < len(commit.tokens) else "accepted")
            assert len(commit.logprobs) == len(commit.tokens)
            for token, found in zip(commit.tokens, commit.logprobs, strict=True):
                assert close(found, expected(target, so_far, token, 2))
                so_far += (token,)
    assert kinds


@pytest.mark.parametrize("name", AT_EDGE)
def test_asking_changes_no_text(name: str) -> None:
    target = table(3)
    both = Pair(alike(target, 4, 0.6), target)
    for seed in range(5):
        plain = both.write(request(AT_EDGE[name], seed=seed))
        asked = both.write(replace(request(AT_EDGE[name], seed=seed), logprobs=0))
        assert asked.tokens == plain.tokens
        assert not any(commit.logprobs for commit in plain.commits)
        assert all(not each.top for commit in asked.commits for each in commit.logprobs)


def test_a_resumed_text_has_those_of_what_is_new() -> None:
    target = table(5)
    both = Pair(target, target)
    whole = both.write(replace(request(max_tokens=8), logprobs=1))
    rest = both.write(replace(request(max_tokens=8, committed=tuple(whole.tokens[:3])), logprobs=1))
    every = [each for commit in whole.commits for each in commit.logprobs]
    assert [each for commit in rest.commits for each in commit.logprobs] == every[3:]


def test_a_token_that_cannot_be_is_far_below_all_others_and_finite() -> None:
    row = np.array([0.0, -np.inf, 1.0], np.float32)
    found = logprob_of(row, 0, 9, normalised=False)
    assert found.top[-1] == (1, UNLIKELY)
    assert found.logprob == pytest.approx(-math.log1p(math.e))


def test_rows_of_the_likeliest_tokens_alone_are_taken_as_they_are() -> None:
    """Their sum is less than one, and the rest belongs to other tokens."""
    row = np.log(np.array([0.5, 0.2, 0.0, 0.0], np.float64), where=[True, True, False, False], out=np.full(4, -np.inf))
    found = logprob_of(row.astype(np.float32), 1, 2, normalised=True)
    assert found.logprob == pytest.approx(math.log(0.2))
    assert [token for token, _ in found.top] == [0, 1]


@given(st.data(), st.integers(2, 300), st.integers(0, MOST_LIKELY), st.integers(0, 5))
@examples(100)
def test_what_is_encoded_is_what_is_decoded(data: st.DataObject, vocab: int, most: int, count: int) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    tokens = rng.integers(0, vocab, count).tolist()
    rows = rng.normal(0, 40, (count, vocab)).astype(np.float32)
    known = [logprob_of(row, token, most, normalised=False) for row, token in zip(rows, tokens, strict=True)]
    body = encode_logprobs(known, vocab)
    assert decode_logprobs(body, tokens, most, vocab) == tuple(known)
    for wrong in (body + b"\0", body[:-1]):
        if wrong != body:
            with pytest.raises(RemoteProtocolError):
                decode_logprobs(wrong, tokens, most, vocab)


@given(st.binary(max_size=60), st.integers(0, 3), st.integers(0, 3))
@examples(200)
def test_hostile_bodies_are_numbers_or_a_fault_of_the_peer(body: bytes, count: int, most: int) -> None:
    try:
        found = decode_logprobs(body, [0] * count, most, 5)
    except RemoteProtocolError:
        return
    values = [each.logprob for each in found] + [logprob for each in found for _, logprob in each.top]
    assert all(UNLIKELY <= value <= 0 for value in values)
    assert all(0 <= token < 5 for each in found for token, _ in each.top)


def test_a_device_that_draws_tokens_itself_is_told_to_ask_otherwise() -> None:
    device = DeviceSide(table(1), welcome())
    for bad, why in ((replace(request(SPLIT), logprobs=0), "split"), (replace(request(), logprobs=21), "20")):
        with pytest.raises(BadParameterError, match=why):
            device.open(bad)
    # And an edge says so to a device that does not check.
    edge = EdgeSide(table(1))
    edge.send(hello())
    (refused,) = edge.send(msgspec.structs.replace(opening(scheme=SPLIT), logprobs=0))
    assert isinstance(refused, Error)
    assert (refused.session, refused.code) == (1, "scheme")
    assert edge.machine.closed is False


def test_an_edge_that_knows_few_tokens_names_no_more() -> None:
    target = Target("test", "target", bytes(16), 5, 64, (4,), top_k=3)
    target.check(SamplingParams(0.0), 3)
    with pytest.raises(BadParameterError, match="at most 3"):
        target.check(SamplingParams(0.0), 4)


def test_a_switch_to_split_is_refused() -> None:
    edge = EdgeSide(table(1))
    edge.send(hello())
    edge.send(msgspec.structs.replace(opening(), logprobs=1))
    answers = edge.send(Switch(1, SPLIT))
    assert isinstance(answers[-1], Error)
    assert answers[-1].code == "scheme"


def _device(scheme: SchemeSpec, logprobs: int | None) -> DeviceSide:
    device = DeviceSide(table(1), welcome())
    device.open(replace(request(scheme), logprobs=logprobs))
    device.send(Opened(1, 2, Digest((0, 1)).value))
    return device


BODY = encode_logprobs([Logprob(1, -0.5)], 5)


@pytest.mark.parametrize(
    "before",
    [
        (),
        (Logprobs(1, 3, 1, BODY),),
        (Logprobs(1, 2, 2, BODY),),
        (Logprobs(1, 2, 1, BODY + b"\1"),),
        (Logprobs(1, 2, 1, BODY), Logprobs(1, 2, 1, BODY)),
    ],
    ids=["none", "of another place", "of another number", "malformed", "twice"],
)
def test_an_edge_that_does_not_say_what_it_should_ends_the_connection(before: tuple[Logprobs, ...]) -> None:
    for scheme, commit in (
        (SPECS["server"], Tokens(1, 2, (1,), Digest((0, 1, 1)).value)),
        (SPECS["coupled"], Verdict(1, 1, 0, 1, 3, Digest((0, 1, 1)).value)),
    ):
        good = _device(scheme, 0)
        good.send(Logprobs(1, 2, 1, BODY), commit)
        assert not good.machine.closed
        bad = _device(scheme, 0)
        answers = bad.send(*before, commit)
        assert isinstance(answers[-1], Error)
        assert bad.machine.closed


def test_what_was_not_asked_for_is_not_taken() -> None:
    device = _device(SPECS["server"], None)
    (error,) = device.send(Logprobs(1, 2, 1, BODY))
    assert isinstance(error, Error)
    assert error.code == "state"


def test_a_refusal_at_the_edge_reaches_whoever_asked() -> None:
    """Log-probabilities over an engine that gives three tokens."""
    target = table(1)
    both = Pair(target, target)
    both.edge._target = dataclasses.replace(both.edge._target, top_k=3)
    with pytest.raises(RefusedError, match="at most 3"):
        both.write(replace(request(params=SamplingParams(0.0)), logprobs=4))
