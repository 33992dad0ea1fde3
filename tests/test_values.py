"""Values of the wrong type: refused with the name of the field wherever callers give them; no neighbour is harmed."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import airdraft
from airdraft import values
from airdraft.core.messages import SchemeSpec
from airdraft.core.request import Counts, Request
from airdraft.core.sampling import SamplingParams
from airdraft.errors import BadParameterError

from .edge.loopback import GREEDY, Table, device, run, serving, truth, write
from .edge.loopback import request as asking
from .edge.threaded import Edge, shipped
from .test_client_api import PROMPT, text

NO_INT = [
    6.5,
    6.0,
    True,
    np.True_,
    "6",
    b"6",
    [6],
    None,
    math.nan,
    math.inf,
    np.float64(6),
    Decimal(6),
    Fraction(6),
    6j,
]
NO_FLOAT = [True, np.False_, "0.5", b"1", [0.5], None, math.nan, math.inf, -1.0, 10**400, Decimal("0.5"), 0.5j]
NO_SEQUENCE = [
    b"def f(x):", bytearray(b"x"), memoryview(b"x"), None, 5, 5.0, {1, 2}, {1: 2}, [1.0], [True], ["1"], [[1]], [None],
    np.array([1.5]), np.array([[1]]), np.array(3), np.array([True]),
]  # fmt: skip
NO_IDS = [*NO_SEQUENCE, [], [-1], [1 << 70], [10**9], np.array([-1])]
NO_TEXT = ["\ud800", *NO_IDS]
RANGES = {"seed": [-1, 1 << 63], "max_tokens": [0, -1], "top_k": [-1, 1 << 63], "logprobs": [-1, 21, 1 << 70]}

OPTIONS: dict[str, list[Any]] = {
    "temperature": NO_FLOAT,
    "top_k": NO_INT + RANGES["top_k"],
    "top_p": [*NO_FLOAT, 0, 1.5],
    "min_p": [*NO_FLOAT, 1.5],
    "seed": NO_INT + RANGES["seed"],
    "max_tokens": NO_INT + RANGES["max_tokens"],
    "scheme": [None, 5, b"auto", ["auto"], "nope", True],
    "draft_length": [*(each for each in NO_INT if each is not None), -7],
    "logprobs": [each for each in NO_INT if each is not None] + RANGES["logprobs"],
}
"""What no option of a text may be."""
GOOD: dict[str, list[Any]] = {
    "temperature": [0, np.float32(0.7), np.int64(1), Fraction(1, 2)],
    "top_k": [0, np.int32(5), np.uint64(7)],
    "top_p": [1, np.float16(0.5)],
    "min_p": [0, np.float64(0.1)],
    "seed": [np.int64(5), np.uint8(5), (1 << 63) - 1],
    "max_tokens": [np.int64(3), 10**30],
    "draft_length": [None, np.int64(2), 10**30],
    "logprobs": [None, np.int8(1)],
}


@pytest.fixture(scope="module")
def edge() -> Iterator[Edge]:
    edge = Edge()
    try:
        edge.start()
        yield edge
    finally:
        edge.end()


def test_every_wrong_option_is_refused_with_its_name_and_a_text_over_the_same_connection_goes_on(edge: Edge) -> None:
    found: list[str] = []
    begun = threading.Event()
    with airdraft.Client(edge.url, draft=shipped("draft")) as client:

        def neighbour() -> None:
            for piece in client.stream(PROMPT, max_tokens=400, scheme="server", temperature=0):
                found.append(piece)
                begun.set()

        thread = threading.Thread(target=neighbour)
        thread.start()
        assert begun.wait(60)
        asked: list[tuple[str, Callable[[], object]]] = [
            (field, lambda field=field, wrong=wrong: client.complete(PROMPT, **{"scheme": "coupled", field: wrong}))  # type: ignore[misc]
            for field, every in OPTIONS.items()
            for wrong in every
        ]
        asked += [("prompt", lambda wrong=wrong: client.complete(wrong)) for wrong in NO_TEXT]  # type: ignore[misc]
        asked += [
            ("draft_length", lambda length=length: client.complete(PROMPT, draft_length=length))  # type: ignore[misc]
            for length in (0, 3, -7)
        ]
        for field, ask in asked:
            with pytest.raises(BadParameterError) as error:
                ask()
            assert error.value.field == field, str(error.value)
        thread.join(60)
        assert "".join(found) == text(0, 0.0, 400)
        assert client._client._writer.connects == 1


def test_every_way_to_write_refuses(edge: Edge) -> None:
    with airdraft.Client(edge.url, draft=shipped("draft")) as client:
        for way in (client.complete, client.stream, client.events):
            with pytest.raises(BadParameterError, match=r"max_tokens is 6\.5; give a whole number"):
                list(way(PROMPT, max_tokens=6.5))  # type: ignore[arg-type]
            with pytest.raises(BadParameterError, match="prompt is b'def f"):
                list(way(b"def f(x):"))  # type: ignore[arg-type]


def test_numpys_values_and_ours_write_the_same_text(edge: Edge) -> None:
    with airdraft.Client(edge.url, draft=shipped("draft")) as client:
        ids = client.tokenizer.encode(PROMPT)
        plain = client.complete(ids, scheme="coupled", max_tokens=3, seed=5)
        for prompt in (tuple(ids), np.array(ids), np.array(ids, np.uint16), [np.int64(each) for each in ids]):
            found = client.complete(prompt, scheme="coupled", max_tokens=np.int64(3), seed=np.uint8(5))  # type: ignore[arg-type]
            assert found.tokens == plain.tokens
        for field, every in GOOD.items():
            for value in every:
                options = {"scheme": "coupled", "max_tokens": 3, field: value}
                assert len(client.complete(PROMPT, **options).tokens) >= 1


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        *(("edge", each) for each in (b"ws://h:1", None, [], [b"ws://h:1"], [5], 5, {"ws://h:1"})),
        *(("draft", each) for each in (5, b"draft", (1, 2, 3), [])),
        *(("offline", each) for each in (None, 5, "maybe", b"stall", ["stall"])),
        *(("give_up_s", each) for each in (True, "5", -1, 0, math.nan, [5])),
        *(("stall_s", each) for each in (True, "5", -1, math.nan, math.inf, [5])),
        *(("token", each) for each in (5, b"0123456789abcdef", True)),
        *(("ssl", each) for each in (True, "pem")),
    ],
)
def test_a_client_of_wrong_values_is_not_made(field: str, wrong: Any) -> None:
    options = {"edge": "ws://127.0.0.1:9", "draft": shipped("draft"), field: wrong}
    for kind in (airdraft.Client, airdraft.AsyncClient):
        with pytest.raises(BadParameterError) as error:
            kind(**options)
        assert error.value.field == field


@pytest.mark.parametrize("kind", [SamplingParams, SchemeSpec, Request])
def test_the_classes_of_a_request_refuse_what_no_peer_would_take(kind: type) -> None:
    right: dict[type, dict[str, Any]] = {
        SamplingParams: {},
        SchemeSpec: {"name": "topk"},
        Request: {"prompt": (1,), "scheme": SchemeSpec("server"), "params": GREEDY, "seed": 0, "max_tokens": 1},
    }
    wrong: dict[type, dict[str, list[Any]]] = {
        SamplingParams: {field: OPTIONS[field] for field in ("temperature", "top_k", "top_p", "min_p")},
        SchemeSpec: {"name": [None, b"topk", 5], "k": NO_INT, "bits": NO_INT, "race": [None, 1], "downlink": [None, 1]},
        Request: {
            **dict.fromkeys(("seed", "max_tokens"), NO_INT),
            **{field: [each for each in NO_INT if each is not None] for field in ("draft_length", "logprobs")},
            "prompt": NO_SEQUENCE, "committed": NO_SEQUENCE,
            "scheme": [None, "server", ("server",)], "params": [None, 0.7, (0.7,)], "counts": [None, {}],
            "policy": ["auto", 5], "rule": ["rule", 5],
        },
    }  # fmt: skip
    kind(**right[kind])
    for field, every in wrong[kind].items():
        for value in every:
            with pytest.raises(BadParameterError) as error:
                kind(**{**right[kind], field: value})
            assert error.value.field == field


def test_a_request_has_pythons_own_numbers() -> None:
    asked = Request(
        np.array([1, 2]), SchemeSpec("topk", k=np.int64(8)), SamplingParams(np.float32(0.5), np.int64(3)),  # type: ignore[arg-type]
        np.int64(5), np.int32(6), np.int8(2), (np.int64(4),), logprobs=np.uint8(1),  # type: ignore[arg-type]
    )  # fmt: skip
    numbers = [*asked.prompt, asked.scheme.k, asked.params.top_k, asked.seed, asked.max_tokens, *asked.committed]
    assert {type(each) for each in (*numbers, asked.draft_length, asked.logprobs)} == {int}
    assert type(asked.params.temperature) is float
    assert type(asked.counts) is Counts


def test_a_connection_survives_every_number_in_a_scheme(edge: Edge) -> None:
    """Beyond 64 bits too, which no message holds."""

    async def main() -> None:
        target = Table(1, eos_ids=())
        async with serving(target) as url, await device(url, Table(1, 2, eos_ids=())) as client:
            for spec in ({"k": 10**30}, {"k": -1}, {"bits": 10**30}, {"bits": 0}, {"race": "x"}, {"downlink": "x"}):
                for name in ("topk", "split", "dense", "stream", "coupled", "server"):
                    asked = asking(name, max_tokens=3)
                    asked = Request(asked.prompt, SchemeSpec(name, **spec), GREEDY, 0, 3)
                    wrong = await asyncio.gather(write(client, asked), return_exceptions=True)
                    if isinstance(wrong[0], BaseException):
                        assert isinstance(wrong[0], BadParameterError)
                        assert wrong[0].field in spec
                    assert client.alive
            for no_request in (None, "text", {"prompt": (1,)}):
                with pytest.raises(BadParameterError) as refused:
                    await write(client, no_request)  # type: ignore[arg-type]
                assert refused.value.field == "request"
            asked = asking(max_tokens=5)
            assert await write(client, asked) == truth(target, asked)

    run(main)


@given(
    value=st.one_of(st.integers(), st.floats(), st.booleans(), st.text(), st.binary(), st.none(), st.lists(st.floats()))
)
def test_whatever_is_given_is_made_plain_or_refused(value: Any) -> None:
    for plain, kind in ((values.whole, int), (values.number, float), (values.words, str), (values.ids, tuple)):
        with contextlib.suppress(BadParameterError):
            assert type(plain("x", value)) is kind
            assert not isinstance(value, bool)
