"""Guides at an edge: what goes wrong with one ends its own text, and no other waits for those that nobody needs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec import structs

from airdraft.core.bits import pack
from airdraft.core.law import Guide
from airdraft.core.messages import Close, Digest, Draft, Error, GuideSpec, Open, Tokens
from airdraft.edge.server import Service
from airdraft.errors import Code, GuideError
from airdraft.guides import Guides

from .loopback import VOCAB, Raw, Table, opening, run, started, truth
from .loopback import request as asking
from .threaded import shipped

PROMPT = (1, 2, 3)


@dataclass(frozen=True)
class Anything(Guide):
    """A guide that allows all tokens, and is too much for its reader behind `trap`."""

    trap: int
    last: int = -1

    forced: int | None = None

    def allowed(self) -> Any:
        if self.last == self.trap:
            raise GuideError("the guide is too much for its reader")
        return None

    def after(self, token: int) -> Guide:
        return Anything(self.trap, token)


class Reader:
    """Reads all guides as `Anything`."""

    name = "anything"
    trap = VOCAB

    async def read(self, spec: GuideSpec, eos_ids: Sequence[int]) -> Guide:
        return Anything(self.trap)


def guided(session: int, scheme: str = "stream", text: str = "") -> Open:
    return structs.replace(opening(session, PROMPT, scheme), guide=GuideSpec("lark", text))


def test_a_guide_that_gives_up_while_its_text_waits_ends_no_other() -> None:
    """The draft that leads there comes while the forward waits, which takes all drafts that are there by then."""
    target = Table(3, eos_ids=(), seconds=0.02)
    wanted, reader = truth(target, asking(max_tokens=40)), Reader()
    reader.trap = min({*range(VOCAB)} - {*wanted})

    async def trap(raw: Raw) -> str:
        await raw.send(guided(1))
        text = list(PROMPT)
        while not isinstance(message := await raw.receive(), Error):
            if isinstance(message, Tokens):
                text += message.tokens
                seq, body = len(text), pack([reader.trap, 0], VOCAB)
                await raw.send(Draft(1, seq, len(text), len(text), Digest(text).value, 2, body))
        return message.code

    async def main() -> tuple[list[int], str]:
        async with (
            started(target, Service(reader=reader)) as (_, url), Raw.connect(url) as one, Raw.connect(url) as other
        ):  # fmt: skip
            text, code = await asyncio.gather(one.text(1, PROMPT, 40, None), trap(other))
            return text, code

    assert run(main) == (wanted, Code.GUIDE)


def test_a_reader_that_fails_ends_the_text_that_asked(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Reader):
        async def read(self, spec: GuideSpec, eos_ids: Sequence[int]) -> Guide:
            raise OSError("no process can be started")

    async def main() -> list[int]:
        target = Table(3, eos_ids=())
        async with started(target, Service(reader=Broken())) as (_, url), Raw.connect(url) as raw:
            await raw.send(guided(1))
            while not isinstance(message := await raw.receive(), Error):
                pass
            assert (message.session, message.code) == (1, Code.ENGINE)
            assert "no process" not in message.message
            return await raw.text(2, PROMPT, 4, None)

    assert len(run(main)) == 4
    assert "no process can be started" in caplog.text


def test_guides_of_texts_that_are_over_are_not_read() -> None:
    made, gate = list[str](), threading.Event()

    class Gated(Guides):
        def make(self, spec: GuideSpec, eos_ids: Sequence[int]) -> Guide:
            made.append(spec.text)
            gate.wait(20)
            return Anything(VOCAB)

    async def main() -> list[str]:
        reader = Gated(shipped("draft")[1])
        async with started(Table(3, eos_ids=()), Service(reader=reader)) as (_, url), Raw.connect(url) as raw:
            for session in range(1, 101):
                await raw.send(guided(session, "server", str(session)), Close(session, "changed my mind"))
            await raw.send(guided(101, "server", "the last"))
            while (await raw.receive()).session != 101:  # type: ignore[attr-defined]
                pass
            gate.set()
            while not isinstance(await raw.receive(), Tokens):
                pass
            reader._pool.shutdown()
            return made

    assert run(main) in (["1", "the last"], ["the last"])  # the first may have begun
