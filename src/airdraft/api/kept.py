"""Responses that are kept, so that a client may go on from one by its name: the latest, in bounded memory."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any

import msgspec

MOST_KEPT = 1024
MOST_BYTES = 64 << 20
SHARE = 8
"""One response takes at most this part of `MOST_BYTES`, with all that led to it."""


class Responses:
    """Responses and the items that led to them, each by who asked and its name. The oldest make room for new ones."""

    def __init__(self, most: int = MOST_KEPT, most_bytes: int = MOST_BYTES) -> None:
        self._most, self._most_bytes = most, most_bytes
        self.size = 0
        """Bytes."""
        self._found: OrderedDict[tuple[bytes, str], bytes] = OrderedDict()

    def put(self, owner: bytes, name: str, response: dict[str, Any], items: list[Any]) -> bool:
        """Keep a response. Returns whether it is kept: one that is too long is not."""
        data = msgspec.json.encode([response, items])
        if len(data) > self._most_bytes // SHARE:
            return False
        self._found[owner, name] = data
        self.size += len(data)
        while len(self._found) > self._most or self.size > self._most_bytes:
            self.size -= len(self._found.popitem(last=False)[1])
        return True

    def get(self, owner: bytes, name: str) -> tuple[dict[str, Any], list[Any]] | None:
        """Return a response and the items up to its end; None if it is not kept, or is somebody else's."""
        data = self._found.get((owner, name))
        if data is None:
            return None
        self._found.move_to_end((owner, name))
        response, items = msgspec.json.decode(data)
        return response, items

    def drop(self, owner: bytes, name: str) -> bool:
        """Keep a response no longer. Returns whether it was kept."""
        data = self._found.pop((owner, name), None)
        self.size -= len(data or b"")
        return data is not None


def owner_of(authorization: str) -> bytes:
    """Return who asks with this key, by its hash, so that no key is kept."""
    return hashlib.sha256(authorization.encode(errors="replace")).digest()
