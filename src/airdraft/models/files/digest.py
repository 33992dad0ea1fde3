"""The digest of what defines a target: its files to the last byte, what an engine makes of them, its tokenizer.

Two edges may take over each other's texts only where the rows of their targets are the same, and only the weights tell;
a name does not. So all bytes of all files are hashed, and not a sample, which could miss the one layer that differs.
A file is cut into parts of 32 MiB that are hashed side by side, and the hash of their hashes is kept in the user's
cache folder: the next start only looks whether the file has changed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from airdraft.errors import ModelError
from airdraft.models.files.config import read_json
from airdraft.models.files.kept import keep, recall

_log = logging.getLogger(__name__)

BYTES = 16
STEPS = 256
"""Steps of a probe in a nat."""
ROUNDING = 32
"""Steps by which two probes of one target may differ: an eighth of a nat. In 16-bit types the rows of one model differ
by less, from one width of a forward to another; rows of other weights do not all come that close."""
_PART_BYTES = 32 << 20
_READ_BYTES = 1 << 20
_THREADS = 8
_WORTH_BYTES = 64 << 20
"""A smaller file is hashed anew each time: that takes a moment."""
_SETTLED_NS = 2_000_000_000
"""A file that changed less than so long ago may change again within the same tick of its file system's clock."""
_KEPT = "digests"
_ASIDE = ("_name_or_path", "transformers_version")
"""What a config.json says of its own history."""


def digest(*parts: bytes) -> bytes:
    """16 bytes that are equal for equal parts, and for no others."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8, "little") + part)
    return whole.digest()[:BYTES]


def same(one: bytes, other: bytes) -> bool:
    """Whether two targets may take over each other's texts. One that nobody describes is like none, itself included.

    After the 16 bytes that must be equal may come a probe, whose numbers may differ by rounding.
    """
    if one[:BYTES] != other[:BYTES] or len(one) != len(other) or len(one) < BYTES or len(one) % 2:
        return False
    values = [np.frombuffer(each[BYTES:], "<i2").astype(int) for each in (one, other)]
    return bool(np.all(np.abs(values[0] - values[1]) <= ROUNDING))


def probe(logprobs: Sequence[float]) -> bytes:
    """Log-probabilities for the end of a digest, each in 16 bits."""
    scaled = np.rint(np.asarray(logprobs, float) * STEPS)
    return bytes(np.clip(scaled, -(1 << 15), (1 << 15) - 1).astype("<i2").tobytes())


def files_digest(files: Iterable[Path]) -> bytes:
    """16 bytes of what these files hold, in their order, whatever they are called and wherever they lie.

    Of a JSON file counts what it says, not how it is laid out.
    Raises: `ModelError` if one cannot be read, or changes meanwhile.
    """
    return digest(*(_config(file) if file.suffix == ".json" else file_digest(file) for file in files))


def file_digest(path: Path) -> bytes:
    """32 bytes of all that a file holds. A large file that has not changed since the last time is not read again.

    Raises: `ModelError` if it cannot be read, or changes meanwhile.
    """
    try:
        before = path.stat()
        whose = repr((str(path.resolve()), _state(before))).encode("utf-8", "surrogateescape")
        key = hashlib.sha256(whose).hexdigest() if before.st_size >= _WORTH_BYTES else None
        if key is not None and (known := _known(key)) is not None:
            return known
        # Too new a file may still change without a trace; the clock is that of the file system, as far as known.
        settled = time.time_ns() - max(before.st_mtime_ns, before.st_ctime_ns) > _SETTLED_NS
        found = _hashed(path, before.st_size)
        if _state(path.stat()) != _state(before):
            raise ModelError(f"{path} changed while it was read; start again when it is complete")
    except OSError as problem:
        raise ModelError(f"{path} cannot be read ({problem.strerror}); fetch it again") from problem
    if key is not None and settled:
        keep(_KEPT, key, found.hex())
    return found


def _hashed(path: Path, size: int) -> bytes:
    """SHA-256 of the size and the SHA-256 of each part."""

    def part(start: int) -> bytes:
        own, left = hashlib.sha256(), min(_PART_BYTES, size - start)
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            while left > 0 and (piece := file.read(min(left, _READ_BYTES))):
                own.update(piece)
                left -= len(piece)
        return own.digest()

    starts = range(0, size, _PART_BYTES)
    if len(starts) < 2:
        parts = [part(start) for start in starts]
    else:
        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:  # SHA-256 leaves the interpreter free
            parts = list(pool.map(part, starts))
    return hashlib.sha256(size.to_bytes(8, "little") + b"".join(parts)).digest()


def _config(path: Path) -> bytes:
    """What a config says of the model, in one spelling."""
    said = {name: value for name, value in read_json(path).items() if name not in _ASIDE}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode("utf-8", "surrogatepass")).digest()


def _state(stat: os.stat_result) -> tuple[int, ...]:
    """What changes when a file does: a copy over it, even one that keeps times, changes the last."""
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _known(key: str) -> bytes | None:
    """The digest that is kept of a state of a file; None if there is none, or something else is there."""
    try:
        found = bytes.fromhex(recall(_KEPT, key) or "")
    except ValueError:
        return None
    return found if len(found) == hashlib.sha256().digest_size else None


def of_target(info_digest: bytes, files: Iterable[Path], tokenizer: bytes) -> bytes:
    """The digest of a target, whole: of its files, of what its engine says besides, and of its tokenizer.

    info_digest: of the engine, see `EngineInfo.digest`; a probe at its end stays there, to be compared as such.
    """
    return digest(files_digest(files), info_digest[:BYTES], tokenizer) + info_digest[BYTES:]


def words(*said: Any) -> bytes:
    """The digest of what an engine says of itself."""
    return digest(*(str(each).encode("utf-8", "surrogatepass") for each in said))
