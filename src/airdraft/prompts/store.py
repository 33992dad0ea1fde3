"""The store of prompts: a folder, a bucket or a web server, reached through fsspec.

    <target and layout>/<rounding>/blocks/<name of a block>/<layer>
    <target and layout>/<rounding>/prompts/<name of the last block>

An object under `prompts` has the names of all blocks of a prompt in a row. A reader lists these, and so knows without
asking what there is: no hash of what a user says ever goes to the store. An edge gives its devices' own prompts, which
it knows anyway, and lists one name instead: `UNLISTED`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
from fsspec.asyn import AsyncFileSystem

from airdraft.errors import BadParameterError, LinkError, first_line
from airdraft.models.base import Tensors
from airdraft.prompts.blocks import DIGEST, BlockError, Layout, opened, overhead, sealed
from airdraft.prompts.lanes import Lanes

TIMEOUT_S = 10.0
"""Seconds that a request to a store elsewhere may take."""
MOST_PROMPTS = 4096
"""Prompts of one target that are looked at; the latest."""
UNLISTED = "unlisted"
"""Listed where any block may be asked for."""
MOST_BLOCKS = 1 << 18
"""Of all these prompts together; of the latest ones, again."""
MOST_LISTED = 1 << 24
"""Bytes of a web server's listing."""
_LONGEST = 1 << 14
"""Blocks of one prompt: a million tokens."""
_AT_ONCE = 64
"""Prompts that are read at once."""
_EXTRAS = {"s3": "s3fs", "http": "aiohttp", "https": "aiohttp", "gcs": "gcsfs", "gs": "gcsfs", "abfs": "adlfs"}


class Prompt(NamedTuple):
    """A published prompt."""

    place: str
    """The name of its object."""
    used_s: float
    """When it was published or read last, as far as the store tells."""
    blocks: tuple[bytes, ...]


class PromptStore:
    """The blocks of one target, as one engine lays them out."""

    def __init__(self, url: str, folder: str, layout: Layout, options: Mapping[str, Any] | None = None) -> None:
        """url: a folder, or what fsspec takes, with `options`. folder: of the target, see `folder_of`.

        Raises: `BadParameterError` for a URL that leads nowhere, or needs a library that is not installed.
        """
        self.shown = shown(url)
        self.unlisted = False
        """Whether any block may be asked for, by what was listed last."""
        self._fs, root = _opened(url, options or {})
        self._local = "file" in _protocols(self._fs)
        self._root, self._folder, self.layout = root.rstrip("/"), folder, layout
        self._lanes = Lanes()
        self._known: dict[str, tuple[bytes, ...]] = {}  # the blocks of what was listed last: a name tells them all

    def prompts(self) -> list[Prompt]:
        """What is published, the latest first. Raises: `LinkError` if the store does not answer."""
        listed = [(place, used_s, place.rpartition("/")[2]) for place, used_s in self._listed("prompts")]
        self.unlisted = any(word == UNLISTED for *_, word in listed)
        names = [(place, used_s) for place, used_s, word in listed if _is_name(word)]
        names = sorted(names, key=lambda each: -each[1])[:MOST_PROMPTS]
        found, left, before, self._known = list[Prompt](), MOST_BLOCKS, self._known, {}
        for start in range(0, len(names), _AT_ONCE):
            new = [place for place, _ in names[start : start + _AT_ONCE] if place not in before]
            read = map(_blocks_in, new, self._read(new, [_LONGEST * DIGEST] * len(new)))
            known = before | dict(zip(new, read, strict=True))
            for place, used_s in names[start : start + _AT_ONCE]:
                left -= len(known[place])
                if left < 0:
                    return found
                if known[place]:
                    self._known[place] = known[place]
                    found.append(Prompt(place, used_s, known[place]))
        return found

    def others(self) -> int:
        """Count the folders of the same target whose keys and values are rounded otherwise."""
        own = self._folder.partition("/")[0]
        with contextlib.suppress(Exception):
            return len([each for each in self._fs.ls(f"{self._root}/{own}", detail=False)
                        if each.rstrip("/").rpartition("/")[2] != self._folder.rpartition("/")[2]])  # fmt: skip
        return 0

    def block(self, name: bytes) -> Tensors:
        """The keys and values of a block.

        Raises: `LinkError` if the store does not answer, `BlockError` if it is damaged or not there.
        """
        return self.opened(name, self._read(*self._objects(name)))

    def asked(self, name: bytes) -> Future[list[bytes | Exception]] | None:
        """Ask for the objects of a block, which `opened` takes, and wait for nothing; who cancels it gives the link
        back. None: this store has no such requests, so that `block` is to be called in a thread."""
        return self._asked(*self._objects(name)) if isinstance(self._fs, AsyncFileSystem) else None

    def opened(self, name: bytes, objects: Sequence[bytes | Exception]) -> Tensors:
        """The keys and values in the objects of a block. Raises: as `block`."""
        found = []
        for place, data in zip(self._objects(name)[0], objects, strict=True):
            if isinstance(data, FileNotFoundError):
                raise BlockError(f"{place} is not there; publish the prompt again")
            if not isinstance(data, bytes):
                raise LinkError(f"{self.shown} does not give {place} ({first_line(data)})") from data
            found.append(opened(place, data))
        return self.layout.read(found)

    def has(self, name: bytes) -> bool:
        """Whether a block is there, whole. Raises: `LinkError` if the store does not answer."""
        try:
            self.block(name)
        except BlockError:
            return False
        return True

    def put_block(self, name: bytes, block: Tensors) -> None:
        """Write a block. Raises: `LinkError`."""
        for layer in range(self.layout.layers):
            place = self._place(name, layer)
            self._write(place, sealed(place, self.layout.written(block, layer)))

    def put_prompt(self, blocks: Sequence[bytes]) -> None:
        """Tell readers of a prompt whose blocks are all there. Raises: `LinkError`."""
        place = f"{self._folder}/prompts/{blocks[-1].hex()}"
        self._write(place, sealed(place, b"".join(blocks)))

    def touch(self, prompt: Prompt) -> None:
        """Note that a prompt is used, where a folder keeps the time; elsewhere only publishing does."""
        if self._local:
            with contextlib.suppress(OSError):  # a folder that may only be read
                os.utime(f"{self._root}/{prompt.place}")

    def evict(self, most_bytes: int) -> list[Prompt]:
        """Delete the prompts that were used longest ago, until blocks of this target take `most_bytes` at most.

        Blocks that another prompt needs stay. Returns: what was deleted. Raises: `LinkError`.
        """
        kept, gone, held = list[Prompt](), list[Prompt](), set[bytes]()
        for prompt in self.prompts():
            whole = held | set(prompt.blocks)
            fits = not gone and len(whole) * self.layout.block_bytes <= most_bytes
            (kept if fits else gone).append(prompt)
            held = whole if fits else held
        for prompt in gone:
            self._delete(prompt.place)  # first, so that nobody looks for blocks that go
            for block in set(prompt.blocks) - held:
                self._delete(f"{self._folder}/blocks/{block.hex()}", recursive=True)
        return gone

    def _objects(self, block: bytes) -> tuple[list[str], list[int]]:
        """The places of a block's objects, and the most bytes of each."""
        layers = range(self.layout.layers)
        return [self._place(block, layer) for layer in layers], [self.layout.bytes_of(layer) for layer in layers]

    def _place(self, block: bytes, layer: int) -> str:
        return f"{self._folder}/blocks/{block.hex()}/{layer}"

    def _listed(self, kind: str) -> list[tuple[str, float]]:
        place = f"{self._root}/{self._folder}/{kind}"
        try:
            self._fs.invalidate_cache()
            rows = self._fs.ls(place, detail=True, **self._patience)
        except FileNotFoundError:
            return []
        except Exception as problem:  # the libraries of file systems share no base class of errors
            raise LinkError(f"{self.shown} cannot be listed ({first_line(problem)}); is it there?") from problem
        files = [row for row in rows if row.get("type") == "file" or (self._local and Path(row["name"]).is_file())]
        return [(f"{self._folder}/{kind}/{row['name'].rpartition('/')[2]}", _time(row)) for row in files]

    def _read(self, places: Sequence[str], sizes: Sequence[int]) -> list[bytes | Exception]:
        """What lies there, each no longer than its size and a byte more, or why it cannot be read."""
        if isinstance(self._fs, AsyncFileSystem):
            return self._asked(places, sizes).result()
        whole = [f"{self._root}/{place}" for place in places]
        ends = [size + overhead() + 1 for size in sizes]
        if not whole:
            return []
        if self._local:
            return list(map(_file, whole, ends))
        try:
            found: list[bytes | Exception] = self._fs.cat_ranges(whole, [0] * len(whole), ends, on_error="return")
        except Exception as problem:  # as above
            return [problem] * len(whole)
        return found

    def _asked(self, places: Sequence[str], sizes: Sequence[int]) -> Future[list[bytes | Exception]]:
        """The same, under way in the loop of the file system."""

        async def one(place: str, size: int) -> bytes | Exception:
            try:
                whole, end = f"{self._root}/{place}", size + overhead() + 1
                found: bytes = await self._lanes.run(lambda: self._fs._cat_file(whole, start=0, end=end), TIMEOUT_S)
            except Exception as problem:  # as above
                return problem
            return found

        async def every() -> list[bytes | Exception]:
            return await asyncio.gather(*map(one, places, sizes))

        return asyncio.run_coroutine_threadsafe(every(), self._fs.loop)

    def _write(self, place: str, data: bytes) -> None:
        """Write an object in one step. Raises: `LinkError`."""
        whole = f"{self._root}/{place}"
        try:
            if not self._local:  # an upload shows when it is complete
                self._fs.pipe_file(whole, data, **self._patience)
                return
            Path(whole).parent.mkdir(parents=True, exist_ok=True)
            beside = f"{whole}.{secrets.token_hex(4)}"
            Path(beside).write_bytes(data)
            os.replace(beside, whole)
        except Exception as problem:  # as above
            raise LinkError(f"{self.shown} takes no object ({first_line(problem)}); may it be written to?") from problem

    def _delete(self, place: str, *, recursive: bool = False) -> None:
        try:
            self._fs.rm(f"{self._root}/{place}", recursive=recursive, **self._patience)
        except FileNotFoundError:
            pass
        except Exception as problem:  # as above
            raise LinkError(f"{self.shown} deletes nothing ({first_line(problem)}); may it be written to?") from problem

    @property
    def _patience(self) -> dict[str, float]:
        """An argument for requests, where a request can be given up."""
        return {"timeout": TIMEOUT_S} if isinstance(self._fs, AsyncFileSystem) else {}


def _file(path: str, most: int) -> bytes | Exception:
    """At most so many bytes of a file, or why it cannot be read. A pipe, which may never end, is no file."""
    try:
        if not Path(path).is_file():
            return FileNotFoundError(path)
        with open(path, "rb") as file:
            return file.read(most)
    except OSError as problem:
        return problem


def shown(url: str) -> str:
    """A URL without the password that may stand in it."""
    scheme, colon, rest = url.partition("://")
    head, slash, tail = rest.partition("/")
    return f"{scheme}{colon}{head.rpartition('@')[2]}{slash}{tail}"


def _blocks_in(place: str, data: bytes | Exception) -> tuple[bytes, ...]:
    """The names of the blocks in a prompt's object; none for one that is damaged."""
    with contextlib.suppress(BlockError):
        payload = opened(place, data) if isinstance(data, bytes) else b""
        blocks = tuple(payload[at : at + DIGEST] for at in range(0, len(payload) - DIGEST + 1, DIGEST))
        if blocks and blocks[-1].hex() == place.rpartition("/")[2]:
            return blocks
    return ()


def _opened(url: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """The file system of a URL, and the path in it. Raises: `BadParameterError`."""
    scheme = url.partition("://")[0] if "://" in url else "file"
    try:
        if scheme in ("http", "https"):
            options = {**options, "client_kwargs": {"response_class": _bounded()}}
        system, path = fsspec.core.url_to_fs(url, skip_instance_cache=True, use_listings_cache=False, **options)
    except ImportError as problem:
        library = _EXTRAS.get(scheme, scheme)
        raise BadParameterError(f"{scheme}:// needs {library}; pip install {library}") from problem
    except Exception as problem:  # as above
        raise BadParameterError(
            f"{shown(url)} is no place for prompts ({first_line(problem)}); name a folder, or a URL such as s3://BUCKET/PATH"
        ) from problem
    return system, path


def _bounded() -> type:
    """What aiohttp reads answers with, made to stop where more was sent than was asked for. Raises: `ImportError`."""
    from aiohttp import ClientResponse  # noqa: PLC0415  of an extra

    class Bounded(ClientResponse):  # type: ignore[misc]
        async def read(self) -> bytes:
            """Read as much as the range that was asked for holds, whatever comes."""
            asked = self.request_info.headers.get("Range", "").rpartition("-")[2]
            most, body = int(asked) + 1 if asked else MOST_LISTED, bytearray()
            async for piece in self.content.iter_chunked(1 << 16):
                body += piece
                if len(body) >= most:
                    break
            self._body = bytes(body[:most])
            return self._body

    return Bounded


def _protocols(system: Any) -> tuple[str, ...]:
    return (system.protocol,) if isinstance(system.protocol, str) else tuple(system.protocol)


def _is_name(word: str) -> bool:
    return len(word) == 2 * DIGEST and set(word) <= set("0123456789abcdef")


def _time(row: dict[str, Any]) -> float:
    """When an object was written, in seconds, as far as its file system says."""
    for name in ("mtime", "LastModified", "last_modified", "created"):
        value = row.get(name)
        if isinstance(value, datetime):
            return float(value.timestamp())
        if isinstance(value, int | float):
            return float(value)
    return time.time()
