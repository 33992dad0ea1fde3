"""Keys and values of prompts, read by the edge's own draft model, for devices that have the same draft and read slowly.

A device asks for them by the names of their blocks, as if its own prompt were published: see `prompts/store.py`. It has
sent that prompt here, so no name tells the edge anything. Only the tenant whose device has a text open gets what
belongs to that text, and only as long as it is open.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from airdraft.core.events import Forward
from airdraft.edge.access import Tenant
from airdraft.errors import AirdraftError
from airdraft.models.base import Portable, Tensors
from airdraft.prompts.blocks import BLOCK, Layout, chain, folder_of, sealed
from airdraft.scheduler import Helping

MOST_BYTES = 1 << 28
"""Of keys and values that are held for devices, of all texts together."""
COMES_S = 2.0
"""Seconds that a request may be sooner here than the prompt it is about, which takes longer to send."""
MOST_WAITING = 64
"""Requests that may wait so."""
LOOK_S = 0.05
_PLACE = re.compile(r"(?P<target>[0-9a-f]{32})/[0-9a-z]{1,32}/blocks/(?P<block>[0-9a-f]{64})/(?P<layer>[0-9]{1,4})")

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Prompt:
    """What may be given of one text."""

    tokens: Sequence[int]
    names: dict[bytes, int]
    reading: asyncio.Task[Tensors | None] | None = None


class Offering:
    """The draft model of an edge, as a store of what it reads."""

    def __init__(self, helping: Helping) -> None:
        """Raises: `ModelError` for a draft whose engine keeps keys and values to itself."""
        engine = helping.scheduler.engine
        self._helping, self._layout = helping, Layout.of(engine)
        self.target = folder_of(engine, self._layout).partition("/")[0]
        """The folder of this draft; how its numbers are rounded does not matter to one who only drafts."""
        self._prompts: WeakKeyDictionary[object, _Prompt] = WeakKeyDictionary()  # by their open texts
        self._waiting = 0

    async def object(self, tenant: Tenant, place: str) -> bytes | None:
        """The object that a tenant's device expects at `place`. None: there is none, so it reads by itself."""
        asked = _PLACE.fullmatch(place)
        if asked is None or asked["target"] != self.target or int(asked["layer"]) >= self._layout.layers:
            return None
        block = await self._block(tenant, bytes.fromhex(asked["block"]))
        return None if block is None else sealed(place, self._layout.written(block, int(asked["layer"])))

    async def _block(self, tenant: Tenant, name: bytes) -> Tensors | None:
        prompt = self._named(tenant, name) or await self._awaited(tenant, name)
        if prompt is None:
            return None
        if prompt.reading is None:
            size = self._layout.held_bytes * len(prompt.names)
            if size + sum(map(self._held, self._prompts.values())) > MOST_BYTES:
                return None
            prompt.reading = asyncio.create_task(self._read(tenant, prompt.tokens))
        tensors = await asyncio.shield(prompt.reading)
        at = BLOCK * prompt.names[name]
        return None if tensors is None else [each[:, at : at + BLOCK] for each in tensors]

    async def _awaited(self, tenant: Tenant, name: bytes) -> _Prompt | None:
        """The prompt that has this block, if it comes soon."""
        if self._waiting >= MOST_WAITING:
            return None
        self._waiting += 1
        try:
            for _ in range(round(COMES_S / LOOK_S)):
                await asyncio.sleep(LOOK_S)
                if (prompt := self._named(tenant, name)) is not None:
                    return prompt
            return None
        finally:
            self._waiting -= 1

    def _named(self, tenant: Tenant, name: bytes) -> _Prompt | None:
        """The prompt of a tenant's open text that has this block."""
        for text, public in list(tenant.texts.items()):
            if text not in self._prompts:
                tokens = public()[: self._helping.context]
                names = {each: at for at, each in enumerate(chain(tokens))}
                self._prompts[text] = _Prompt(tokens[: BLOCK * len(names)], names)
            if name in self._prompts[text].names:
                return self._prompts[text]
        return None

    def _held(self, prompt: _Prompt) -> int:
        return 0 if prompt.reading is None else self._layout.held_bytes * len(prompt.names)

    async def _read(self, tenant: Tenant, tokens: Sequence[int]) -> Tensors | None:
        """Read a prompt as a text of the tenant's, which begins with what others of its texts hold."""
        scheduler = self._helping.scheduler
        try:
            text = scheduler.open(self._helping.owner(tenant.owner))
            try:
                await scheduler.run(text, lambda: Forward(0, 0, tuple(tokens), 0))
                if not isinstance(text.cache, Portable):  # it was needed for another text
                    return None
                return await asyncio.to_thread(text.cache.take, 0, len(tokens))
            finally:
                scheduler.drop(text)
        except AirdraftError as error:
            _log.warning("a prompt is not read for a device: %s", error)
            return None
