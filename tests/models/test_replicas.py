"""Servers that fail in every way a server can, on real sockets: who is asked next, and what is said of it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from airdraft.errors import ModelError
from airdraft.models.engines.replicas import Replicas

from .http_engine import Engine, serve

TRIES = 4
"""One, and three more."""


def replicas(*urls: str, timeout_s: float = 20.0) -> Replicas:
    return Replicas(urls, timeout_s=timeout_s, connections=8)


def good(path: str, body: Any) -> tuple[int, Any]:
    return 200, {"path": path, "body": body}


@pytest.fixture
def closed() -> Iterator[str]:
    """An address where nobody listens, and nobody else can meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def posts(engine: Engine) -> int:
    return sum(body is not None for _, body in engine.asked)


def test_get_and_post() -> None:
    with serve(good) as engine:
        two = replicas(engine.url + "/")
        assert two.ask(0, "/v1/models") == b'{"path": "/v1/models", "body": null}'
        assert two.ask_any(0, "/x", b"[1]") == (0, b'{"path": "/x", "body": [1]}')


def test_each_call_gets_its_own_answer() -> None:
    with serve(good) as engine, ThreadPoolExecutor(8) as pool:
        one = replicas(engine.url)
        got = list(pool.map(lambda i: one.ask_any(0, "/x", b"%d" % i)[1], range(100)))
    assert got == [b'{"path": "/x", "body": %d}' % i for i in range(100)]


def test_nobody_there(closed: str) -> None:
    with pytest.raises(ModelError, match=r"^http://127.*:\d+ cannot be reached \(.*refused\); start it again, or"):
        replicas(closed).ask_any(0, "/x", b"1")


def test_another_takes_over_and_the_first_rests() -> None:
    with serve(lambda *_: (503, b"")) as first, serve(good) as other:
        both = replicas(first.url, other.url)
        for _ in range(3):
            assert both.ask_any(0, "/x", b"1")[0] == 1
        assert (posts(first), posts(other)) == (TRIES, 3)


def test_all_that_failed_are_named(closed: str) -> None:
    with serve(lambda *_: (503, {"message": "loading"})) as engine:
        with pytest.raises(ModelError, match=r"cannot be reached .*; http://127.*failed \(503: loading\); start"):
            replicas(closed, engine.url).ask_any(0, "/x", b"1")
        assert posts(engine) == TRIES


def test_who_rests_is_asked_when_nobody_else_is_there(closed: str) -> None:
    up = threading.Event()
    with serve(lambda *_: (200, 1) if up.is_set() else (503, 1)) as engine:
        both = replicas(engine.url, closed)
        with pytest.raises(ModelError, match="503"):
            both.ask_any(0, "/x", b"1")
        up.set()
        assert both.ask_any(0, "/x", b"1") == (0, b"1")


def test_a_moment_of_trouble_is_waited_out() -> None:
    answers = iter([(503, b""), (0, b""), (200, b"7")])
    with serve(lambda *_: next(answers)) as engine:
        assert replicas(engine.url).ask_any(0, "/x", b"1") == (0, b"7")


def test_a_connection_that_breaks_off() -> None:
    with serve(lambda *_: (0, b"")) as engine:
        with pytest.raises(ModelError, match=r"cannot be reached \(.+\)") as raised:
            replicas(engine.url).ask_any(0, "/x", b"1")
        assert posts(engine) == TRIES
    assert "\n" not in str(raised.value)


def test_an_engine_killed_between_two_calls() -> None:
    with serve(good) as first, serve(good) as second:
        both = replicas(first.url, second.url)
        assert both.ask_any(0, "/x", b"1")[0] == 0
        first.stop()
        assert both.ask_any(0, "/x", b"1")[0] == 1


def test_a_slow_engine_is_asked_once_and_left() -> None:
    done = threading.Event()

    def slow(_path: str, _body: Any) -> tuple[int, Any]:
        done.wait(20)
        return 200, 1

    with serve(slow) as engine, serve(good) as other:
        with pytest.raises(ModelError, match=r"did not answer within 0\.2 s; start it again, or see its log"):
            replicas(engine.url, timeout_s=0.2).ask_any(0, "/x", b"1")
        # The other one has as long to answer, on a machine that may be busy.
        assert replicas(engine.url, other.url, timeout_s=3.0).ask_any(0, "/x", b"1")[0] == 1
        assert posts(engine) == 2
        done.set()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": {"message": "too\nlong"}}, "too long"),
        ({"error": "no"}, "no"),
        ({"object": "error", "message": "no such"}, "no such"),
        ({"detail": [{"loc": "body"}]}, r"\[\{'loc': 'body'\}\]"),
        ({}, "no reason given"),
        (b"<html>\xff no", "<html>� no"),
        (b"x" * 999, "x{200}…"),
    ],
)
def test_a_refusal_is_final_and_says_why(body: Any, said: str) -> None:
    with serve(lambda *_: (400, body)) as engine, serve(good) as other:
        with pytest.raises(ModelError, match=rf"^http://127.*:\d+ refused /x \(400: {said}\); mend that, or"):
            replicas(engine.url, other.url).ask_any(0, "/x", b"1")
        assert posts(engine) == 1
        assert posts(other) == 0


def test_it_is_not_sent_elsewhere() -> None:
    with serve(lambda *_: (307, b"")) as engine, pytest.raises(ModelError, match="307"):
        replicas(engine.url).ask_any(0, "/x", b"1")


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", ""])
def test_no_address(url: str) -> None:
    with pytest.raises(ModelError, match=rf"'{url}' is no address of an engine; write it like http"):
        replicas(url)


def test_no_engine_and_no_time() -> None:
    with pytest.raises(ModelError, match="no engine to ask; give the address"):
        replicas()
    with pytest.raises(ModelError, match="within 0 s; give a number above 0"):
        replicas("http://x", timeout_s=0)


def test_a_host_that_is_none() -> None:
    with pytest.raises(ModelError, match=r"http://127\.0\.0\.1:99999 cannot be reached"):
        replicas("http://127.0.0.1:99999").ask_any(0, "/x", b"1")
